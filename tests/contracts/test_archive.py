"""What every archive promises, the one in memory and the one on disk."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.adapters.archives.directory import DirectoryArchive
from paddock.core.errors import Missing, Refused
from paddock.ports import Archive
from paddock.testing import MemoryArchive


@pytest.fixture(params=["memory", "directory"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    if request.param == "memory":
        yield MemoryArchive()
        return
    opened = DirectoryArchive(tmp_path / "archive")
    yield opened
    opened.close()


async def test_bytes_are_appended_at_their_offset(archive: Archive) -> None:
    assert await archive.append("a/log", 0, b"hello ") == 6
    assert await archive.append("a/log", 6, b"world") == 11
    assert await archive.read("a/log") == b"hello world"
    assert await archive.length("a/log") == 11


async def test_bytes_that_are_there_are_not_written_again(archive: Archive) -> None:
    await archive.append("log", 0, b"hello")
    assert await archive.append("log", 0, b"hello") == 5
    assert await archive.append("log", 3, b"lo world") == 11
    assert await archive.append("log", 2, b"l") == 11
    assert await archive.read("log") == b"hello world"


async def test_an_offset_beyond_the_end_is_refused(archive: Archive) -> None:
    await archive.append("log", 0, b"hello")
    for offset in (6, 1000, -1):
        with pytest.raises(Refused, match="beyond its 5 bytes"):
            await archive.append("log", offset, b"x")
    with pytest.raises(Refused, match="beyond its 0 bytes"):
        await archive.append("new", 1, b"x")
    assert await archive.read("log") == b"hello"


async def test_an_empty_append_makes_an_empty_file(archive: Archive) -> None:
    assert await archive.append("log", 0, b"") == 0
    assert await archive.length("log") == 0
    assert await archive.read("log") == b""


async def test_many_appends_at_once_keep_their_order(archive: Archive) -> None:
    pieces = [bytes([number]) * 1000 for number in range(100)]
    answers = await asyncio.gather(*(archive.append("log", n * 1000, piece) for n, piece in enumerate(pieces)))
    assert answers == [(number + 1) * 1000 for number in range(100)]
    assert await archive.read("log") == b"".join(pieces)


async def test_what_is_not_there_is_missing(archive: Archive) -> None:
    assert await archive.length("a/b") is None
    with pytest.raises(Missing, match="a/b: no such file"):
        await archive.read("a/b")
    assert await archive.list("a") == {}
    await archive.remove("a")


async def test_a_part_of_a_file_is_read(archive: Archive) -> None:
    await archive.write("log", b"0123456789")
    assert await archive.read("log", 3, 4) == b"3456"
    assert await archive.read("log", 8) == b"89"
    assert await archive.read("log", 8, 100) == b"89"
    assert await archive.read("log", 10) == b""
    assert await archive.read("log", 99, 5) == b""
    assert await archive.read("log", 2, 0) == b""


async def test_a_whole_file_is_put_and_put_again(archive: Archive) -> None:
    await archive.write("r/result.xml", b"<a/>")
    await archive.write("r/result.xml", b"<b/>")
    assert await archive.read("r/result.xml") == b"<b/>"
    assert await archive.append("r/result.xml", 4, b"!") == 5


async def test_a_file_that_was_appended_to_can_be_replaced(archive: Archive) -> None:
    await archive.append("log", 0, b"long text")
    await archive.write("log", b"short")
    assert await archive.append("log", 5, b"er") == 7
    assert await archive.read("log") == b"shorter"


async def test_names_below_a_directory_are_listed_with_lengths(archive: Archive) -> None:
    for name in ("r/1/b", "r/1/a/x", "r/1-x", "r/10/c", "s"):
        await archive.write(name, name.encode())
    assert list((await archive.list("r/1")).items()) == [("r/1/a/x", 7), ("r/1/b", 5)]
    assert list(await archive.list("")) == ["r/1-x", "r/1/a/x", "r/1/b", "r/10/c", "s"]
    assert await archive.list("s") == {}


async def test_what_is_below_a_directory_is_removed_and_nothing_else(archive: Archive) -> None:
    for name in ("r/1/b", "r/1/a/x", "r/10/c", "s"):
        await archive.append(name, 0, b"x")
    await archive.remove("r/1")
    await archive.remove("r/1")
    assert list(await archive.list("")) == ["r/10/c", "s"]
    assert await archive.append("r/1/b", 0, b"new") == 3
    await archive.remove("s")
    assert await archive.length("s") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "a\nb",
        "a\x1b[31mb",
        "a\x7f",
        "a\x9b",
        "a/" + "x" * 256,
        "ü" * 128,
        "x/" * 2000 + "x",
        "\ud800",
    ],
)
async def test_odd_names_are_refused(archive: Archive, name: str) -> None:
    for act in (archive.append(name, 0, b"x"), archive.write(name, b"x"), archive.read(name), archive.length(name)):
        with pytest.raises(Refused):
            await act
    with pytest.raises(Refused):
        await archive.remove(name)
    assert await archive.list("") == {}


async def test_unusual_names_are_taken(archive: Archive) -> None:
    names = ["a b", "…", "-rf", "a:b\\c", "x" * 255, "...", ".hidden/..x"]
    for name in names:
        await archive.write(name, b"x")
    assert list(await archive.list("")) == sorted(names)


async def test_a_file_is_no_directory_and_a_directory_no_file(archive: Archive) -> None:
    await archive.write("a/b", b"x")
    for name in ("a", "a/b/c"):
        with pytest.raises(Refused):
            await archive.append(name, 0, b"x")
        with pytest.raises(Refused):
            await archive.write(name, b"x")
