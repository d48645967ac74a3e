"""A skill that fails, hangs or crashes ends its command, and never the agent."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from paddock.agent import skills
from paddock.agent.alerts import Alerts
from paddock.agent.skills.skill import Place
from paddock.wire.messages import Code, Failure, Success
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import Desk

pytestmark = pytest.mark.slow

BAD = """
import asyncio, threading
from contextlib import asynccontextmanager

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Program, Read, Work, in_thread
from paddock.core.access import Role
from paddock.wire.methods import Effect, Method, Toward


class Own(BaseException):
    pass


def row(name, task=True, effect=Effect.ONCE):
    return Method(name=name, caption="Fail.", toward=Toward.AGENT, effect=effect, role=Role.PERSON, task=task)


def raising(exc):
    async def act(call):
        raise exc

    return Work(act=act)


def raised(exc):
    raise exc


async def in_a_thread(call):
    return await in_thread(lambda: raised(SystemExit(3)))


async def read(call):
    raise SystemExit(3)


async def hang(call):
    await asyncio.Event().wait()


async def hang_in_a_thread(call):
    return await in_thread(lambda: threading.Event().wait())


async def cancel_itself(call):
    raise asyncio.CancelledError


async def nonsense(call):
    return 7


def stop(call):
    raise SystemExit(3)


DEEDS = {
    "bad.error": raising(RuntimeError("no")),
    "bad.exit": raising(SystemExit(3)),
    "bad.interrupt": raising(KeyboardInterrupt()),
    "bad.own": raising(Own("mine")),
    "bad.memory": raising(MemoryError()),
    "bad.thread_exit": Work(act=in_a_thread),
    "bad.cancels_itself": Work(act=cancel_itself),
    "bad.prepare": Program(prepare=stop, conclude=lambda call, ended: Outcome()),
    "bad.hangs": Work(act=hang),
    "bad.thread_hangs": Work(act=hang_in_a_thread),
    "bad.reads": Read(answer=read),
}
METHODS = (
    *(row(name) for name in DEEDS if name != "bad.reads"),
    row("bad.reads", task=False, effect=Effect.READ),
)


@asynccontextmanager
async def opened(place):
    tries = []

    async def duty():
        tries.append(1)
        raise SystemExit(4)

    place.keep("bad duty", duty)
    yield DEEDS
    raise RuntimeError("it does not end well either")
