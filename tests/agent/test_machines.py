"""Machines of the skill `local`: built, relayed, cleaned, adopted, destroyed; as real processes."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.agent.skills.local import census
from paddock.agent.skills.local import record as records
from paddock.agent.skills.local.census import Looks, Seen, Whose
from paddock.agent.skills.local.emptying import is_empty
from paddock.agent.skills.local.record import address
from paddock.agent.skills.local.walls import Walls
from paddock.hands import trees
from paddock.hands.trees import Identity
from paddock.wire.messages import Code, Failure, Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk, Seat

slow = pytest.mark.slow

C1 = f"c1-{secrets.token_hex(4)}"
"""Not the same in two runs of these tests at once: lost tasks are looked for among all processes."""


@pytest.fixture(params=["walled", "open"])
def walled(request: pytest.FixtureRequest, host: Host) -> bool:
    """Whether machines of this test stand behind bubblewrap."""
    is_walled: bool = request.param == "walled"
    if is_walled and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    host.env["PADDOCK_BUBBLEWRAP"] = "yes" if is_walled else "no"
    return is_walled


def walls(host: Host) -> Walls:
    return Walls(program="bwrap", hidden=(host.state,))


def run(*words: str) -> bool:
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def build(desk: Desk, environment: str = "e-1", machine: str = "one", fence: int = 1) -> Seat:
    name = f"build-{environment}-{machine}-{fence}"
    await desk.ask(desk.command(name, "machine.build", environment=environment, fence=fence, machine=machine))
    status = await desk.final(name)
    assert status.state == "complete", status
    return await desk.here(f"{environment}/{machine}")


async def clean(desk: Desk, fence: int, environment: str = "e-1", machine: str = "one") -> int:
    name = f"clean-{environment}-{machine}-{fence}"
    await desk.ask(desk.command(name, "machine.clean", environment=environment, fence=fence, machine=machine))
    status = await desk.final(name)
    assert status.state == "complete", status
    assert status.result is not None
    ended = status.result["ended"]
    assert isinstance(ended, int)
    return ended


async def script(desk: Desk, name: str, run: str, fence: int = 1, agent: str = "e-1/one") -> Success | Failure:
    command = desk.command(name, "script.run", run=run, environment=agent.partition("/")[0], fence=fence)
    return await desk.ask(command, agent=agent)


@slow
async def test_a_machine_is_relayed_without_a_token_of_its_own(desk: Desk, host: Host) -> None:
    host.start()
    seat = await build(desk)
    assert seat.relay is not None
    assert (seat.relay.environment, seat.relay.machine, seat.relay.fence) == ("e-1", "one", 1)
    assert (seat.hello.agent, seat.hello.token) == (None, None)
    assert seat.hello.skills == ("script", "file", "sources", "system", "tunnel")
    assert not (host.machine_state("e-1", "one") / "identity").exists()


@slow
async def test_tasks_know_their_machine_and_its_address(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    text = 'echo "$PADDOCK_ENVIRONMENT $PADDOCK_MACHINE $PADDOCK_ADDRESS"; cd "$PADDOCK_RESULTS"; pwd'
    await script(desk, C1, f"{text}; echo $PADDOCK_SOURCES")
    first, second, third = (await desk.whole(C1)).decode().splitlines()
    status = await desk.final("build-e-1-one-1")
    assert status.result is not None
    assert first == f"e-1 one {status.result['address']}"
    assert second == str(host.state / "machines/e-1/one/work/results")
    assert third == str(host.state / "machines/e-1/one/work/sources")


@slow
async def test_building_again_changes_nothing(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    first = host.machine_agent("e-1", "one")
    await build(desk, fence=2)
    assert host.machine_agent("e-1", "one") == first


@slow
async def test_two_machines_reach_each_other(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk, machine="one")
    await build(desk, machine="two")
    serve = "import os,socket;s=socket.create_server((os.environ['PADDOCK_ADDRESS'],7777));print('up',flush=True)"
    command = desk.command(
        "serve",
        "script.run",
        argv=["python3", "-c", serve + ";c,_=s.accept();c.sendall(b'hello');c.close()"],
        environment="e-1",
        fence=1,
    )
    await desk.ask(command, agent="e-1/one")
    await desk.until(lambda: desk.streams["serve", "out"] == b"up\n")
    one = (await desk.final("build-e-1-one-1")).result
    assert one is not None
    fetch = f"import socket;print(socket.create_connection(('{one['address']}',7777)).recv(9).decode())"
    command = desk.command("fetch", "script.run", argv=["python3", "-c", fetch], environment="e-1", fence=1)
    await desk.ask(command, agent="e-1/two")
    assert await desk.whole("fetch") == b"hello\n"


@slow
@pytest.mark.parametrize("grouped", [True, False], ids=["cgroup", "marks"])
async def test_cleaning_ends_everything_but_the_agent_and_empties_the_directory(
    desk: Desk, host: Host, walled: bool, grouped: bool
) -> None:
    host.start()
    await build(desk)
    if not grouped:
        host.kill()
        directory = host.state / "machines/e-1/one"
        known = records.load(directory)
        assert known is not None
        records.save(directory, replace(known, cgroup=""))
        host.start()
        await desk.until(lambda: len(desk.relays) >= 2)
        await desk.here("e-1/one")
    agent = host.machine_agent("e-1", "one")
    text = """
        setsid sleep 300 & echo $!
        (env -i setsid sh -c 'cd /; sleep 301' &)
        mkdir -p a/b; chmod 000 a; touch .hidden; ln -s / link; echo x > $TMPDIR/x; echo up; sleep 300"""
    await script(desk, C1, text)
    await desk.until(lambda: desk.streams[C1, "out"].endswith(b"up\n"))
    launcher = _launcher(agent)
    assert await clean(desk, 2) >= 3
    assert trees.identify(int(desk.streams[C1, "out"].split()[0])) is None
    machine = host.machine("e-1", "one")
    assert os.listdir(machine / "work") == []
    assert is_empty(machine / "tmp", spared=walls(host).spared(machine) if walled else frozenset())
    assert host.machine_agent("e-1", "one") == agent
    assert _launcher(agent) == launcher
    assert agent is not None
    assert set(trees.descendants(agent.pid)) == {launcher}
    await script(desk, "c2", "echo again", fence=2)
    assert await desk.whole("c2") == b"again\n"
    assert (await desk.final(C1)).state == "error"


def _launcher(agent: Identity | None) -> Identity:
    assert agent is not None
    (found,) = [one for one in trees.descendants(agent.pid) if "paddock-warm" in trees.name(one)]
    return found


@slow
async def test_nothing_begins_under_a_fence_that_cleaning_has_ended(desk: Desk, host: Host, tmp_path: Path) -> None:
    """The machine's own ledger has not heard of the new fence: the floor that its host raised tells it."""
    host.start()
    await build(desk)
    await clean(desk, 5)
    answer = await script(desk, "ghost", f"touch {tmp_path}/ghost", fence=4)
    assert isinstance(answer, Failure)
    assert answer.code is Code.STALE
    assert not (tmp_path / "ghost").exists()


