"""A machine's serial line: its file keeps the first and the last of it, and who follows hears what is missing."""

import asyncio
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills.hypervisor import console, holes
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.skill import Call
from paddock.core.errors import Broken, Missing
from paddock.wire import methods

MIB = 1 << 20
LINE = 32
CUT = b"shows what comes now)]\r\n"


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less is kept, and given faster, than elsewhere."""
    monkeypatch.setattr(console, "LAST", 4 * MIB)
    monkeypatch.setattr(console, "_RATE", 1 << 30)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    directory = Layout.of(tmp_path).machine("lab-1", "one")
    directory.mkdir(parents=True)
    return directory


def speak(machine: Path, count: int) -> None:
    """So many bytes more, each line with its own place."""
    with (machine / console.FILE).open("ab") as file:
        at = file.tell()
        file.write(b"".join(line(place) for place in range(at, at + count, LINE)))


def line(place: int) -> bytes:
    return f"at {place:027}\r\n".encode()


def taken(machine: Path) -> int:
    return (machine / console.FILE).stat().st_blocks * 512


class Follower:
    """One command that follows; `task` names its output, which outlives it."""

    def __init__(self, machine: Path, task: str, **params: object) -> None:
        self._grew = asyncio.Event()
        self.directory = machine.parents[2] / "tasks" / task
        call = Call(
            task=task,
            method="machine.console",
            params=methods.check(
                "machine.console",
                {"machine": "one", "environment": "lab-1", "fence": 1, **params},  # type: ignore[dict-item]
            ),
            environment="lab-1",
            fence=1,
            directory=self.directory,
            grew=self._grew.set,
        )
        self.job = asyncio.ensure_future(console.follow(machine, call))

    @property
    def output(self) -> bytes:
        with suppress(FileNotFoundError):
            return (self.directory / "output").read_bytes()
        return b""

    async def until(self, text: bytes) -> None:
        """Until its output ends so."""
        async with asyncio.timeout(20):
            while not self.output.endswith(text):
                await self._grew.wait()
                self._grew.clear()

    async def end(self) -> Outcome:
        self.job.cancel()
        return await self.job


@asynccontextmanager
async def following(machine: Path, task: str = "t", **params: object) -> AsyncIterator[Follower]:
    follower = Follower(machine, task, **params)
    try:
        yield follower
    finally:
        follower.job.cancel()
        with suppress(asyncio.CancelledError, Missing):
            await follower.job


# ---- kept short


def test_a_console_that_never_ends_takes_no_more_than_its_first_and_its_last(machine: Path) -> None:
    for _ in range(4):
        speak(machine, 3 * MIB)
        assert console.shorten([machine / console.FILE]) == ""

    said = (machine / console.FILE).read_bytes()
    assert len(said) == 12 * MIB, "who follows it finds everything in its place"
    assert taken(machine) <= console.FIRST + console.LAST + 2 * MIB
    assert said.startswith(line(0))
    assert said[: console.FIRST].count(b"at ") == console.FIRST // LINE
    assert said[-console.LAST :].count(b"at ") == console.LAST // LINE


def test_a_short_console_stays_as_it_is(machine: Path) -> None:
    speak(machine, 5 * MIB)
    before = (machine / console.FILE).read_bytes()
    console.shorten([machine / console.FILE, machine / "gone"])

    assert (machine / console.FILE).read_bytes() == before
    assert taken(machine) >= 5 * MIB


def test_a_console_is_not_followed_through_a_link(machine: Path) -> None:
    speak(machine, 8 * MIB)
    (machine / console.FILE).rename(machine / "other")
    (machine / console.FILE).symlink_to(machine / "other")
    console.shorten([machine / console.FILE])

    assert (machine / "other").stat().st_blocks * 512 >= 8 * MIB


async def test_a_disk_that_takes_nothing_back_is_told_of_once(
    machine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def refuse(handle: int, begin: int, end: int) -> None:
        loop.call_soon_threadsafe(looks.put_nowait, end)
        raise Broken("its disk takes back no part of a file: Operation not supported")

    monkeypatch.setattr(holes, "punch", refuse)
    monkeypatch.setattr(console, "_SHORTENED_EVERY", 0.01)
    speak(machine, 8 * MIB)
    with caplog.at_level(logging.WARNING):
        job = asyncio.ensure_future(console.keep_short(Layout.of(machine.parents[2])))
        async with asyncio.timeout(10):
            for _ in range(3):
                assert await looks.get() == 4 * MIB
        job.cancel()

    assert [record.message for record in caplog.records] == ["consoles of machines grow without limit"]


def test_what_cannot_be_given_back_is_said(tmp_path: Path) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(Broken, match=r"takes back no part of a file: .+"):
            holes.punch(write, 0, 4096)
    finally:
        os.close(read)
        os.close(write)


# ---- followed


async def test_a_console_is_followed_as_it_grows_and_from_where_one_was(machine: Path) -> None:
    speak(machine, LINE)
    async with following(machine) as one:
        await one.until(line(0))
        speak(machine, LINE)
        await one.until(line(LINE))
        ended = await one.end()
    assert ended.result is not None
    assert (ended.result["offset"], ended.result["ended"], ended.result["gone"]) == (2 * LINE, "cancelled", 0)

    speak(machine, LINE)
    async with following(machine, "later", offset=2 * LINE, seconds=0.4) as later:
        ended = await later.job
    assert later.output == line(2 * LINE)
    assert ended.result is not None
    assert (ended.result["offset"], ended.result["ended"]) == (3 * LINE, "time")


async def test_who_comes_late_hears_how_much_is_gone_and_everything_else(machine: Path) -> None:
    speak(machine, 12 * MIB)
    console.shorten([machine / console.FILE])
    async with following(machine) as one:
        await one.until(line(12 * MIB - LINE))
        ended = await one.end()

    gone = 12 * MIB - console.LAST - console.FIRST
    first, words, rest = one.output.partition(f"\r\n[paddock: {gone} bytes are gone".encode())
    assert (len(first), bool(words)) == (console.FIRST, True)
    assert rest.partition(b"]\r\n")[2].startswith(line(12 * MIB - console.LAST))
    assert b"\0" not in one.output
    assert ended.result is not None
    assert (ended.result["offset"], ended.result["gone"]) == (12 * MIB, gone)


async def test_who_begins_in_what_is_gone_hears_of_the_rest_of_it_only(machine: Path) -> None:
    speak(machine, 12 * MIB)
    console.shorten([machine / console.FILE])
    async with following(machine, offset=6 * MIB) as one:
        await one.until(line(12 * MIB - LINE))

    assert one.output.startswith(f"\r\n[paddock: {2 * MIB} bytes are gone".encode())


async def test_what_a_follower_has_passed_may_go_while_it_follows(machine: Path) -> None:
    speak(machine, 10 * MIB)
    async with following(machine, offset=10 * MIB - LINE) as one:
        await one.until(line(10 * MIB - LINE))
        console.shorten([machine / console.FILE])
        speak(machine, LINE)
        await one.until(line(10 * MIB))

    assert one.output == line(10 * MIB - LINE) + line(10 * MIB)


@pytest.mark.parametrize("dies", [False, True])
async def test_a_log_that_is_full_says_so_and_has_the_last_of_the_console(
    machine: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    monkeypatch.setattr(console, "LIVE", 2 * MIB)
    speak(machine, 3 * MIB)
    async with following(machine) as one:
        await one.until(CUT)
        speak(machine, 3 * MIB)
        shutil.copytree(one.directory, one.directory.with_name("killed"))
    if dies:
        async with following(machine, "killed", seconds=0.2) as one:  # by the agent after it
            await one.job
    said = one.output

    assert said[: 2 * MIB].count(b"at ") == 2 * MIB // LINE
    assert said.count(b"this console is long") == 1
    assert said.endswith(line(6 * MIB - LINE))
    left = 6 * MIB - 2 * MIB - console.ENDING
    found = re.search(rb"\[paddock: (\d+) bytes were not kept here\]\r\n", said)
    assert found is not None
    assert int(found[1]) == left
    assert len(said[found.end() :]) == console.ENDING
    assert len(said) < 4 * MIB


async def test_a_log_that_is_full_goes_on_with_the_last_of_each_minute(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LIVE", MIB)
    monkeypatch.setattr(console, "_GLANCE_EVERY", 0.05)
    speak(machine, MIB)
    async with following(machine) as one:
        await one.until(CUT)
        for minute in range(1, 4):
            speak(machine, LINE if minute == 3 else MIB)
            at = (machine / console.FILE).stat().st_size
            await one.until(line(at - LINE))
    said = one.output.partition(CUT)[2]

    assert said.count(f"[paddock: {MIB - console.GLANCE} bytes were not kept here]".encode()) == 2
    assert said.endswith(line(3 * MIB - LINE) + line(3 * MIB)), "of a minute that has little, all"
    assert len(said) < 3 * console.GLANCE


async def test_an_output_is_never_longer_than_a_server_takes(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LIVE", MIB)
    monkeypatch.setattr(console, "_MOST", 4 * MIB)
    speak(machine, 2 * MIB)
    async with following(machine) as one:
        await one.until(CUT)
    for _ in range(5):  # an agent that stops and goes on again and again
        speak(machine, 2 * MIB)
        async with following(machine, seconds=0.1) as one:
            await one.job

    assert 2 * MIB < len(one.output) <= 4 * MIB


def test_the_last_of_a_console_is_read_without_the_rest(machine: Path) -> None:
    assert console.last(machine / console.FILE, 10) == b""
    speak(machine, 4 * LINE)
    assert console.last(machine / console.FILE, LINE) == line(3 * LINE)
