"""The seventeen defects of dcm-agent's protocol layer, each shown to be impossible here.

dcm-agent is the program whose promises this agent keeps; each test says what went wrong there.
"""

import asyncio
import itertools
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from paddock.agent import identity
from paddock.agent.entry import State
from paddock.agent.identity import Identity
from paddock.agent.ledger import peek
from paddock.hands import trees
from paddock.hands.launcher import read_keeper
from paddock.wire.hello import TaskState
from paddock.wire.messages import Code, Failure, Success
from paddock.wire.methods import METHODS, Toward
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import Desk

pytestmark = pytest.mark.slow


def counting(count: Path, word: str, rest: str = "") -> str:
    """A script that leaves a durable trace each time it runs."""
    return f"echo {word} >> {count}; sync {count}\n{rest}\n"


def waiting(gate: Path) -> str:
    return f"while ! test -e {gate}; do sleep 0.02; done"


async def works(desk: Desk, host: Host, id: str = "works") -> bool:
    """Whether the agent still carries out commands."""
    await desk.ask(desk.command(id, "script.run", run="exit 0"))
    return host.is_alive and (await desk.final(id)).state is TaskState.COMPLETE


async def test_p01_a_command_right_behind_the_welcome_is_carried_out(desk: Desk, host: Host, tmp_path: Path) -> None:
    """There: what came before the queue was drained was lost, which it never was."""
    for number in range(20):
        command = desk.command(f"t{number}", "script.run", run=counting(tmp_path / "count", f"t{number}"))
        desk.unanswered[command.id] = ("host", command)  # the desk sends these in the same breath as its welcome
    host.start()
    for number in range(20):
        await desk.final(f"t{number}")
    assert sorted((tmp_path / "count").read_text().split()) == sorted(f"t{number}" for number in range(20))


async def test_p02_cancelling_a_running_command_ends_it_and_not_the_agent(desk: Desk, host: Host) -> None:
    """There: the agent's process ended with code 1."""
    host.start()
    await desk.ask(desk.command("long", "script.run", run="echo up; sleep 300"))
    await desk.until(lambda: desk.streams["long", "out"] == b"up\n")
    for number in range(3):
        answer = await desk.ask(desk.command(f"end{number}", "task.cancel", task_id="long", grace=0.1))
        assert isinstance(answer, Success)
    assert (await desk.final("long")).code is Code.CANCELLED
    unknown = await desk.ask(desk.command("nobody", "task.cancel", task_id="nobody"))
    assert isinstance(unknown, Failure)
    assert await works(desk, host)


async def test_p03_a_question_for_the_state_is_answered(desk: Desk, host: Host, tmp_path: Path) -> None:
    """There: always refused, because of a keyword that did not exist."""
    host.start()
    command = desk.command("t", "script.run", run=waiting(tmp_path / "go"))
    await desk.ask(command)
    await desk.until(lambda: any(one.state is TaskState.RUNNING for one in desk.statuses))
    status = await desk.ask(desk.command("s", "status"))
    assert isinstance(status, Success)
    assert status.result["tasks"] == 1
    running = await desk.ask(command)  # of one command: by asking it again
    assert isinstance(running, Success)
    assert running.result["task_id"] == "t"
    (tmp_path / "go").touch()
    await desk.final("t")
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    over = await desk.ask(command)
    assert isinstance(over, Success)
    assert over.result == {"task_id": "t", "state": "complete"}


async def test_p04_commands_without_arguments_are_refused_by_name_and_cost_nothing(desk: Desk, host: Host) -> None:
    """There: acknowledged, and a worker died; after two of them nothing was executed any more."""
    host.start()
    here = await desk.here()
    needy = [
        method
        for method in METHODS.values()
        if method.toward is not Toward.SERVER
        and method.name in here.hello.methods
        and (method.one_of or any(param.required for param in method.params))
    ]
    assert len(needy) > 5
    for turn in range(3):
        for method in needy:
            answer = await desk.ask(desk.command(f"{method.name}-{turn}", method.name))
            assert isinstance(answer, Failure)
            assert answer.code is Code.BAD_PARAMS, method.name
            assert "params." in answer.msg
    assert await works(desk, host)


