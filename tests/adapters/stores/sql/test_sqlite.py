"""The store's file: who may read it, who may open it, and a disk that is full."""

import asyncio
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from paddock.adapters.stores.sql import database_at, open_store
from paddock.adapters.stores.sql.sqlite import Sqlite
from paddock.core.errors import Broken, Refused


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own, whose output is read line by line."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = await open_store(f"sqlite:///{tmp_path}/state/store.db")
        await store.write(lambda tables: tables.number("run"))
    finally:
        os.umask(old)
    assert mode(tmp_path / "state") == 0o700
    assert {path.name: mode(path) for path in (tmp_path / "state").iterdir()} == dict.fromkeys(
        ("store.db", "store.db.lock", "store.db-wal", "store.db-shm"), 0o600
    )
    await store.close()


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    connection = Sqlite(tmp_path / "store.db").connect()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


@pytest.mark.slow
async def test_a_second_opener_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = await open_store(url)
    with pytest.raises(Refused, match=f"process {os.getpid()} has this store open"):
        await open_store(url)
    epoch = store.epoch
    await store.close()
    again = await open_store(url)
    assert again.epoch == epoch + 1
    await again.close()


HOLDER = """
    import asyncio, sys
    from paddock.adapters.stores.sql import open_store

    async def hold():
        store = await open_store(sys.argv[1])
        print(await store.write(lambda tables: tables.number("run")), flush=True)
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(hold())
"""


@pytest.mark.slow
async def test_a_killed_holder_holds_nothing_and_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with run(HOLDER, url) as holder:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "1\n"
        with pytest.raises(Refused, match=f"process {holder.pid} has this store open"):
            await open_store(url)
        holder.kill()
    store = await open_store(url)
    assert await store.write(lambda tables: tables.number("run")) == 2
    await store.close()


FULL = """
    import asyncio, resource, sys
    from datetime import UTC, datetime
    from paddock.adapters.stores.sql import open_store
    from paddock.core.errors import Broken
    from paddock.core.host import Host

    NOW = datetime(2026, 1, 1, tzinfo=UTC)

    async def fill():
        store = await open_store(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
        stored = 0
        try:
            for n in range(1000):
                row = Host(id=str(n), skills=(), since=NOW, reason="x" * 10_000)
                await store.write(lambda tables: tables.hosts.add(row))
                stored += 1
        except Broken as exc:
            print(stored, await store.read(lambda tables: tables.hosts.count()))
            print(exc)
        try:
            await store.write(lambda tables: tables.number("run"))
        except Broken as exc:
            print(exc)
        await store.close()

    asyncio.run(fill())
"""


@pytest.mark.slow
async def test_a_full_disk_makes_the_store_read_only_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with run(FULL, url) as process:
        said, _ = await asyncio.to_thread(process.communicate)
    counts, first, second = said.splitlines()
    stored, readable = map(int, counts.split())
    assert 0 < stored == readable < 1000
    assert "nothing more is written" in first
    assert first == second
    store = await open_store(url)
    assert await store.read(lambda tables: tables.hosts.count()) == stored
    assert await store.write(lambda tables: tables.number("run")) == 1
    await store.close()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Broken, match=r"file/state/store\.db: "):
        await open_store(f"sqlite:///{tmp_path}/file/state/store.db")


async def test_a_file_that_is_no_database_is_named_and_let_go(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("this is a letter, not a database; " * 100)
    for _ in range(2):
        with pytest.raises(Broken, match=r"store\.db: file is not a database"):
            await open_store(f"sqlite:///{path}")


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "store.db", "sqlite:///"])
def test_an_unknown_url_is_refused_with_what_is_known(url: str) -> None:
    with pytest.raises(Refused, match="no such database") as refused:
        database_at(url)
    assert "sqlite:///PATH" in refused.value.hint


def test_a_url_names_a_relative_or_an_absolute_path() -> None:
    assert database_at("sqlite:///state/store.db").name == "state/store.db"
    assert database_at("sqlite:////var/lib/store.db").name == "/var/lib/store.db"
