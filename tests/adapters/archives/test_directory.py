"""Plain files: who may read them, what no symlink can do, and a disk that is full."""

import asyncio
import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.adapters.archives import directory
from paddock.adapters.archives.directory import DirectoryArchive
from paddock.core.errors import Refused


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def archive(root: Path) -> Iterator[DirectoryArchive]:
    opened = DirectoryArchive(root)
    yield opened
    opened.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_files(root: Path) -> int:
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            found += os.readlink(entry.path).startswith(str(root))
        except FileNotFoundError:
            continue
    return found


async def test_files_are_plain_and_for_their_owner_alone(archive: DirectoryArchive, root: Path) -> None:
    await archive.append("a/log", 0, b"hello")
    await archive.write("a/b/result", b"<a/>")
    assert (root / "a/log").read_bytes() == b"hello"
    assert [mode(root / part) for part in (".", "a", "a/b")] == [0o700] * 3
    assert [mode(root / part) for part in ("a/log", "a/b/result")] == [0o600] * 2


@pytest.mark.parametrize("name", ["out/secret", "out/new", "out/deep/new", "link", "dangling"])
async def test_no_symlink_in_the_tree_leads_out(
    archive: DirectoryArchive, root: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "out").symlink_to(outside)
    (root / "link").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(outside / "made")
    for act in (archive.append(name, 0, b"x"), archive.write(name, b"x"), archive.read(name), archive.length(name)):
        with pytest.raises(Refused, match=name):
            await act
    assert await archive.list("") == {}
    assert await archive.list("out") == {}
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"


async def test_removing_a_symlink_leaves_what_it_points_to(
    archive: DirectoryArchive, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    await archive.write("r/1/a", b"x")
    (root / "r/1/out").symlink_to(outside)
    (root / "r/2").symlink_to(outside)
    await archive.remove("r/1")
    await archive.remove("r/2")
    (root / "r").mkdir()
    (root / "r/3").symlink_to(outside)
    with pytest.raises(Refused):
        await archive.remove("r/3/kept")
    assert (outside / "kept").exists()


async def test_a_pipe_or_a_directory_is_no_file(archive: DirectoryArchive, root: Path) -> None:
    os.mkfifo(root / "pipe")
    for act in (archive.append("pipe", 0, b"x"), archive.read("pipe"), archive.write("pipe", b"x")):
        with pytest.raises(Refused):
            await act


async def test_the_length_of_the_file_is_the_truth_after_a_restart(root: Path) -> None:
    first = DirectoryArchive(root)
    await first.append("log", 0, b"hello")
    first.close()
    first.close()
    with (root / "log").open("ab") as log:
        log.write(b" half")
    second = DirectoryArchive(root)
    assert await second.length("log") == 10
    assert await second.append("log", 5, b" half a line") == 17
    assert await second.read("log") == b"hello half a line"
    second.close()


async def test_appends_at_once_share_their_syncs(archive: DirectoryArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    await archive.append("log", 0, b"")
    synced.clear()
    await asyncio.gather(*(archive.append("log", n * 10, b"0123456789") for n in range(200)))
    assert 1 <= len(synced) <= 5


async def test_every_append_is_synced_before_it_is_answered(
    archive: DirectoryArchive, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        real(descriptor)
        lengths.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", sync)
    for number in range(5):
        answer = await archive.append("log", number * 3, b"abc")
        assert lengths[-1] == answer == (number + 1) * 3


async def test_few_files_are_kept_open(archive: DirectoryArchive, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "OPEN_LIMIT", 8)
    for lap in range(2):
        await asyncio.gather(*(archive.append(f"f{n}", lap, b"x") for n in range(40)))
        for number in range(40):
            await archive.append(f"f{number}", lap, b"x")
    assert open_files(root) <= 10
    assert set((await archive.list("")).values()) == {2}


async def test_removing_closes_the_files_and_the_empty_directories(archive: DirectoryArchive, root: Path) -> None:
    for number in range(5):
        await archive.append(f"p/1/{number}/log", 0, b"x")
    await archive.append("p/2/log", 0, b"x")
    await archive.remove("p/1")
    assert open_files(root) == 2
    assert [path.name for path in (root / "p").iterdir()] == ["2"]
    await archive.remove("p/2/log")
    assert os.listdir(root) == []


async def test_a_caller_that_gives_up_leaves_whole_bytes(archive: DirectoryArchive) -> None:
    given_up = asyncio.create_task(archive.append("log", 0, b"hello"))
    await asyncio.sleep(0)
    given_up.cancel()
    there = await archive.append("log", 0, b"hello world")
    assert there == 11
    assert await archive.read("log") == b"hello world"


FULL = """
    import asyncio, resource, sys
    from pathlib import Path
    from paddock.adapters.archives.directory import DirectoryArchive
    from paddock.core.errors import Broken

    async def fill():
        archive = DirectoryArchive(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        length = 0
        try:
            while True:
                length = await archive.append("log", length, b"x" * 7_000)
        except Broken as exc:
            print(exc)
        try:
            await archive.write("whole", b"x" * 200_000)
        except Broken as exc:
            print(exc)
        print(length, await archive.length("log"), await archive.append("log", length, b"y"))
        print(dict(await archive.list("")))
        archive.close()

    asyncio.run(fill())
"""


@pytest.mark.slow
def test_a_full_disk_is_said_and_half_an_append_is_taken_back(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(root)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "log: File too large",
        "whole: File too large",
        "98000 98000 98001",
        "{'log': 98001}",
    ]
    assert [path.name for path in root.iterdir()] == ["log"]


KILLED = """
    import asyncio, sys
    from pathlib import Path
    from paddock.adapters.archives.directory import DirectoryArchive

    async def fill():
        archive = DirectoryArchive(Path(sys.argv[1]))
        await archive.append("log", 0, b"acknowledged")
        print("armed", flush=True)
        if sys.argv[2] == "append":
            await archive.append("log", 12, b" lost")
        await archive.write("whole", b"whole")

    asyncio.run(fill())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "act", "log", "whole"),
    [
        ("archive.appending:2", "append", {b"acknowledged"}, None),
        ("archive.appended:2", "append", {b"acknowledged lost"}, None),
        ("archive.writing", "write", {b"acknowledged"}, None),
        ("archive.written", "write", {b"acknowledged"}, b"whole"),
    ],
)
def test_a_killed_server_loses_nothing_that_was_acknowledged(
    root: Path, point: str, act: str, log: set[bytes], whole: bytes | None
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(root), act], env={**os.environ, "PADDOCK_FAULT": point}
    )
    assert process.returncode == -9

    async def look() -> None:
        archive = DirectoryArchive(root)
        assert await archive.read("log") in log
        assert await archive.length("whole") == (None if whole is None else len(whole))
        assert set(await archive.list("")) == {"log"} | ({"whole"} if whole else set())
        archive.close()

    asyncio.run(look())