async def test_p05_bytes_that_are_no_text_arrive_as_they_are(desk: Desk, host: Host) -> None:
    """There: one byte that is no UTF-8 killed the only process that could run anything."""
    host.start()
    every = bytes(range(256)) * 20
    octal = "".join(f"\\{byte:03o}" for byte in range(256))
    run = f"for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do printf '{octal}'; done"
    for number in range(3):
        await desk.ask(desk.command(f"t{number}", "script.run", run=run))
        assert (await desk.final(f"t{number}")).state is TaskState.COMPLETE
        assert await desk.whole(f"t{number}") == every
    assert await works(desk, host)


async def test_p06_a_repeat_after_everything_was_acknowledged_gets_the_whole_answer(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    """There: the stored answer had been erased, and nothing came."""
    host.start()
    command = desk.command("t", "script.run", run=counting(tmp_path / "count", "t", "echo words; exit 7"))
    await desk.ask(command)
    first = await desk.final("t")
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    assert [one.state for one in peek(host.state / "ledger", limit=5)] == [State.ACKNOWLEDGED]
    answer = await desk.ask(command)
    assert isinstance(answer, Success)
    await desk.until(lambda: len(desk.finals["t"]) == 2)
    assert desk.finals["t"][1] == first
    assert first.result == {"exit": 7, "dropped": 0}
    assert first.outputs == {"out": 6}
    assert (tmp_path / "count").read_text() == "t\n"


async def test_p07_what_a_crash_interrupts_is_told_unasked_in_words_of_the_protocol_and_not_run_again(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    """There: a text with JSON in it instead of an answer, and only when somebody asked."""
    host.start()
    command = desk.command("t", "script.run", run=counting(tmp_path / "count", "t", "echo up; sleep 300"))
    await desk.ask(command)
    await desk.until(lambda: desk.streams["t", "out"] == b"up\n")
    keeper = read_keeper(host.state / "tasks" / "t")
    assert keeper is not None
    host.kill()
    trees.send(keeper, signal.SIGKILL)  # with its keeper alive it would simply have gone on
    host.start()
    status = await desk.final("t")
    assert status.state is TaskState.ERROR
    assert status.code is Code.INTERRUPTED
    assert status.msg is not None
    assert "keeper" in status.msg
    await desk.ask(command)
    assert await works(desk, host)
    assert (tmp_path / "count").read_text() == "t\n"


async def test_p08_a_stop_and_a_start_forget_nothing(desk: Desk, host: Host, tmp_path: Path) -> None:
    """There: stopping in order wiped what was older than 14.4 ms, and a repeat was executed a second time."""
    host.start()
    command = desk.command("t", "script.run", run=counting(tmp_path / "count", "t", "exit 3"))
    await desk.ask(command)
    await desk.final("t")
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    for _ in range(2):
        assert host.process is not None
        host.process.terminate()
        await asyncio.to_thread(host.process.wait, 10)
        await desk.until(lambda: not desk.seats)
        host.start()
        answer = await desk.ask(command)
        assert isinstance(answer, Success)
        assert answer.result["state"] == "complete"
    assert (tmp_path / "count").read_text() == "t\n"


async def test_p09_pruning_spares_what_runs_and_its_end_is_told(desk: Desk, host: Host, tmp_path: Path) -> None:
    """There: the hourly sweep deleted the row of a running job, whose reply then could not be stored or sent."""
    host.start("--retention", str(0.5 / 86_400))
    await desk.ask(desk.command("long", "script.run", run=f"{waiting(tmp_path / 'go')}; exit 4"))
    before = desk.command("short", "script.run", run="true")
    await desk.ask(before)
    await desk.final("short")
    await desk.ask(desk.command("after", "script.run", run="true"))
    await desk.final("after")
    await asyncio.sleep(2.5)  # two sweeps at least; nothing tells of one that found nothing
    known = {one.id: one.state for one in peek(host.state / "ledger", limit=10)}
    assert known["long"] is State.STARTED
    (tmp_path / "go").touch()
    status = await desk.final("long")
    assert status.result == {"exit": 4, "dropped": 0}

    async with asyncio.timeout(20):  # once it is over, it is forgotten like all others
        while peek(host.state / "ledger", limit=10):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


async def test_p10_however_often_it_is_asked_an_end_is_told_in_one_rhythm(
    desk: Desk, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There: each repeat started another timer, and four of them told the same reply every five seconds."""
    host.start()
    await desk.here()
    desk.takes_status = False
    told: list[float] = []
    take = desk._status

    def status(command):
        if command.params["task_id"] == "t" and command.params["state"] == "complete":
            told.append(time.monotonic())
        return take(command)

    monkeypatch.setattr(desk, "_status", status)
    command = desk.command("t", "script.run", run="true")
    await desk.ask(command)
    await desk.until(lambda: told)
    for _ in range(3):
        await desk.ask(command)
    await desk.until(lambda: len(told) == 4)  # who asks is answered at once, each time
    await desk.until(lambda: len(told) >= 6, limit=20)
    await asyncio.sleep(1)
    desk.takes_status = True
    await desk.final("t")
    gaps = [later - earlier for earlier, later in itertools.pairwise(told[4:])]
    assert gaps
    assert min(gaps) > 4  # and then one repetition at a time


async def test_p11_what_the_server_gave_up_is_over_for_the_agent_too(desk: Desk, host: Host, tmp_path: Path) -> None:
    """There: its row stayed open for ever, and came back as lost after a restart."""
    host.start()
    command = desk.command("t", "script.run", run=counting(tmp_path / "count", "t", waiting(tmp_path / "go")))
    await desk.ask(command)
    await desk.until(lambda: (tmp_path / "count").exists())
    desk.forget.add("t")
    await desk.drop_all()
    await desk.until(lambda: len(desk.hellos) == 2)
    (tmp_path / "go").touch()
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    host.kill()
    host.start()
    await desk.until(lambda: len(desk.hellos) == 3)
    assert desk.hellos[-1].tasks == ()
    assert [one.state for one in peek(host.state / "ledger", limit=5)] == [State.ACKNOWLEDGED]
    assert (tmp_path / "count").read_text() == "t\n"


async def test_p12_a_server_that_welcomes_and_hangs_up_is_not_stormed(desk: Desk, host: Host) -> None:
    """There: 18 connections a second, because each welcome reset the patience."""
    desk.drops_at_once = True
    host.start()
    await desk.until(lambda: desk.hellos)
    began = time.monotonic()
    await asyncio.sleep(4)
    assert len(desk.hellos) - 1 <= time.monotonic() - began
    desk.drops_at_once = False
    await desk.here()
    assert await works(desk, host)


@pytest.mark.parametrize("lengths", [(95, 30), (30, 95), (200, 1)])
def test_p13_a_token_that_is_written_over_a_longer_one_has_nothing_of_it(
    tmp_path: Path, lengths: tuple[int, int]
) -> None:
    """There: the file was not truncated, and the token was that one with the tail of an older one."""
    first, second = (Identity(agent="a", token=letter * length) for letter, length in zip("xy", lengths, strict=True))
    identity.save(tmp_path, first)
    identity.save(tmp_path, second)
    assert identity.load(tmp_path) == second
    assert "x" not in (tmp_path / identity.FILE).read_text()
    (tmp_path / f"{identity.FILE}.new").write_text("z" * 500)  # half a write that a crash has left
    assert identity.load(tmp_path) == second
    identity.save(tmp_path, first)
    assert identity.load(tmp_path) == first


async def test_p14_five_hundred_scripts_leave_no_descriptor_and_no_directory(desk: Desk, host: Host) -> None:
    """There: a descriptor a command in one process, two in the other, and a directory: dead after 500."""
    host.start()
    await desk.here()
    assert host.process is not None
    assert await works(desk, host)
    descriptors = f"/proc/{host.process.pid}/fd"
    before = len(os.listdir(descriptors))
    resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (128, 128))  # type: ignore[attr-defined]
    names = [f"t{number}" for number in range(500)]
    for start in range(0, 500, 20):
        for name in names[start : start + 20]:
            await desk.say(desk.command(name, "script.run", run="echo printed"))
        for name in names[start : start + 20]:
            assert (await desk.final(name, limit=60)).state is TaskState.COMPLETE
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    assert not any((host.state / "tmp").iterdir())
    await desk.until(lambda: len(os.listdir(descriptors)) <= before + 3)


@pytest.mark.parametrize("module", ["no_such_module", "paddock_broken"])
async def test_p15_a_skill_that_cannot_be_imported_keeps_nobody_from_saying_hello(
    desk: Desk, host: Host, tmp_path: Path, module: str
) -> None:
    """There: one plugin of a default installation could not be imported, and the handshake was never sent."""
    place = tmp_path / "installed"
    (place / "broken-1.0.dist-info").mkdir(parents=True)
    (place / "broken-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (place / "broken-1.0.dist-info" / "entry_points.txt").write_text(f"[paddock.skills]\nbroken = {module}\n")
    (place / "paddock_broken.py").write_text("raise RuntimeError('half installed')\n")
    host.start("--skills", "script,broken", PYTHONPATH=f"{SOURCE}{os.pathsep}{place}")
    here = await desk.here()
    assert "script.run" in here.hello.methods
    assert not any(method.startswith("broken.") for method in here.hello.methods)
    assert await works(desk, host)
    refused = await desk.ask(desk.command("b", "broken.fix"))
    assert isinstance(refused, Failure)
    assert refused.code is Code.UNKNOWN_METHOD
    assert "broken" in host.log.read_text()  # and somebody is told why


async def test_p16_a_refusal_is_recorded_as_nothing_at_all(desk: Desk, host: Host, tmp_path: Path) -> None:
    """There: a refused request was stored as accepted."""
    host.start()
    for params in ({}, {"run": "true", "argv": ["true"]}, {"run": "true", "limit": -1}, {"run": 5}):
        answer = await desk.ask(desk.command("t", "script.run", **params))
        assert isinstance(answer, Failure)
        assert answer.code is Code.BAD_PARAMS
    stale = desk.command("t", "script.run", run="true")
    first = desk.command("other", "script.run", run="true")
    await desk.ask(first)
    await desk.final("other")
    old = await desk.ask(type(stale)(id="t", method="script.run", params={"run": "true"}, seq=99, epoch=0))
    assert isinstance(old, Failure)
    assert old.code is Code.STALE
    assert [one.id for one in peek(host.state / "ledger", limit=10)] == ["other"]
    good = desk.command("t", "script.run", run=counting(tmp_path / "count", "t"))
    assert isinstance(await desk.ask(good), Success)  # the id was never used
    await desk.final("t")
    assert (tmp_path / "count").read_text() == "t\n"


async def test_p17_what_is_said_into_a_dying_connection_is_said_again_and_the_old_socket_is_closed(
    desk: Desk, host: Host
) -> None:
    """There: the message in hand was lost, and the socket stayed open."""
    host.start()
    await desk.here()
    assert host.process is not None
    pid, size = host.process.pid, 3_000_000
    desk.lose_answers = True  # statuses and output are taken, and the agent never hears of it
    names = [f"t{number}" for number in range(10)]
    for name in names:
        await desk.say(desk.command(name, "script.run", run=f"yes {name} | head -c {size // 10}"))
    for turn in range(3):
        await desk.until(lambda: desk.finals)
        await desk.drop_all()
        await desk.until(lambda count=turn + 2: len(desk.hellos) >= count)
    desk.lose_answers = False
    await desk.drop_all()
    for name in names:
        line = f"{name}\n".encode()
        assert await desk.whole(name, limit=60) == (line * (size // len(line)))[: size // 10]
        assert {one.state for one in desk.finals[name]} == {TaskState.COMPLETE}
    await desk.until(lambda: not any((host.state / "tasks").iterdir()))
    await desk.until(lambda: _connections(pid, desk.port) == 1)


def _connections(pid: int, port: int) -> int:
    """How many connections to this port the process has open, in whatever state."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    theirs = {row[9] for row in rows if row[2].endswith(f":{port:04X}")}
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except OSError:
            continue
        found += match is not None and match.group(1) in theirs
    return found


def test_every_defect_has_its_test() -> None:
    assert shutil.which("sync") is not None  # the victims count with it
    names = {name.split("_")[1] for name in globals() if name.startswith("test_p")}
    assert names == {f"p{number:02}" for number in range(1, 18)}
