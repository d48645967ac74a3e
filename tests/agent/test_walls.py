"""Machines behind bubblewrap: what they see of the host's files, what they can change, what stays of it."""

import inspect
import os
import secrets
import shutil
import signal
from pathlib import Path

import pytest

from paddock.agent.skills.local import walls as walling
from paddock.agent.skills.local.walls import Walls
from paddock.core.errors import Broken
from paddock.hands import trees
from paddock.wire.messages import Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.test_machines import build, clean, script

slow = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def bubblewrap(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> None:
    if request.node.get_closest_marker("slow") is None:
        return
    try:
        walling.find(hidden=(tmp_path / "x",), trial=tmp_path / "trial")
    except Broken as exc:
        pytest.skip(exc.message)
    host.env["PADDOCK_BUBBLEWRAP"] = "yes"


def name() -> str:
    return f"t-{secrets.token_hex(4)}"


async def says(desk: Desk, run: str, *, fence: int = 1, agent: str = "e-1/one") -> list[str]:
    task = name()
    await script(desk, task, run, fence=fence, agent=agent)
    return (await desk.whole(task)).decode().splitlines()


def tries(*commands: str) -> str:
    return "".join(f"({command}) 2>/dev/null && echo yes || echo no\n" for command in commands)


@slow
async def test_a_task_writes_in_its_machine_and_nowhere_else(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    await build(desk)
    inside = tries(
        "touch x", "touch $TMPDIR/x", "touch /tmp/x", "touch /var/tmp/x", "touch /dev/shm/x", ": > /dev/null"
    )
    assert await says(desk, inside) == ["yes"] * 6
    outside = tries("touch /x", "touch /etc/x", f"touch {HERE}/x", "mkdir /run/x")
    around = tries("mount -o remount,rw /", f"touch /proc/{os.getpid()}/root{tmp_path}/x")
    assert await says(desk, outside + around) == ["no"] * 6
    await says(desk, f"touch {tmp_path}/x || echo no")
    assert not (tmp_path / "x").exists()
    assert not (HERE / "x").exists()


@slow
async def test_a_task_sees_neither_the_hosts_state_nor_another_machine(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    await build(desk, machine="one")
    await build(desk, machine="two")
    await says(desk, "echo secret > mine", agent="e-1/two")
    two = host.machine("e-1", "two")
    assert (two / "work" / "mine").read_text() == "secret\n"
    secret = [
        host.state / "identity",
        host.state / "ledger",
        two / "work/mine",
        host.machine("e-1", "one") / "machine.json",
    ]
    assert all(path.exists() for path in secret)
    pid = host.process.pid if host.process else 0
    read = tries(*(f"cat {path}" for path in secret), *(f"cat /proc/{pid}/root{path}" for path in secret))
    assert await says(desk, read) == ["no"] * 8
    assert await says(desk, f"ls {host.state} {host.state}/machines {host.state}/machines/*/", agent="e-1/two") == [
        f"{host.state}:",
        "machines",
        "",
        f"{host.state}/machines:",
        "e-1",
        "",
        f"{host.state}/machines/e-1/:",
        "two",
    ]


@slow
async def test_a_task_finds_its_tools(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    run = (
        "git init -q r && cd r && git rev-parse --git-dir; python3 -c 'import socket; print(1)'; exec 3<>/dev/tty || :"
    )
    assert (await says(desk, run))[:2] == [".git", "1"]
    assert await says(desk, f"tail -n 1 {walling.__file__}") == inspect.getsource(walling).splitlines()[-1:]


@slow
async def test_what_is_left_in_a_machines_own_tmp_is_gone_after_cleaning(desk: Desk, host: Host) -> None:
    host.start()
    await build(desk)
    agent = host.machine_agent("e-1", "one")
    places = ("/tmp", "/var/tmp", "/dev/shm", "$HOME")
    mess = "; ".join(f"mkdir -p {place}/a/b && touch {place}/a/b/c {place}/.d && chmod 0 {place}/a" for place in places)
    await says(desk, mess + "; chmod 700 /tmp; ln -s /etc /tmp/link")
    await clean(desk, 2)
    assert await says(desk, "find $HOME /var/tmp /dev/shm -mindepth 1 ! -path '*/results*'", fence=2) == []
    left = "stat -c %a /tmp; find /tmp -name '[acd]' -o -name .d -o -name link 2>&-"
    assert await says(desk, left, fence=2) == ["1777"]
    assert await says(desk, "touch x /tmp/x /dev/shm/x && echo fine", fence=2) == ["fine"]
    assert host.machine_agent("e-1", "one") == agent


@slow
async def test_walls_that_a_task_has_moved_are_built_anew_by_cleaning(desk: Desk, host: Host) -> None:
    """Only possible where the host's state lies below /tmp: there it is reached through directories of the machine."""
    host.start()
    seat = await build(desk)
    before = host.machine_agent("e-1", "one")
    assert before is not None
    if Path("/tmp") not in host.state.parents:
        pytest.skip("the state does not lie below /tmp")
    await says(desk, f"mv /tmp/{host.state.parts[2]} /tmp/elsewhere; echo done")
    await clean(desk, 2)
    after = host.machine_agent("e-1", "one")
    assert after is not None
    assert after != before
    await desk.until(lambda: desk.seats.get("e-1/one") not in (None, seat))
    assert await says(desk, "pwd; touch x", fence=2) == [str(host.machine("e-1", "one") / "work")]
    assert (host.machine("e-1", "one") / "work" / "x").exists()


@slow
async def test_a_machine_without_walls_gets_them_when_it_is_cleaned(desk: Desk, host: Host) -> None:
    host.start(PADDOCK_BUBBLEWRAP="no")
    seat = await build(desk)
    assert await _walled(desk) == [False]
    host.kill()
    host.start()
    await desk.until(lambda: desk.seats.get("e-1/one") not in (None, seat))
    await clean(desk, 2)
    assert await _walled(desk) == [True]
    assert await says(desk, tries("touch /etc/x"), fence=2) == ["no"]


@slow
async def test_where_there_is_no_bubblewrap_the_log_says_so_once(desk: Desk, host: Host, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    host.start(PATH=str(tmp_path / "bin"))
    await build(desk, machine="one")
    await build(desk, machine="two")
    assert host.log.read_text().count("bubblewrap: is not installed") == 1
    assert await _walled(desk) == [False, False]


@slow
async def test_where_bubblewrap_does_not_work_machines_have_no_walls(desk: Desk, host: Host, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "bwrap"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    program.chmod(0o755)
    host.start(PATH=f"{program.parent}:{os.environ['PATH']}")
    await build(desk)
    assert host.log.read_text().count("No permissions to create new namespace") == 1
    assert await _walled(desk) == [False]


@slow
async def test_pids_are_true_and_a_killed_agent_takes_up_its_task_behind_new_walls(desk: Desk, host: Host) -> None:
    host.start()
    seat = await build(desk)
    task = name()
    await script(desk, task, "echo $$; while [ ! -e go ]; do sleep 0.05; done; touch after; echo done")
    await desk.until(lambda: desk.streams[task, "out"])
    shell = int(desk.streams[task, "out"])
    agent = host.machine_agent("e-1", "one")
    assert agent is not None
    assert os.readlink(f"/proc/{shell}/ns/pid") == os.readlink("/proc/self/ns/pid")
    host.kill()
    os.kill(agent.pid, signal.SIGKILL)
    host.start()
    await desk.until(lambda: desk.seats.get("e-1/one") not in (None, seat))
    assert trees.identify(shell) is not None
    (host.machine("e-1", "one") / "work" / "go").touch()
    assert (await desk.final(task)).state == "complete"
    assert await desk.whole(task) == f"{shell}\ndone\n".encode()
    await clean(desk, 2)
    assert await says(desk, "ls -A", fence=2) == ["results"]


@slow
async def test_no_bubblewrap_is_a_setting(desk: Desk, host: Host) -> None:
    host.start(PADDOCK_BUBBLEWRAP="no")
    await build(desk)
    assert "see their own files" not in host.log.read_text()
    assert await _walled(desk) == [False]


async def _walled(desk: Desk) -> list[object]:
    listed = await desk.ask(desk.command(name(), "machine.list"))
    assert isinstance(listed, Success)
    machines = listed.result["machines"]
    assert isinstance(machines, list)
    return [one["bubblewrap"] for one in machines]


# ---- which mounts, without making them -------------------------------------------------------------------------------


def mounts(words: list[str]) -> list[tuple[str, ...]]:
    found, at = [], 1
    while at < len(words) and words[at] != "--":
        size = {"--tmpfs": 2, "--remount-ro": 2, "--cap-drop": 2, "--cap-add": 2}.get(words[at], 3)
        found.append(tuple(words[at : at + size]))
        at += size
    return found


def test_a_state_outside_of_tmp_is_covered_before_a_machines_own_is_laid_over_it(tmp_path: Path) -> None:
    state = Path("/usr")  # any directory that exists and is not below /tmp
    machine = state / "machines/e/one"
    found = mounts(Walls(program="bwrap", hidden=(state,)).command(machine, group=None, marks={"A": "b"}))
    assert found.index(("--tmpfs", "/usr")) < found.index(("--bind", str(machine / "work"), str(machine / "work")))
    assert ("--remount-ro", "/usr") in found
    assert ("--setenv", "A", "b") in found
    assert Walls(program="bwrap", hidden=(state,)).spared(machine) == frozenset() or _lies_below_tmp()


def test_nothing_that_is_hidden_is_shown_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is started in its state's directory has that on its path."""
    monkeypatch.setattr("sys.path", [str(tmp_path), str(tmp_path / "below"), *os.sys.path])  # type: ignore[attr-defined]
    (tmp_path / "below").mkdir()
    walling._needed.cache_clear()
    try:
        found = mounts(Walls(program="bwrap", hidden=(tmp_path,)).command(tmp_path / "m", group=None, marks={}))
    finally:
        walling._needed.cache_clear()
    assert not [mount for mount in found if mount[0] == "--ro-bind" and mount[1].startswith(str(tmp_path))]


def test_what_is_spared_is_the_way_to_what_is_mounted_below_tmp() -> None:
    machine = Path("/tmp/s/machines/e/one")
    spared = Walls(program="bwrap", hidden=(Path("/tmp/s"),)).spared(machine)
    inside = machine / "tmp" / "s/machines/e/one"
    assert {inside / "work", inside / "agent", inside, machine / "tmp" / "s"} <= spared
    assert machine / "tmp" not in spared


def _lies_below_tmp() -> bool:
    return any(Path("/tmp") in path.parents for path in walling._needed())


def test_bubblewrap_that_is_not_there_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("bwrap") is None
    with pytest.raises(Broken, match="is not installed"):
        walling.find(hidden=(tmp_path,), trial=tmp_path / "trial")
