"""Windows onto logs of any size: by line, by text, by time."""

import random

import pytest

from paddock.core.errors import Missing, Refused
from paddock.testing import MemoryArchive
from paddock.web.logs import BLOCK, Logs, Stream


def stream(name: str, *, ended: bool = True) -> Stream:
    machine = name.split("-")[2]
    return Stream(name=name, phase="main", step=1, title="", machine=machine, archive=f"r/logs/{name}.log", ended=ended)


async def archived(text: bytes, times: bytes = b"") -> tuple[MemoryArchive, Logs]:
    archive = MemoryArchive()
    await archive.write("r/logs/main-1-one.log", text)
    if times:
        await archive.write("r/logs/main-1-one.times", times)
    return archive, Logs(archive)


async def test_a_window_is_the_same_wherever_it_begins() -> None:
    """Lines of all lengths, across many blocks, against the plain truth."""
    chance = random.Random(7)
    lines = [
        f"{number}:{'x' * chance.choice((0, 3, 80, 700, 90_000 if number % 97 == 0 else 20))}"
        for number in range(1, 4000)
    ]
    data = "\n".join(lines).encode() + b"\n"
    assert len(data) > 8 * BLOCK
    _, logs = await archived(data)
    for first in (1, 2, 96, 97, 98, 99, 970, 971, 972, 2000, 3998, 3999):
        window = await logs.window("r/logs/main-1-one.log", first=first, count=3)
        assert window.total == 3999
        assert [line.number for line in window.lines] == list(range(first, min(4000, first + 3)))
        for line in window.lines:
            assert line.html.startswith(f"{line.number}:")
            assert data[line.offset :].startswith(f"{line.number}:".encode())


async def test_a_negative_first_counts_from_the_end() -> None:
    _, logs = await archived(b"1\n2\n3\n4")
    window = await logs.window("r/logs/main-1-one.log", first=-2, count=10)
    assert [line.html for line in window.lines] == ["3", "4"]


async def test_the_index_grows_with_the_log() -> None:
    archive, logs = await archived(b"one\ntw")
    assert (await logs.window("r/logs/main-1-one.log", first=1, count=9)).total == 2
    await archive.append("r/logs/main-1-one.log", 6, b"o\nthree\n")
    window = await logs.window("r/logs/main-1-one.log", first=1, count=9)
    assert [line.html for line in window.lines] == ["one", "two", "three"]


async def test_a_window_beyond_the_end_is_empty_and_one_of_nothing_is_missing() -> None:
    _, logs = await archived(b"one\n")
    assert (await logs.window("r/logs/main-1-one.log", first=5, count=9)).lines == ()
    with pytest.raises(Missing):
        await logs.window("r/logs/none.log", first=1, count=9)


async def test_a_long_log_opens_without_being_read() -> None:
    archive, logs = await archived(b"line\n" * 2_000_000)
    window = await logs.opening("r/logs/main-1-one.log", count=5)
    assert (len(window.lines), window.length, window.is_partial) == (5, 10_000_000, True)
    assert (await logs.window("r/logs/main-1-one.log", first=-1, count=1)).lines[0].number == 2_000_000
    assert not (await logs.opening("r/logs/main-1-one.log", count=5)).is_partial
    await archive.write("r/logs/main-1-two.log", b"short\n")
    assert not (await logs.opening("r/logs/main-1-two.log", count=5)).is_partial


async def test_one_endless_line_reads_a_bounded_piece() -> None:
    _, logs = await archived(b"x" * (5 * 1024 * 1024))
    window = await logs.window("r/logs/main-1-one.log", first=1, count=9)
    assert len(window.lines) == 1
    assert len(window.lines[0].html) < 5000


async def test_each_line_has_the_time_at_which_its_beginning_was_written() -> None:
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    entries, offset = [], 0
    for number in range(20_000):
        if number % 2 == 0:
            entries.append(
                b"%d 2026-01-31T%02d:%02d:%02d.000Z\n" % (offset, number // 3600, number // 60 % 60, number % 60)
            )
        offset += len(b"line %d\n" % number)
    _, logs = await archived(text, b"".join(entries))
    for first in (1, 2, 3, 9_999, 10_000, 19_999):
        window = await logs.window("r/logs/main-1-one.log", first=first, count=1)
        number = (first - 1) // 2 * 2
        assert window.lines[0].at == f"2026-01-31T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000Z"


async def test_search_finds_lines_in_any_case_across_pieces() -> None:
    lines = [b"nothing here %d" % number for number in range(200_000)]
    for number in (0, 77_777, 199_999):
        lines[number] += b" NEEDLE needle"
    _, logs = await archived(b"\n".join(lines) + b"\n")
    assert await logs.search("r/logs/main-1-one.log", "Needle") == ([1, 77_778, 200_000], False)
    assert await logs.search("r/logs/main-1-one.log", ".*") == ([], False)
    hits, more = await logs.search("r/logs/main-1-one.log", "nothing")
    assert (len(hits), more) == (1000, True)


async def two_machines() -> tuple[MemoryArchive, Logs, list[Stream]]:
    archive = MemoryArchive()
    for machine, offset in (("one", 0), ("two", 1)):
        text = b"".join(b"%s %d\n" % (machine.encode(), number) for number in range(50))
        times = b"".join(
            b"%d 2026-01-31T00:00:%02d.%d00Z\n" % (at, number, offset) for number, at in enumerate(_starts(text))
        )
        await archive.write(f"r/logs/main-1-{machine}.log", text)
        await archive.write(f"r/logs/main-1-{machine}.times", times)
    return archive, Logs(archive), [stream("main-1-one"), stream("main-1-two")]


def _starts(text: bytes) -> list[int]:
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts[:-1]


async def test_logs_are_merged_by_time_page_by_page_without_loss() -> None:
    _, logs, streams = await two_machines()
    seen, cursor = [], ""
    while True:
        lines, cursor = await logs.merged(streams, cursor=cursor, count=7)
        if not lines:
            break
        seen += [line.text for line in lines]
    assert seen == [f"{machine} {number}" for number in range(50) for machine in ("one", "two")]


async def test_the_end_of_merged_logs_is_followed_from_there() -> None:
    archive, logs, streams = await two_machines()
    lines, cursor = await logs.merged(streams, cursor="end", count=4)
    assert [line.text for line in lines] == ["one 48", "two 48", "one 49", "two 49"]
    assert (await logs.merged(streams, cursor=cursor, count=4))[0] == []
    length = await archive.length("r/logs/main-1-one.log") or 0
    await archive.append("r/logs/main-1-one.log", length, b"one more\n")
    assert [line.text for line in (await logs.merged(streams, cursor=cursor, count=4))[0]] == ["one more"]


async def test_a_half_line_is_held_back_until_it_is_whole_or_nothing_follows() -> None:
    _, logs = await archived(b"whole\nha")
    told, cursor = await logs.merged([stream("main-1-one", ended=False)], cursor="", count=9)
    assert [line.text for line in told] == ["whole"]
    told, _ = await logs.merged([stream("main-1-one")], cursor=cursor, count=9)
    assert [line.text for line in told] == ["ha"]


@pytest.mark.parametrize("cursor", ["nonsense", "x:-1", "a:1,b", "a:９"])
async def test_a_cursor_that_was_not_given_out_is_refused(cursor: str) -> None:
    _, logs = await archived(b"one\n")
    with pytest.raises(Refused):
        await logs.merged([stream("main-1-one")], cursor=cursor, count=9)
