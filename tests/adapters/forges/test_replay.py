"""A recorded stream as a forge: every line once, every report counted."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from paddock.adapters.forges.replay import BATCH, ReplayForge
from paddock.core.errors import Broken
from paddock.core.event import Change, Heard
from paddock.core.report import Report
from paddock.testing import FakeClock

LINK = "http://127.0.0.1:8080/rounds/1"
CHANGE = Change(
    forge="replay", project="p", branch="master", number=7, patchset=2, ref="refs/changes/07/7/2", revision="0" * 40
)
REPORT = Report(id="1", forge="replay", change=CHANGE, message=f"Build succeeded.\n\n{LINK}", link=LINK)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f'{{"type": "t{number}"}}\n' for number in range(250)))
    return file


def record(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def forge(file: Path) -> ReplayForge:
    return ReplayForge(name="replay", file=file, state=file.parent, clock=FakeClock())


async def play(forge: ReplayForge, wanted: int, since: int | None = None) -> list[Heard]:
    """What is heard until as many lines as wanted were, and nothing more comes."""
    lines: list[Heard] = []
    enough = asyncio.Event()

    async def hear(batch: Sequence[Heard]) -> None:
        assert len(batch) <= BATCH
        lines.extend(batch)
        if len(lines) >= wanted:
            enough.set()

    listening = asyncio.ensure_future(forge.listen(hear, since=since))
    waiting = asyncio.ensure_future(enough.wait())
    await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    waiting.cancel()
    if listening.done():
        listening.result()
    listening.cancel()
    return lines


async def test_every_line_is_heard_with_its_number(file: Path) -> None:
    lines = await play(forge(file), 250)
    assert [line.position for line in lines] == list(range(250))
    assert lines[249].raw == '{"type": "t249"}'
    assert {line.session for line in lines} == {lines[0].session}


async def test_after_a_restart_it_goes_on_where_it_was(file: Path) -> None:
    first = await play(forge(file), 250)
    again = await play(forge(file), 50, since=199)
    assert again == first[200:]


async def test_another_recording_is_another_session(file: Path) -> None:
    first = await play(forge(file), 250)
    record(file, b'{"type": "other"}\n')
    [other] = await play(forge(file), 1)
    assert other.session != first[0].session


async def test_blank_lines_count_and_say_nothing_and_bytes_become_text(file: Path) -> None:
    record(file, b'{"a": 1}\r\n\n  \n\xff\x00junk\nlast without an end')
    lines = await play(forge(file), 3)
    assert [(line.position, line.raw) for line in lines] == [
        (0, '{"a": 1}'),
        (3, "��junk"),
        (4, "last without an end"),
    ]


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"replay: .*gone\.jsonl: No such file"):
        await play(forge(tmp_path / "gone.jsonl"), 1)


async def test_a_report_is_found_once_it_was_sent_and_every_one_is_counted(file: Path) -> None:
    replay = forge(file)
    assert not await replay.find(CHANGE, LINK)
    await replay.send(REPORT)
    assert await replay.find(CHANGE, LINK)
    assert not await replay.find(CHANGE, LINK + "7")
    await forge(file).send(REPORT)
    posted = [json.loads(line) for line in replay.reports.read_text().splitlines()]
    assert [(line["change"], line["patchset"], line["labels"]) for line in posted] == [(7, 2, {}), (7, 2, {})]
    assert posted[0]["message"] == REPORT.message
    assert replay.reports.stat().st_mode & 0o777 == 0o600


async def test_a_line_that_was_cut_by_a_crash_posted_nothing_and_spoils_nothing(file: Path) -> None:
    replay = forge(file)
    await replay.send(REPORT)
    whole = replay.reports.read_bytes()
    replay.reports.write_bytes(whole[:-20])
    assert not await replay.find(CHANGE, LINK)
    await replay.send(REPORT)
    assert await replay.find(CHANGE, LINK)


async def test_a_directory_that_cannot_be_written_is_broken_by_name(tmp_path: Path) -> None:
    replay = ReplayForge(name="replay", file=tmp_path / "x", state=tmp_path / "gone", clock=FakeClock())
    with pytest.raises(Broken, match="reports-replay"):
        await replay.send(REPORT)