"""


def install(host: Host, name: str, text: str) -> None:
    """As pip would, in a directory that the agent finds modules in."""
    packages = host.state.parent / "packages"
    notes = packages / f"skill_of_{name}-1.0.dist-info"
    notes.mkdir(parents=True)
    (packages / f"skill_of_{name}.py").write_text(text)
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: skill_of_{name}\nVersion: 1.0\n")
    (notes / "entry_points.txt").write_text(f"[paddock.skills]\n{name} = skill_of_{name}\n")
    host.env["PYTHONPATH"] = f"{SOURCE}:{packages}"


async def lives(desk: Desk, number: int) -> None:
    answer = await desk.ask(desk.command(f"status-{number}", "status"))
    assert isinstance(answer, Success)


async def test_whatever_a_skill_raises_ends_its_command_only(desk: Desk, host: Host) -> None:
    install(host, "bad", BAD)
    host.start("--skills", "script,system,bad")
    assert (await desk.here()).hello.skills == ("script", "system", "bad")
    assert host.process is not None
    pid = host.process.pid
    expected = {
        "bad.error": "RuntimeError: no",
        "bad.exit": "bad.exit: the skill raised SystemExit: 3",
        "bad.interrupt": "bad.interrupt: the skill raised KeyboardInterrupt: ",
        "bad.own": "bad.own: the skill raised Own: mine",
        "bad.memory": "MemoryError: ",
        "bad.thread_exit": "the skill raised SystemExit: 3",
        "bad.prepare": "SystemExit: 3",
    }
    for number, (method, why) in enumerate(expected.items()):
        await desk.say(desk.command(method, method))
        status = await desk.final(method)
        assert (status.code, status.msg) == (Code.FAILED, why)
        await lives(desk, number)
    answer = await desk.ask(desk.command("r", "bad.reads"))
    assert isinstance(answer, Failure)
    assert answer.msg == "SystemExit: 3"
    await desk.say(desk.command("c", "bad.cancels_itself"))
    assert (await desk.final("c")).code is Code.CANCELLED
    await desk.until(lambda: any(line["fields"].get("duty") == "bad duty" for line in desk.logs))
    await lives(desk, 99)
    assert host.process.pid == pid
    assert len(desk.hellos) == 1


async def test_one_that_hangs_is_ended_by_its_limit_or_by_a_cancel(desk: Desk, host: Host) -> None:
    install(host, "bad", BAD)
    host.start("--skills", "script,system,bad")
    await desk.say(desk.command("h", "bad.hangs", limit=0.3))
    assert (await desk.final("h")).code is Code.TIMED_OUT
    await desk.say(desk.command("h2", "bad.hangs"))
    await desk.ask(desk.command("x", "task.cancel", task_id="h2"))
    assert (await desk.final("h2")).code is Code.CANCELLED


async def test_a_thread_that_never_ends_holds_up_nobody_else_and_not_the_agents_end(desk: Desk, host: Host) -> None:
    install(host, "bad", BAD)
    host.start("--skills", "script,file,system,bad")
    for number in range(10):
        await desk.say(desk.command(f"t{number}", "bad.thread_hangs", limit=0.2))
    answer = await desk.ask(desk.command("p", "file.put", path="a", data="YQ=="))
    assert isinstance(answer, Success)
    await desk.ask(desk.command("s", "script.run", run="echo up"))
    assert await desk.whole("s") == b"up\n"
    # Nobody can say that it has ended, so nobody does.
    assert not any(name.startswith("t") for name in desk.finals)
    assert host.process is not None
    host.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(host.process.wait, 8) == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("import nothing_of_that_name", "No module named"),
        ("def methods(place):\n    raise OSError('no such device')", "no such device"),
        (
            "from contextlib import asynccontextmanager\n@asynccontextmanager\nasync def opened(place):\n    yield 1/0",
            "division",
        ),
        ("def methods(place):\n    return {'script.run': None}", "script.run is not a method of its own"),
    ],
    ids=["exits", "is not there", "cannot begin", "cannot be opened", "takes what is not its own"],
)
async def test_the_agent_runs_without_a_skill_that_cannot_be_opened_and_says_so(
    desk: Desk, host: Host, text: str, why: str
) -> None:
    install(host, "horns", text)
    host.start("--skills", "script,system,horns")
    assert (await desk.here()).hello.skills == ("script", "system")
    await desk.until(lambda: bool(desk.alerts))
    (alert,) = desk.alerts
    assert (alert["subject"], alert["level"], alert["state"]) == ("skill horns", "error", "raised")
    assert why in alert["msg"]
    answer = await desk.ask(desk.command("h", "horns.blow"))
    assert isinstance(answer, Failure)
    assert answer.code is Code.UNKNOWN_METHOD
    await desk.ask(desk.command("s", "script.run", run="true"))
    assert (await desk.final("s")).state == "complete"
    host.kill()
    (host.state.parent / "packages" / "skill_of_horns.py").write_text("def methods(place):\n    return {}\n")
    host.start("--skills", "script,system,horns")
    await desk.until(lambda: any(one["state"] == "over" for one in desk.alerts))


HANGS = """
import asyncio
from contextlib import asynccontextmanager


@asynccontextmanager
async def opened(place):
    await asyncio.Event().wait()
    yield {}
"""


async def test_one_that_never_opens_is_left_out_after_a_while(
    desk: Desk, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(host, "sloth", HANGS)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
    monkeypatch.setattr(skills, "_OPEN_LIMIT", 0.1)
    alerts = Alerts(tmp_path / "alerts")
    place = Place(work=tmp_path, temporary=tmp_path, tasks=tmp_path, state=tmp_path / "state", alerts=alerts)
    async with asyncio.timeout(10), skills.opened(place, ("script", "sloth")) as known:
        assert known.names == ("script",)
    assert alerts.find("skill sloth") is not None
