"""Noting: an agent's own log keeps its order and its end, and a reader's place in it."""

from paddock.engine import noting
from paddock.testing import MemoryArchive


def entry(number: int, level: str = "info", **rest: object) -> dict[str, object]:
    return {"level": level, "msg": f"line {number}", "time": "2026-01-31T09:42:00Z", **rest}


def messages(found: noting.Lines) -> list[str]:
    return [line.message for line in found.items]


async def test_lines_are_read_in_the_order_in_which_they_were_told() -> None:
    archive = MemoryArchive()
    await noting.note(archive, "a1", [entry(0), entry(1)])
    await noting.note(archive, "a1", [entry(2)])
    assert messages(await noting.last(archive, "a1", count=10)) == ["line 0", "line 1", "line 2"]
    assert messages(await noting.last(archive, "a1", count=2)) == ["line 1", "line 2"]
    assert not (await noting.last(archive, "nobody", count=2)).items


async def test_a_reader_goes_on_where_it_was_though_the_old_end_was_cut_off() -> None:
    archive = MemoryArchive()
    await noting.note(archive, "a1", [entry(0)])
    cursor = (await noting.last(archive, "a1", count=1)).cursor
    read = []
    for number in range(1, 400):
        await noting.note(archive, "a1", [entry(number, fields={"pad": "x" * 4000})])
        found = await noting.after(archive, "a1", cursor, count=100)
        read += messages(found)
        cursor = found.cursor
    assert read == [f"line {number}" for number in range(1, 400)]
    kept = await archive.list(noting.place("a1"))
    assert len(kept) <= noting.KEPT
    assert sum(kept.values()) <= noting.KEPT * (noting.SEGMENT + 5000)
    slow = await noting.after(archive, "a1", 10, count=1000)
    assert messages(slow)[-1] == "line 399"
    assert messages(slow)[0] != "line 1", "what was cut off is left out"


async def test_lines_below_the_level_are_passed_over() -> None:
    archive = MemoryArchive()
    await noting.note(archive, "a1", [entry(0, "debug"), entry(1, "error"), entry(2, "info"), entry(3, "warning")])
    assert messages(await noting.last(archive, "a1", count=10, level="warning")) == ["line 1", "line 3"]
    found = await noting.after(archive, "a1", 0, count=1, level="warning")
    assert messages(found) == ["line 1"]
    assert messages(await noting.after(archive, "a1", found.cursor, count=9, level="warning")) == ["line 3"]


async def test_secrets_and_codes_for_terminals_do_not_come_through() -> None:
    archive = MemoryArchive()
    await noting.note(archive, "a1", [entry(0, msg="\x1b[2Jtoken=abcdefgh", fields={"password": "hunter2"})])
    (line,) = (await noting.last(archive, "a1", count=1)).items
    assert (line.message, line.fields) == ("\ufffd[2Jtoken=[redacted]", {"password": "[redacted]"})


async def test_what_is_no_line_is_shown_as_it_stands() -> None:
    archive = MemoryArchive()
    await archive.append(f"{noting.place('a1')}/{0:016d}", 0, b'[1]\nhalf {\n{}\n{"level": "odd", "msg": 7}\n')
    assert [(line.level, line.message) for line in (await noting.last(archive, "a1", count=9)).items] == [
        ("info", "[1]"),
        ("info", "half {"),
        ("info", ""),
        ("info", "7"),
    ]
