"""A full disk: nothing new is taken, nothing that was accepted is lost, every byte that it costs is told."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.agent.ledger import Ledger
from paddock.wire.hello import TaskState
from paddock.wire.messages import Code, Failure, Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk
from tests.agent.test_turns import bench

pytestmark = pytest.mark.slow

_SIZE = 48 << 20


class Disk:
    """A small file system with the agent's state on it, filled and freed at will."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def fill(self, *, leave: int = 0) -> None:
        """All of its room but `leave` bytes."""
        with (self.place / "ballast").open("ab", buffering=0) as file:
            for step in (1 << 20, 4096):
                while self.room >= leave + step:
                    try:
                        os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
                    except OSError:
                        break

    @property
    def room(self) -> int:
        found = os.statvfs(self.place)
        return found.f_bavail * found.f_frsize

    def free(self) -> None:
        (self.place / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "paddock-test", place], check=False)
    if mounted.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    yield Disk(place)
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small(desk: Desk, disk: Disk) -> Iterator[Host]:
    """A host's agent on the small disk."""
    made = Host(desk, disk.place / "state")
    made.log = disk.place.parent / "host.log"
    yield made
    made.clear()


def waiting(gate: Path, rest: str) -> str:
    return f"echo up\nwhile ! test -e {gate}; do sleep 0.02; done\n{rest}\n"


async def test_below_the_reserve_nothing_new_is_taken_and_the_reason_is_said(
    desk: Desk, small: Host, disk: Disk
) -> None:
    small.start()
    await desk.here()
    disk.fill(leave=10 << 20)
    script, file = desk.command("a", "script.run", run="true"), desk.command("b", "file.put", path="f", data="")
    for command in (script, file):
        answer = await desk.ask(command)
        assert isinstance(answer, Failure)
        assert answer.code is Code.BUSY
        assert "KiB free" in answer.msg
        assert "16384 KiB are kept for what was accepted" in answer.msg
    asked = await desk.ask(desk.command("c", "status"))
    assert isinstance(asked, Success)  # what changes nothing is answered all the same
    disk.free()
    again = await desk.ask(script)
    assert isinstance(again, Success)  # a refusal is not recorded: the same command may be asked again
    assert (await desk.final("a")).state is TaskState.COMPLETE


async def test_a_person_is_told_that_the_disk_is_full_and_that_it_is_not_any_more(
    desk: Desk, small: Host, disk: Disk
) -> None:
    def told(state: str) -> list[object]:
        return [one["id"] for one in desk.alerts if one["subject"] == "disk of the agent" and one["state"] == state]

    small.start()
    await desk.here()
    disk.fill()  # there is no room for the alert's own file either
    for number in range(3):
        assert isinstance(await desk.ask(desk.command(f"t{number}", "script.run", run="true")), Failure)
    await desk.until(lambda: told("raised"))
    disk.free()
    await desk.until(lambda: told("over"))
    assert len(set(told("raised"))) == 1
    assert told("over") == told("raised")[:1]


async def test_what_was_accepted_ends_when_there_is_room_again(desk: Desk, small: Host, disk: Disk) -> None:
    gates = disk.place.parent
    small.start()
    await desk.here()
    for number in range(5):
        await desk.ask(desk.command(f"t{number}", "script.run", run=waiting(gates / "go", f"exit {number}")))
    await desk.until(lambda: all(desk.streams[f"t{number}", "out"] == b"up\n" for number in range(5)))
    disk.fill()
    (gates / "go").touch()
    # A ledger that cannot be written tells of no end; one that was told by chance was durable before.
    await asyncio.sleep(1)
    assert small.is_alive
    disk.free()
    for number in range(5):
        status = await desk.final(f"t{number}")
        assert status.state is TaskState.COMPLETE
        assert status.result == {"exit": number, "dropped": 0}


