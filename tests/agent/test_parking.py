"""A guest that is parked: woken once, as somebody, at once; and nobody again when its host says so."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.agent.ledger import Ledger
from paddock.agent.parking import cards
from paddock.agent.skills.hypervisor.inside import Inside
from paddock.core.errors import Broken
from paddock.hands import links
from paddock.hands.keeper import boot_id
from paddock.wire.messages import Command, Failure, Success, encode, parse
from tests.agent.berth import LIMIT, MAC, Parked, card, parked, wake
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.guest import MACHINE

pytestmark = pytest.mark.slow

SHELL = "/bin/sh -e"
WAKING = (
    *("waking.begun", "waking.seeded", "waking.heard", "settling.named", "settling.keyed", "settling.listed"),
    *("waking.answered", "settling.begun", "settling.stamped", "settling.flushed", "settling.recorded"),
    "settling.done",
)
REHEARSED = frozenset(WAKING[:6])
"""Points that each parked process passes once before: it rehearses a wake."""
PARKING = (
    *("parking.marking", "parking.marked", "parking.nobody", "parking.ended", "parking.emptied", "parking.cleaned"),
    *("parking.forgotten", "parking.answering"),
)


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[Parked]:
    async with parked(tmp_path) as made:
        yield made


async def _woken(guest: Parked, **other: object) -> Inside:
    inside = guest.inside()
    await inside.wake(wake(**other), LIMIT)  # type: ignore[arg-type]
    return inside


async def _out(inside: Inside, script: str) -> str:
    said: list[bytes] = []
    assert await inside.run(script, interpreter=SHELL, env={}, limit=LIMIT, output=said.append) == 0
    return b"".join(said).decode()


async def test_it_is_who_its_host_says_and_says_hello_on_the_same_line(guest: Parked) -> None:
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    assert guest.record is None
    assert await inside.wake(wake(), LIMIT) == f"{boot_id()}+wake-1"
    hello = await inside.hello(LIMIT)
    assert (hello.agent, hello.token, hello.boot_id) == (None, None, f"{boot_id()}+wake-1")
    assert hello.fences == {"lab-7": 41}
    assert hello.ledger.startswith("ledger-")
    await _out(inside, "true")  # by then it has settled
    found = guest.record
    assert found is not None
    assert (found.environment, found.machine, found.fence, found.wake_id) == ("lab-7", "web", 41, "wake-1")
    await inside.close()


async def test_its_first_hello_has_the_addresses_that_it_was_given(guest: Parked) -> None:
    """Its cards come up a moment later."""
    guest.start()
    inside = await _woken(guest, macs=(MAC,), addresses=("192.168.80.10/24",))
    assert (await inside.hello(LIMIT)).facts.addresses == ("192.168.80.10",)
    await inside.close()


async def test_entropy_comes_first_and_all_is_flushed_before_anything_is_done(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest)
    assert guest.told[:4] == ["let go", "seed 64", "clock 2026-11-20T12:00:00+00:00", "name web-1"]
    assert "sync" in (await _out(inside, f"cat {guest.root}/run/paddock/told")).splitlines()
    assert guest.record is not None
    assert not guest.heard.exists(), "what it was told is not kept twice"
    await inside.close()


@pytest.mark.parametrize("point", ["waking.answered", "settling.listed:2", "settling.flushed"])
async def test_a_wake_that_a_power_cut_found_before_it_was_recorded_is_none(guest: Parked, point: str) -> None:
    guest.start(fault=point)
    inside = await _woken(guest, macs=(MAC,), addresses=("192.168.80.10/24",))
    await guest.died()
    await inside.close()
    of_another_boot = guest.heard.read_text().replace(boot_id(), "another boot")
    guest.heard.write_text(of_another_boot)
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    assert guest.record is None
    card(guest.root, 2, MAC)
    await inside.wake(wake("wake-2", hostname="web-2", host_keys={}), LIMIT)
    assert await _out(inside, "echo ran") == "ran\n"
    assert guest.text("etc/hostname") == "web-2\n"
    assert "web-1" not in guest.text("etc/hosts"), "what half of a wake has left is not the next one's"
    await inside.park(LIMIT)
    assert not (guest.root / "etc/ssh/ssh_host_ed25519_key").exists()
    await inside.close()


async def test_half_of_what_was_heard_is_nothing(guest: Parked) -> None:
    guest.start(fault="waking.answered")
    inside = await _woken(guest)
    await guest.died()
    await inside.close()
    guest.heard.write_text(guest.heard.read_text()[:-40])
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    await inside.wake(wake("wake-2"), LIMIT)
    await inside.close()


async def test_what_tells_it_from_others_is_on_its_disk(guest: Parked) -> None:
    guest.start()
    card(guest.root, 2, MAC)
    inside = await _woken(guest, macs=(MAC,), addresses=("192.168.80.10/24",))
    await _out(inside, "true")  # by then it has settled
    assert guest.text("etc/hostname") == "web-1\n"
    assert guest.text("etc/machine-id") == "0123456789abcdef0123456789abcdef\n"
    assert guest.text("etc/ssh/ssh_host_ed25519_key") == "a private key\n"
    assert (guest.root / "etc/ssh/ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
    assert (guest.root / "etc/ssh/ssh_host_ed25519_key.pub").stat().st_mode & 0o777 == 0o644
    assert (guest.root / "root/.ssh/paddock").stat().st_mode & 0o777 == 0o600
    assert guest.text("root/.ssh/authorized_keys").splitlines()[0] == "ssh-ed25519 BBBB the operator"
    assert "ssh-ed25519 AAAA somebody" in guest.text("root/.ssh/authorized_keys")
    assert "192.168.80.11 db\n" in guest.text("etc/hosts")
    assert 'http_proxy="http://10.0.2.100:3128"\n' in guest.text("etc/environment")
    assert "Address=192.168.80.10/24" in guest.text("etc/systemd/network/05-paddock-525400123456.network")
    await inside.close()


async def test_every_task_has_the_variables_of_its_machine(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest)
    assert await _out(inside, "echo $http_proxy") == "http://10.0.2.100:3128\n"
    guest.kill()
    guest.start()
    assert await _out(inside, "echo $http_proxy") == "http://10.0.2.100:3128\n"
    await inside.park(LIMIT)
    await inside.wake(wake("wake-2", env={}), LIMIT)
    assert await _out(inside, "echo ${http_proxy-none}") == "none\n"
    await inside.close()


async def test_while_it_is_parked_everything_else_is_refused_by_name(guest: Parked) -> None:
    guest.start()
    link = await links.connect(f"serial:{guest.hypervisor.socket}")
    async with asyncio.timeout(40):
        first = parse(await link.receive())
        assert isinstance(first, Command)
        assert first.method == "parked"
        for method in ("script.run", "status", "task.cancel", "hello", "file.get"):
            await link.send(encode(Command(id=method, method=method, params={"run": "true"})))
            answer = parse(await link.receive())
            assert isinstance(answer, Failure)
            assert answer.msg == f"{method}: this machine is parked, it takes wake and nothing else"
        await link.send(encode(Command(id="p", method="ping", params={"n": 1})))
        assert parse(await link.receive()) == Success(id="p", result={"n": 1})
    await link.close("")
    assert not any(guest.state.glob("tasks/*"))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"machine_id": "0" * 32}, "params.machine_id"),
        ({"machine_id": "xyz"}, "params.machine_id"),
        ({"hostname": "a b"}, "params.hostname"),
        ({"hostname": "-a"}, "params.hostname"),
        ({"wake_id": "a/b"}, "params.wake_id"),
        ({"host_keys": {"../shadow": "x"}}, "params.host_keys"),
        ({"host_keys": {"sshd_config": "x"}}, "params.host_keys"),
        ({"authorized_keys": ("a\nb",)}, "params.authorized_keys[0]"),
        ({"macs": (MAC,)}, "params.addresses"),
        ({"macs": ("52-54-00-12-34-56",), "addresses": ("",)}, "params.macs[0]"),
        ({"macs": (MAC,), "addresses": ("300.1.1.1/24",)}, "params.addresses[0]"),
        ({"env": {"A B": "x"}}, "params.env"),
        ({"env": {"A": 'x"\n'}}, "params.env"),
        ({"restart": ("--now",)}, "params.restart[0]"),
        ({"entropy": bytes(8)}, "params.entropy"),
    ],
)
async def test_a_wake_that_cannot_be_meant_is_refused_before_anything_is_touched(
    guest: Parked, wrong: dict[str, object], why: str
) -> None:
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    before = guest.files()
    with pytest.raises(Broken) as refused:
        await inside.wake(wake(**wrong), LIMIT)
    assert why in refused.value.message
    assert guest.files() == before
    assert guest.told == ["let go"]
    # Nothing is lost: the next one is taken.
    await inside.wake(wake(), LIMIT)
    await inside.close()


async def test_what_cannot_be_kept_leaves_it_parked_and_says_why(guest: Parked) -> None:
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    guest.heard.mkdir()
    with pytest.raises(Broken, match=r"wake: .*run/paddock/wake: Is a directory"):
        await inside.wake(wake(), LIMIT)
    guest.heard.rmdir()
    await inside.wake(wake(), LIMIT)
    await _out(inside, "true")
    assert guest.record is not None
    await inside.close()


async def test_what_cannot_be_written_is_an_alert_and_is_tried_again(guest: Parked) -> None:
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    (guest.root / "etc/ssh").write_text("not a directory\n")
    await inside.wake(wake(), LIMIT)
    assert await _out(inside, "echo ran") == "ran\n", "it is there all the same"
    assert "etc/ssh" in (guest.state / "alerts").read_text()
    assert guest.record is None
    (guest.root / "etc/ssh").unlink()
    guest.kill()
    guest.start()
    assert await _out(inside, "echo ran") == "ran\n"
    assert guest.record is not None
    assert guest.text("etc/ssh/ssh_host_ed25519_key") == "a private key\n"
    await inside.close()


async def test_it_is_woken_once(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest)
    await inside.hello(LIMIT)
    again = await inside._ask("wake", wake("wake-1").params())
    assert again == {"boot_id": f"{boot_id()}+wake-1"}, "the answer may have got lost: the same is answered again"
    with pytest.raises(Broken, match="wake: is not parked, it is lab-7/web"):
        await inside._ask("wake", wake("wake-2", hostname="other").params())
    await _out(inside, "true")
    assert guest.text("etc/hostname") == "web-1\n"
    await inside.close()


async def test_woken_it_says_hello_at_once_when_it_is_begun_again(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest)
    ledger = (await inside.hello(LIMIT)).ledger
    await _out(inside, "true")  # by then it has settled
    guest.kill()
    told = len(guest.told)
    guest.start()
    while (inside.said is None) or inside._session.is_welcome is False or len(guest.told) == told:
        await inside._step()
    assert (inside.said.ledger, inside.said.boot_id) == (ledger, f"{boot_id()}+wake-1")
    assert guest.told[told:] == ["let go"], "nothing is done again"
    await inside.close()


async def test_a_machine_on_a_copied_disk_is_made_to_forget_who_it_was(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest)
    ledger = (await inside.hello(LIMIT)).ledger
    await inside.close()
    guest.kill()
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    assert guest.record is None
    assert await inside.wake(wake("wake-2"), LIMIT) == f"{boot_id()}+wake-2"
    assert (await inside.hello(LIMIT)).ledger != ledger
    await inside.close()


async def test_its_host_may_come_again_before_and_after_the_wake(guest: Parked) -> None:
    guest.start()
    for _ in range(3):
        inside = guest.inside()
        await inside.parked(LIMIT)
        await inside.close()
    await _woken(guest)
    link = await links.connect(f"serial:{guest.hypervisor.socket}")
    async with asyncio.timeout(40):
        hello = parse(await link.receive())
    assert isinstance(hello, Command)
    assert hello.method == "hello"
    await link.close("")


# Cards and services


async def test_cards_that_come_late_are_joined_before_any_command_changes_anything(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest, macs=(MAC,), addresses=("192.168.80.10/24",), restart=("ssh.service",))
    await inside.hello(LIMIT)
    running = asyncio.create_task(_out(inside, "echo ran"))
    async with asyncio.timeout(20):
        await guest.until_told("rescan")
    assert not any(guest.state.glob("tasks/*")), "it is not begun"
    card(guest.root, 3, MAC)
    assert await running == "ran\n"
    assert guest.told[-3:] == ["rescan", "join 3 192.168.80.10/24", "restart ssh.service"]
    await inside.close()


async def test_cards_that_are_there_need_no_rescan(guest: Parked) -> None:
    card(guest.root, 2, MAC)
    guest.start()
    inside = await _woken(guest, macs=(MAC,), addresses=("",))
    assert await _out(inside, "echo ran") == "ran\n"
    assert guest.told[-1:] == ["join 2 none"]
    assert "rescan" not in guest.told
    found = guest.record
    assert found is not None
    assert found.settled_in == boot_id()
    await inside.close()


# Parking


async def test_parked_again_it_is_nobody(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest, macs=(MAC,), addresses=("192.168.80.10/24",))
    card(guest.root, 2, MAC)
    await _out(inside, "nohup sleep 1000 >/dev/null 2>&1 & echo began")
    pid = guest.pid
    await inside.park(LIMIT)
    assert guest.pid == pid
    assert guest.process is not None
    assert guest.process.poll() is None, "it is the same process"
    assert guest.record is None
    before = {name: text for name, text in MACHINE.items() if not name.startswith("sys")}
    now = {name: text for name, text in guest.files().items() if not name.startswith("sys")}
    assert now == before, "what is on every machine is all that is left"
    assert {path.name for path in guest.state.iterdir()} == {
        *("lock", "process", "ledger", "ledger-wal", "ledger-shm", "tasks", "tmp", "work")
    }
    assert not any(guest.state.glob("tasks/*"))
    assert (await _woken_again(inside)).endswith("+wake-2")
    await inside.close()


async def _woken_again(inside: Inside) -> str:
    return await inside.wake(wake("wake-2"), LIMIT)


async def test_a_machine_that_goes_off_leaves_nothing_of_itself_and_answers_before(guest: Parked) -> None:
    (guest.root / "var/log").mkdir(parents=True)
    (guest.root / "var/log/messages").write_text("who it was\n")
    (guest.root / "root/.bash_history").write_text("what it did\n")
    guest.start()
    inside = await _woken(guest)
    await inside.park(LIMIT, power_off=True)
    assert guest.process is not None
    assert await asyncio.to_thread(guest.process.wait, 20) == 0
    assert guest.told[-1] == "off"
    assert {path.name for path in guest.state.iterdir()} == {"lock", "process", "work"}
    assert guest.files() == {**MACHINE, "var/log/messages": ""}
    await inside.close()


async def test_a_parked_machine_may_be_parked_and_switched_off(guest: Parked) -> None:
    guest.start()
    inside = guest.inside()
    await inside.parked(LIMIT)
    await inside.park(LIMIT)
    await inside.park(LIMIT, power_off=True)
    assert guest.process is not None
    assert await asyncio.to_thread(guest.process.wait, 20) == 0
    assert guest.told[-1] == "off"
    await inside.close()


async def test_services_stand_still_from_the_answer_to_the_park_until_the_hello(guest: Parked) -> None:
    guest.start()
    inside = await _woken(guest)
    await inside.park(LIMIT)
    assert guest.told[-2:] == ["sync", "hold"]
    await inside.wake(wake("wake-2"), LIMIT)
    assert guest.told[-1] == "name web-1"
    assert guest.told.index("hold") < guest.told.index("seed 64", guest.told.index("hold"))
    assert await _out(inside, "echo ran") == "ran\n"
    after = guest.told[guest.told.index("hold") :]
    assert after.index("name web-1") < after.index("let go")
    assert "hold" not in after[after.index("let go") :]
    await inside.close()


async def test_two_wakes_share_neither_journal_nor_chance(guest: Parked) -> None:
    """What a fork must not share with its siblings, though both were one machine up to the wake."""
    guest.start()
    inside = await _woken(guest)
    first = await inside.hello(LIMIT)
    await inside.park(LIMIT)
    await inside.wake(wake("wake-2"), LIMIT)
    second = await inside.hello(LIMIT)
    assert first.ledger != second.ledger
    assert first.boot_id != second.boot_id
    assert second.tasks == ()
    assert second.fences == {"lab-7": 41}
    await inside.close()


async def test_the_memory_of_a_parked_machine_holds_nothing_of_what_it_was(guest: Parked) -> None:
    canary = os.urandom(8).hex()
    guest.start()
    inside = await _woken(
        guest,
        login_key=f"login-{canary}\n",
        host_keys={"ssh_host_ed25519_key": f"host-{canary}\n"},
        env={"TOKEN": f"env-{canary}"},
    )
    told = await inside.run(
        f"echo output-{canary} $SECRET", interpreter=SHELL, env={"SECRET": f"param-{canary}"}, limit=LIMIT
    )
    assert told == 0
    assert _found(guest.pid, canary), "the test would see it"
    await inside.park(LIMIT)
    searched = _family(guest.pid)
    assert len(searched) >= 2, "the agent and its warm process"
    assert {pid: _found(pid, canary) for pid in searched} == dict.fromkeys(searched, 0)
    assert [path for path in guest.state.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()] == []
    assert [name for name, text in guest.files().items() if canary in text] == []
    await inside.close()


def _family(pid: int) -> list[int]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(one for child in children for one in _family(child))]


def _found(pid: int, text: str) -> int:
    """How often a process has a text in its memory."""
    count = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(word, 16) for word in span.split("-"))
                try:
                    memory.seek(start)
                    count += memory.read(end - start).count(text.encode())
                except OSError:
                    continue  # [vvar] and its like
    return count


# Deaths


@pytest.mark.parametrize("point", WAKING)
async def test_a_death_in_the_middle_of_a_wake_is_made_up_for_by_the_same_wake(guest: Parked, point: str) -> None:
    guest.start(fault=f"{point}:2" if point in REHEARSED else point)
    card(guest.root, 2, MAC)
    inside = guest.inside()
    await inside.parked(LIMIT)
    told = replace(wake(), macs=(MAC,), addresses=("192.168.80.10/24",), restart=("ssh",))
    waking = asyncio.create_task(inside.wake(told, LIMIT))
    await guest.died()
    guest.start()
    assert await waking == f"{boot_id()}+wake-1"
    hello = await inside.hello(LIMIT)
    assert (hello.boot_id, hello.fences) == (f"{boot_id()}+wake-1", {"lab-7": 41})
    assert await _out(inside, "echo ran") == "ran\n"
    assert guest.text("etc/hosts").count("web-1") == 1, "nothing stands there twice"
    assert guest.text("root/.ssh/authorized_keys").count("somebody") == 1
    assert guest.told[-2:] == ["join 2 192.168.80.10/24", "restart ssh"]
    await inside.close()


@pytest.mark.parametrize("point", PARKING)
async def test_a_death_in_the_middle_of_a_park_ends_parked(guest: Parked, point: str) -> None:
    guest.start(fault=point)
    inside = await _woken(guest)
    ledger = (await inside.hello(LIMIT)).ledger
    await _out(inside, "nohup sleep 1000 >/dev/null 2>&1 & echo began")
    parking = asyncio.create_task(inside.park(LIMIT))
    await guest.died()
    guest.start()
    await parking
    assert guest.record is None
    assert guest.files() == MACHINE
    await inside.wake(wake("wake-2"), LIMIT)
    assert (await inside.hello(LIMIT)).ledger != ledger
    await inside.close()


@pytest.mark.parametrize("point", ["settling.begun", "settling.named:2", "settling.stamped"])
async def test_a_park_in_the_middle_of_settling_leaves_nothing(guest: Parked, point: str) -> None:
    guest.start(fault=point)
    inside = await _woken(guest)
    await guest.died()
    for name in ("etc/.hosts.paddock", "etc/ssh/.ssh_host_ed25519_key.paddock"):
        (guest.root / name).parent.mkdir(exist_ok=True)
        (guest.root / name).write_text("half of what a killed one wrote")
    guest.start()
    await inside.park(LIMIT)
    assert guest.files() == MACHINE
    assert not guest.heard.exists()
    await inside.close()


@pytest.mark.parametrize("point", [*PARKING[:-1], "parking.going_off"])
async def test_a_death_on_the_way_to_the_end_of_the_machine_ends_it_all_the_same(guest: Parked, point: str) -> None:
    guest.start(fault=point)
    inside = await _woken(guest)
    await inside.hello(LIMIT)
    parking = asyncio.create_task(inside.park(LIMIT, power_off=True))
    await guest.died()
    guest.start()
    await parking
    assert guest.process is not None
    assert await asyncio.to_thread(guest.process.wait, 20) == 0
    assert guest.told[-1] == "off"
    assert guest.files() == MACHINE
    await inside.close()


# Where it cannot be


async def test_only_a_line_of_ones_own_can_be_parked_on(guest: Parked) -> None:
    process = await asyncio.create_subprocess_exec(
        *_command("--server", "ws://127.0.0.1:9/agent", "--insecure", "--parked", "--state", str(guest.state)),
        env=_SURROUNDINGS,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 2
    assert b"--parked: needs the machine's own --line" in said


async def test_an_agent_that_was_not_begun_parked_takes_neither_wake_nor_park(desk: Desk, host: Host) -> None:
    """Over a WebSocket nobody ever says who a machine is."""
    host.start()
    await desk.here()
    for method, params in (("wake", wake().params()), ("park", {})):
        answer = await desk.ask(desk.command(method, method, **params))
        assert isinstance(answer, Failure)
        assert answer.msg == f"{method}: this agent was not begun with --parked"


async def test_it_is_woken_over_its_own_stdio_and_parked_on_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    process = await asyncio.create_subprocess_exec(
        *_command("--line", "stdio:", "--parked", "--rootfs", str(root), "--state", str(tmp_path / "state")),
        env=_SURROUNDINGS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def hear() -> object:
        assert process.stdout is not None
        return parse((await process.stdout.readline()).decode())

    async with asyncio.timeout(60):
        first = await hear()
        assert isinstance(first, Command)
        assert first.method == "parked"
        for number in range(2):
            said = encode(Command(id="w", method="wake", params=wake(f"wake-{number}").params()))
            process.stdin.write(f"{said}\n".encode())
            assert isinstance(await hear(), Success)
            hello = await hear()
            assert isinstance(hello, Command)
            assert hello.params["boot_id"] == f"{boot_id()}+wake-{number}"
            welcome = {"session": "s", "heartbeat": 60, "epoch": 1, "server_time": "2026-11-20T12:00:00Z"}
            process.stdin.write(f"{encode(Success(id=hello.id, result=welcome))}\n".encode())
            process.stdin.write(f"{encode(Command(id='p', method='park', params={}))}\n".encode())
            while not isinstance(answer := await hear(), Success):
                assert isinstance(answer, Command), answer
            assert answer.id == "p"
        process.stdin.close()
        assert await process.wait() == 0


def _command(*words: str) -> list[str]:
    import sys

    return [sys.executable, "-m", "paddock.agent", "run", "--cloud", "none", *words]


_SURROUNDINGS = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}


# Its journal


async def test_a_blank_ledger_is_nobodys_until_it_is_stamped(tmp_path: Path) -> None:
    before = Ledger.open(tmp_path / "ledger")
    former = before.id
    await before.close()
    blank = Ledger.blank(tmp_path / "ledger")
    assert blank.id == ""
    blank.become("ledger-wake-1", {"e": 7})
    assert blank.id == "ledger-wake-1" != former
    assert blank.fence("e") == 7
    await blank.raise_fences({"e": 8})
    await blank.close()
    again = Ledger.open(tmp_path / "ledger")
    assert (again.id, again.fence("e")) == (blank.id, 8)
    await again.close()


def test_a_card_is_named_once_udev_is_done_with_it(tmp_path: Path) -> None:
    assert cards.is_named(tmp_path, 2), "nobody names cards here"
    (tmp_path / "run/udev/data").mkdir(parents=True)
    (tmp_path / "run/udev/control").touch()
    assert not cards.is_named(tmp_path, 2), "udev has not seen it"
    (tmp_path / "run/udev/data/n2").write_text("E:ID_NET_DRIVER=virtio_net\nE:ID_RENAMING=1\nG:systemd\n")
    assert not cards.is_named(tmp_path, 2), "it is about to be named"
    (tmp_path / "run/udev/data/n2").write_text("E:ID_NET_DRIVER=virtio_net\nG:systemd\n")
    assert cards.is_named(tmp_path, 2)