@slow
async def test_cleaning_under_an_old_fence_is_stale(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk, fence=3)
    answer = await desk.ask(desk.command("old", "machine.clean", environment="e-1", fence=2, machine="one"))
    assert isinstance(answer, Failure)
    assert answer.code is Code.STALE


@slow
async def test_a_directory_that_cannot_be_emptied_is_a_failure_with_its_reason(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    place = host.state / "machines/e-1/one/work/mounted"
    place.mkdir()
    if os.geteuid() != 0 or not run("mount", "-t", "tmpfs", "x", str(place)):
        pytest.skip("nothing can be mounted here")
    try:
        await desk.ask(desk.command("c", "machine.clean", environment="e-1", fence=2, machine="one"))
        status = await desk.final("c")
        assert status.code is Code.FAILED
        assert "mounted" in (status.msg or "")
    finally:
        run("umount", str(place))
    assert await clean(desk, 3) == 0


@slow
@pytest.mark.usefixtures("walled")
async def test_a_machine_survives_the_death_of_its_hosts_agent(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    work = host.machine("e-1", "one") / "work"
    text = "echo x1 >> count; while [ ! -e go ]; do sleep 0.05; done; echo done"
    await script(desk, C1, text)
    before = host.machine_agent("e-1", "one")
    host.kill()
    await desk.until(lambda: "e-1/one" not in desk.seats)
    (work / "go").touch()
    host.start()
    await desk.here("e-1/one")
    assert (await desk.final(C1)).state == "complete"
    assert await desk.whole(C1) == b"done\n"
    assert (work / "count").read_text() == "x1\n"
    assert host.machine_agent("e-1", "one") == before


@slow
@pytest.mark.usefixtures("walled")
async def test_a_dead_machine_agent_is_started_again_on_its_ledger(desk: Desk, host: Host) -> None:
    host.start()
    seat = await build(desk)
    work = host.machine("e-1", "one") / "work"
    text = "echo x1 >> count; while [ ! -e go ]; do sleep 0.05; done; echo done"
    await script(desk, C1, text)
    await desk.until(lambda: (work / "count").exists())
    agent = host.machine_agent("e-1", "one")
    assert agent is not None
    os.kill(agent.pid, signal.SIGKILL)
    await desk.until(lambda: desk.seats.get("e-1/one") not in (None, seat))
    (work / "go").touch()
    assert (await desk.final(C1)).state == "complete"
    assert await desk.whole(C1) == b"done\n"
    assert (work / "count").read_text() == "x1\n"
    assert desk.hellos[-1].ledger == seat.hello.ledger


@slow
@pytest.mark.usefixtures("walled")
async def test_a_destroyed_machine_is_gone_and_destroying_it_again_is_fine(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    await script(desk, C1, "setsid sleep 300 & echo $!; echo up; sleep 300")
    await desk.until(lambda: desk.streams[C1, "out"].endswith(b"up\n"))
    agent = host.machine_agent("e-1", "one")
    assert agent is not None
    for name in ("d1", "d2"):
        await desk.ask(desk.command(name, "machine.destroy", environment="e-1", fence=2, machine="one"))
        assert (await desk.final(name)).state == "complete"
    assert not trees.is_alive(agent)
    assert trees.identify(int(desk.streams[C1, "out"].split()[0])) is None
    assert os.listdir(host.state / "machines") == []
    await desk.until(lambda: "e-1/one" not in desk.seats)
    listed = await desk.ask(desk.command("l", "machine.list"))
    assert isinstance(listed, Success)
    assert listed.result == {"machines": []}


@slow
async def test_a_machine_that_nobody_built_cannot_be_cleaned(desk: Desk, host: Host) -> None:
    host.start()
    await desk.ask(desk.command("c", "machine.clean", environment="e-1", fence=2, machine="nobody"))
    status = await desk.final("c")
    assert status.code is Code.FAILED


@slow
async def test_the_relay_shows_the_highest_fence(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    await clean(desk, 7)
    await desk.drop_all()
    await desk.until(lambda: len(desk.relays) == 2)
    assert desk.relays[-1].fence == 7


@slow
@pytest.mark.usefixtures("walled")
async def test_an_idle_machine_agent_is_small(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    await script(desk, C1, "true")
    await desk.final(C1)
    agent = host.machine_agent("e-1", "one")
    assert agent is not None
    assert resident_kib(agent.pid) <= 35 * 1024


# ---- who belongs to a machine ----------------------------------------------------------------------------------------


def seen(pid: int, *, parent: int = 1, mark: str = "", place: str = "/") -> Seen:
    return Seen(identity=Identity(pid=pid, started=pid), parent=parent, mark=mark, place=place)


def test_members_are_marked_stand_inside_or_descend(tmp_path: Path) -> None:
    everyone = [
        seen(10, mark=f"{tmp_path}/agent/tasks/t"),
        seen(11, parent=10),
        seen(12, parent=11),
        seen(13, place=str(tmp_path / "work")),
        seen(14, mark=f"{tmp_path}-other/agent/tasks/t"),
        seen(15, place=f"{tmp_path}-other"),
        seen(16),
        seen(17, mark=str(tmp_path)),
        seen(18, mark="/"),
    ]
    whose = Whose(directory=tmp_path)
    assert sorted(one.pid for one in census.members(whose, everyone)) == [10, 11, 12, 13, 17]


@pytest.mark.parametrize("directory", ["/", "/tmp"])
def test_a_machine_in_a_directory_of_everybody_is_not_everybody(directory: str) -> None:
    with pytest.raises(AssertionError):
        census.members(Whose(directory=Path(directory)), [seen(10)])


def test_whoever_looks_and_its_ancestors_are_nobodys(tmp_path: Path) -> None:
    everyone = [
        seen(os.getpid(), parent=40, mark=str(tmp_path)),
        seen(40, parent=30, place=str(tmp_path)),
        seen(50, parent=40),
    ]
    assert census.members(Whose(directory=tmp_path), everyone) == []


@slow
async def test_machines_of_one_name_on_two_hosts_of_one_computer_do_not_meet(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    """Cleaning and destroying the one, by groups and by marks, leaves the other alone."""
    host.start()
    await build(desk)
    async with Desk().open() as other_desk:
        other = Host(other_desk, tmp_path / "other" / "state")
        other.state.parent.mkdir()
        other.start()
        try:
            await build(other_desk)
            await script(other_desk, C1, "setsid sleep 300 & echo $!; sleep 300")
            await other_desk.until(lambda: other_desk.streams[C1, "out"])
            kept = {other.machine_agent("e-1", "one"), trees.identify(int(other_desk.streams[C1, "out"]))}
            await script(desk, C1, "sleep 300")
            await clean(desk, 2)
            await desk.ask(desk.command("d", "machine.destroy", environment="e-1", fence=3, machine="one"))
            assert (await desk.final("d")).state == "complete"
            assert None not in kept
            assert all(one is not None and trees.is_alive(one) for one in kept)
        finally:
            other.clear()


async def test_looks_are_shared_by_those_who_wait_and_never_older_than_the_question() -> None:
    looks = 0

    def look() -> list[Seen]:
        nonlocal looks
        looks += 1
        return [seen(looks)]

    shared = Looks(look)
    first = asyncio.ensure_future(shared.fresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    later = [asyncio.ensure_future(shared.fresh()) for _ in range(30)]
    assert (await first)[0].identity.pid == 1
    assert {(await one)[0].identity.pid for one in later} == {2}
    assert looks == 2


def test_addresses_are_loopback_and_never_meet() -> None:
    found = [address(number, salt=3) for number in range(70_000)]
    assert len(set(found)) == len(found)
    assert all(one.startswith("127.") and one != "127.0.0.1" for one in found)
    assert not any(one.endswith((".0", ".255")) for one in found)