async def test_an_agent_that_dies_while_its_disk_is_full_loses_nothing(desk: Desk, small: Host, disk: Disk) -> None:
    gates, count = disk.place.parent, disk.place.parent / "count"
    small.start()
    await desk.here()
    for number in range(5):
        rest = f"echo {number} >> {count}; exit {number}"
        await desk.ask(desk.command(f"t{number}", "script.run", run=waiting(gates / "go", rest)))
    await desk.until(lambda: all(desk.streams[f"t{number}", "out"] == b"up\n" for number in range(5)))
    disk.fill()
    (gates / "go").touch()
    await desk.until(lambda: count.exists() and len(count.read_text().split()) == 5)
    small.kill()
    disk.free()
    small.start()
    for number in range(5):
        status = await desk.final(f"t{number}")
        assert (status.state, status.result) == (TaskState.COMPLETE, {"exit": number, "dropped": 0})
    assert sorted(count.read_text().split()) == ["0", "1", "2", "3", "4"]


async def test_bytes_that_find_no_room_are_counted_and_the_task_goes_on(desk: Desk, small: Host, disk: Disk) -> None:
    gates = disk.place.parent
    small.start()
    await desk.here()
    size = 3_000_000
    silent = f"while ! test -e {gates}/end; do sleep 0.02; done; exit 4"
    run = waiting(gates / "go", f"yes | head -c {size}\necho > {gates}/printed\n{silent}")
    await desk.ask(desk.command("t", "script.run", run=run))
    await desk.until(lambda: desk.streams["t", "out"] == b"up\n")
    disk.fill(leave=100_000)
    (gates / "go").touch()
    await desk.until(lambda: (gates / "printed").exists())
    disk.free()
    (gates / "end").touch()
    status = await desk.final("t")
    whole = await desk.whole("t")
    assert status.result is not None
    dropped = status.result["dropped"]
    assert isinstance(dropped, int)
    assert status.result["exit"] == 4  # the task itself was not ended for it
    assert 0 < dropped <= size
    words = f"[paddock: {dropped} bytes dropped, no space left]\n".encode()
    assert words in whole  # whoever reads the log sees that something is missing, and how much
    kept = whole.removeprefix(b"up\n").replace(words, b"")
    assert size <= len(kept) + dropped <= size + 1  # our words begin on a line of their own
    assert whole.startswith(b"up\ny\ny\n")


async def test_a_task_that_finds_no_room_to_start_waits_for_it(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(disk.place, tasks_at_once=1) as worker:
        await worker.give("first", waiting(tmp_path / "go", "exit 5"))
        await worker.give("second", "exit 6")
        await worker.give("late", "exit 7", limit=0.5)
        disk.fill()
        (tmp_path / "go").touch()
        async with asyncio.timeout(20):
            while "task waits for the disk" not in caplog.text:  # noqa: ASYNC110 - a line of a log is no event
                await asyncio.sleep(0.02)
        assert worker.finals == {}
        disk.free()
        await worker.until_ended("first", "second", "late")
    assert {name: (end.result or {}).get("exit") for name, end in worker.finals.items()} == {
        "first": 5,
        "second": 6,
        "late": None,
    }
    assert worker.finals["late"].code is Code.TIMED_OUT  # its limit was running all the time


async def test_what_the_server_has_is_cleared_away_when_there_is_room_again(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(disk.place) as worker:
        await worker.give("a", "exit 5")
        await worker.until_ended("a")
        disk.fill()
        worker.worker.told("a")
        async with asyncio.timeout(20):
            while "a closed entry waits for the disk" not in caplog.text:  # noqa: ASYNC110 - a line of a log is no event
                await asyncio.sleep(0.02)
        disk.free()
        async with asyncio.timeout(20):
            while [*(disk.place / "state/tasks").iterdir()]:  # noqa: ASYNC110 - a directory that goes is no event
                await asyncio.sleep(0.02)
    ledger = Ledger.open(disk.place / "state/ledger")
    assert await ledger.unacknowledged() == []
    await ledger.close()
