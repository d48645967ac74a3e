"""log.tail: nothing lost and nothing doubled through rotation, truncation, cancel and a restart of the agent."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills import logs
from paddock.agent.skills.logs import journal, sink
from paddock.agent.skills.skill import Call, Place, Work
from paddock.core.errors import PaddockError, Refused
from paddock.wire import methods
from paddock.wire.fields import BadParams
from paddock.wire.hello import LOG_STREAM

Tailing = Callable[..., Any]


class Tail:
    """One command that follows, and what it has given until now."""

    def __init__(self, place: Place, task: str, params: dict[str, Any]) -> None:
        self.directory = place.tasks / task
        self._grew = asyncio.Event()
        checked = methods.check("log.tail", params)
        call = Call(
            task=task,
            method="log.tail",
            params=checked,
            environment="",
            fence=0,
            directory=self.directory,
            grew=self._grew.set,
        )
        deed = logs.methods(place)["log.tail"]
        assert isinstance(deed, Work)
        assert deed.streams
        self.job = asyncio.ensure_future(deed.act(call))

    @property
    def output(self) -> bytes:
        with suppress(FileNotFoundError):
            return (self.directory / "output").read_bytes()
        return b""

    async def until(self, text: bytes) -> None:
        """Until the output ends so."""
        async with asyncio.timeout(10):
            while not self.output.endswith(text):
                await self._grew.wait()
                self._grew.clear()

    async def end(self) -> Outcome:
        self.job.cancel()
        return await self.job


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "work").mkdir()
    return Place(work=tmp_path / "work", temporary=tmp_path, tasks=tmp_path / "tasks")


@pytest.fixture
def log(place: Place) -> Path:
    return place.work / "app.log"


@asynccontextmanager
async def tailing(place: Place, task: str = "t", **params: Any) -> AsyncIterator[Tail]:
    tail = Tail(place, task, {"path": "app.log", **params})
    try:
        yield tail
    finally:
        tail.job.cancel()
        with suppress(PaddockError, asyncio.CancelledError):
            await tail.job


def append(log: Path, text: bytes) -> None:
    with log.open("ab") as file:
        file.write(text)


def rotate(log: Path, name: str) -> None:
    log.rename(log.with_name(name))


def replace(log: Path, text: bytes) -> None:
    """In the same file."""
    log.write_bytes(text)


async def whole(place: Place, task: str = "t", **params: Any) -> tuple[bytes, Outcome]:
    """What there is now."""
    async with tailing(place, task, follow=False, **params) as tail:
        outcome = await tail.job
        return tail.output, outcome


# ---- where it begins -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, b"".join(b"line %d\n" % number for number in range(11, 21))),
        ({"lines": 2}, b"line 19\nline 20\n"),
        ({"lines": 0}, b""),
        ({"lines": 1000}, b"".join(b"line %d\n" % number for number in range(1, 21))),
        ({"offset": 0, "output_limit": 7}, b"line 1\n"),
        ({"offset": 10**6}, b""),
    ],
)
async def test_it_begins_where_it_is_told(place: Place, log: Path, params: dict[str, Any], expected: bytes) -> None:
    append(log, b"".join(b"line %d\n" % number for number in range(1, 21)))
    output, outcome = await whole(place, **params)
    assert output == expected
    assert outcome.result["bytes"] == len(expected)
    assert outcome.result["ended"] == ("limit" if "output_limit" in params else "end")


async def test_last_lines_of_a_long_file_that_ends_in_the_middle_of_one(place: Place, log: Path) -> None:
    append(log, b"x" * 100_000 + b"\n" + b"y" * 100_000 + b"\nhalf")
    assert (await whole(place, lines=2))[0] == b"y" * 100_000 + b"\nhalf"


async def test_what_is_written_later_comes_later(place: Place, log: Path) -> None:
    append(log, b"one\n")
    async with tailing(place, lines=1) as tail:
        await tail.until(b"one\n")
        append(log, b"two\n")
        await tail.until(b"two\n")
        outcome = await tail.end()
    assert tail.output == b"one\ntwo\n"
    assert (outcome.code, outcome.result["ended"]) == (None, "cancelled")
    assert outcome.streams[LOG_STREAM].length == 8


async def test_its_own_time_ends_it_as_a_success(place: Place, log: Path) -> None:
    append(log, b"one\n")
    async with tailing(place, seconds=0.1) as tail:
        outcome = await tail.job
    assert (outcome.code, outcome.result["ended"]) == (None, "time")


@pytest.mark.slow
async def test_it_is_no_faster_than_its_rate(place: Place, log: Path) -> None:
    append(log, b"x" * (200 << 10))
    loop = asyncio.get_running_loop()
    began = loop.time()
    output, _ = await whole(place, offset=0, rate=400 << 10)
    assert len(output) == 200 << 10
    assert loop.time() - began > 0.4


# ---- what becomes of the file ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_rotation_loses_nothing(place: Place, log: Path) -> None:
    append(log, b"one\n")
    async with tailing(place, offset=0) as tail:
        await tail.until(b"one\n")
        old = log.open("ab")
        rotate(log, "app.log.1")
        append(log, b"three\n")
        old.write(b"two\n")  # who writes has not heard of it yet
        old.close()
        await tail.until(b"three\n")
        outcome = await tail.end()
    assert tail.output == b"one\ntwo\nthree\n"
    assert (outcome.result["rotations"], outcome.result["truncations"], outcome.result["gap"]) == (1, 0, False)


@pytest.mark.slow
@pytest.mark.parametrize("after", [b"new\n", b"a longer text than before\n"])
async def test_a_file_that_is_emptied_begins_anew(place: Place, log: Path, after: bytes) -> None:
    append(log, b"one\ntwo\n")
    async with tailing(place, offset=0) as tail:
        await tail.until(b"two\n")
        replace(log, after)
        await tail.until(after)
        outcome = await tail.end()
    assert tail.output == b"one\ntwo\n" + after
    assert outcome.result["truncations"] == 1


@pytest.mark.slow
async def test_a_file_that_is_away_for_a_while_is_waited_for(place: Place, log: Path) -> None:
    append(log, b"one\n")
    async with tailing(place, offset=0) as tail:
        await tail.until(b"one\n")
        os.unlink(log)
        append(log, b"two\n")
        await tail.until(b"two\n")
    assert tail.output == b"one\ntwo\n"


# ---- going on --------------------------------------------------------------------------------------------------------


async def test_a_cursor_goes_on_behind_the_last_byte(place: Place, log: Path) -> None:
    append(log, b"one\n")
    _, first = await whole(place)
    append(log, b"two\n")
    output, second = await whole(place, "u", cursor=first.result["cursor"])
    assert output == b"two\n"
    assert second.result["gap"] is False
    assert (await whole(place, "v", cursor=second.result["cursor"]))[0] == b""


async def test_a_cursor_finds_the_rotated_file_first(place: Place, log: Path) -> None:
    append(log, b"one\n")
    _, first = await whole(place)
    append(log, b"two\n")
    rotate(log, "app.log.1")
    append(log, b"three\n")
    output, second = await whole(place, "u", cursor=first.result["cursor"])
    assert output == b"two\nthree\n"
    assert second.result["gap"] is False


@pytest.mark.parametrize("how", ["gone", "between"])
async def test_what_is_missing_is_told(place: Place, log: Path, how: str) -> None:
    append(log, b"one\n")
    _, first = await whole(place)
    append(log, b"two\n")
    if how == "gone":
        os.unlink(log)
    else:
        rotate(log, "app.log.2")
        replace(log.with_name("app.log.1"), b"never seen\n")
        os.utime(log.with_name("app.log.2"), (1, 1))
    append(log, b"four\n")
    output, second = await whole(place, "u", cursor=first.result["cursor"])
    assert output.endswith(b"four\n")
    assert second.result["gap"] is True


@pytest.mark.parametrize("behind", [0, 4], ids=["cursor written", "killed before the cursor"])
async def test_after_a_restart_of_the_agent_nothing_is_doubled(place: Place, log: Path, behind: int) -> None:
    append(log, b"one\n")
    async with tailing(place, offset=0) as tail:
        await tail.until(b"one\n")
        await tail.end()
        if behind:
            append(log, b"two\n")
            append(tail.directory / "output", b"two\n")
    append(log, b"three\n")
    output, outcome = await whole(place, offset=0)
    assert output == (b"one\ntwo\nthree\n" if behind else b"one\nthree\n")
    assert outcome.result["bytes"] == len(output)


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"path": "nothing"}, "does not exist"),
        ({"path": "."}, "no plain file"),
        ({"cursor": "journal:x"}, "is none of a file"),
        ({"cursor": "file:1:2"}, "is none of a file"),
        ({"path": None, "unit": "ssh.service", "cursor": "file:1:2:3"}, "is none of a journal"),
    ],
)
async def test_what_cannot_be_followed_is_refused(place: Place, log: Path, params: dict[str, Any], why: str) -> None:
    append(log, b"one\n")
    async with tailing(place, **params) as tail:
        with pytest.raises(PaddockError, match=why):
            await tail.job


@pytest.mark.parametrize(
    "params",
    [{}, {"path": "a", "unit": "b"}, {"unit": "-f"}, {"unit": "a b"}, {"unit": "../x"}, {"path": "a", "rate": 0}],
)
def test_params_that_mean_nothing_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(BadParams):
        methods.check("log.tail", params)


async def test_on_a_machine_no_link_leads_out(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    place = Place(work=tmp_path / "work", temporary=tmp_path, tasks=tmp_path / "tasks", environment="E", machine="one")
    (tmp_path / "work" / "app.log").symlink_to("/etc/passwd")
    for path in ("app.log", "../x", "/etc/passwd"):
        async with tailing(place, path=path) as tail:
            with pytest.raises(Refused):
                await tail.job


# ---- the journal -----------------------------------------------------------------------------------------------------


def test_an_entry_of_the_journal_is_one_line() -> None:
    entry = {"__REALTIME_TIMESTAMP": "1790000000123456", "SYSLOG_IDENTIFIER": "sshd", "_PID": "7", "MESSAGE": "hello"}
    assert journal.shown(entry) == b"2026-09-21T14:13:20.123Z sshd[7]: hello\n"
    assert journal.shown({"MESSAGE": [104, 255, 10]}) == b"1970-01-01T00:00:00.000Z ?: h\xff\n\n"
    assert journal.shown({"MESSAGE": None, "_COMM": "cron"}).endswith(b" cron: \n")


async def test_the_journal_is_followed_by_its_own_cursors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in place of journalctl, which has nothing to say where systemd does not run: the rest is real."""
    script = (
        'for n in 1 2 3; do echo "{\\"__CURSOR\\": \\"c$n\\", \\"MESSAGE\\": \\"m$n\\", \\"_COMM\\": \\"x\\"}"; done'
    )

    def command(unit: str, *, lines: int, cursor: str, follow: bool) -> list[str]:
        return ["/bin/sh", "-c", script if not cursor else "exit 0"]

    monkeypatch.setattr(journal, "command", command)
    async with tailing(place, path=None, unit="x.service") as tail:
        outcome = await tail.job
    assert [line.split(b": ")[1] for line in tail.output.splitlines()] == [b"m1", b"m2", b"m3"]
    assert outcome.result["cursor"] == "journal:c3"
    assert sink._recall(tail.directory) == ("journal:c3", len(tail.output))


async def test_what_journalctl_says_of_its_failure_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "command", lambda *_, **__: ["/bin/sh", "-c", "echo no journal >&2; exit 1"])
    async with tailing(place, path=None, unit="x.service") as tail:
        with pytest.raises(PaddockError, match="journalctl: no journal"):
            await tail.job
