"""Where each contract suite finds the stores that must pass it: one place opens a store again and again."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import psycopg

from paddock.adapters.stores.sql import SqlStore
from paddock.adapters.stores.sql.database import Database
from paddock.adapters.stores.sql.migrating import migrate
from paddock.adapters.stores.sql.postgresql import PostgreSQL
from paddock.adapters.stores.sql.sqlite import Sqlite
from paddock.ports import Store
from paddock.testing import MemoryStore


class Place(Protocol):
    """Somewhere a store is kept, and outlives its server."""

    async def open(self) -> Store:
        """A server starts. The one before has died: its lock is gone."""

    async def steal(self) -> Store:
        """Another server starts although the first is alive, as if the lock had been lost."""

    def fail_commit(self, store: Store) -> None:
        """The next commit of this store does not reach the disk."""


class MemoryPlace:
    def __init__(self) -> None:
        self._store: MemoryStore | None = None

    async def open(self) -> Store:
        self._store = MemoryStore() if self._store is None else self._store.reopen()
        return self._store

    async def steal(self) -> Store:
        return await self.open()

    def fail_commit(self, store: Store) -> None:
        assert isinstance(store, MemoryStore)
        store.fail_commit()


class Wilful:
    """A database that misbehaves on request: its lock is no obstacle, its disk is full at the next COMMIT."""

    def __init__(self, database: Database, *, is_locked: bool = True) -> None:
        self._database = database
        self._is_locked = is_locked
        self.is_failing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def lock(self) -> None:
        if self._is_locked:
            self._database.lock()

    def commit(self, cursor: Any) -> None:
        if self.is_failing:
            self.is_failing = False
            raise OSError("No space left on device")
        self._database.commit(cursor)


class SqlPlace:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._databases: dict[int, Wilful] = {}
        self._opened: list[SqlStore] = []

    async def open(self) -> Store:
        await self.leave()
        return await self._open(Wilful(self._database))

    async def steal(self) -> Store:
        return await self._open(Wilful(self._database, is_locked=False))

    def fail_commit(self, store: Store) -> None:
        self._databases[id(store)].is_failing = True

    async def leave(self) -> None:
        for store in self._opened:
            await store.close()

    async def _open(self, database: Wilful) -> SqlStore:
        store = await SqlStore.open(database)
        self._databases[id(store)] = database
        self._opened.append(store)
        return store


def make_template(path: Path) -> Path:
    """A file with all tables and nothing in them: copying it is quicker than migrating anew."""
    database = Sqlite(path)
    migrate(database)
    connection = database.connect()
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    return path


def sqlite_place(directory: Path, template: Path) -> SqlPlace:
    """A store in `directory`, copied from one whose tables are made already."""
    path = directory / "store.db"
    shutil.copy(template, path)
    return SqlPlace(Sqlite(path))


BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)


def no_postgresql() -> str:
    """Why the tests on PostgreSQL cannot run; empty if they can."""
    if not BINARIES:
        return "PostgreSQL's server is not installed (Debian: postgresql)"
    if os.geteuid() == 0 and not _users():
        return "PostgreSQL does not run as root, and there is neither a user postgres nor nobody"
    return ""


@contextmanager
def postgresql() -> Iterator[str]:
    """A server of its own on a unix socket; yields its URL."""
    binaries = BINARIES[0].parent
    directory = tempfile.mkdtemp(prefix="paddock-pg-")
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        entry = _users()[0]
        user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        os.chown(directory, entry.pw_uid, entry.pw_gid)
    try:
        _initdb(binaries, f"{directory}/data", user)
        # Not for claims about durability, which are made on SQLite: the suite asks for the same answers, quickly.
        command = [str(binaries / "postgres"), "-D", f"{directory}/data", "-k", directory, "-h", "", "-c", "fsync=off"]
        with open(f"{directory}/log", "wb") as log:
            server = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, **user)
        try:
            url = f"postgresql://paddock@/postgres?host={quote(directory, safe='')}"
            _wait(server, url, Path(directory, "log"))
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def postgresql_database(url: str, name: str) -> PostgreSQL:
    """A schema of its own on the server."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'CREATE SCHEMA "{name}"')  # type: ignore[arg-type,unused-ignore]
    return PostgreSQL(f"{url}&options={quote(f'-csearch_path={name}', safe='')}")


def _users() -> list[pwd.struct_passwd]:
    return [entry for entry in pwd.getpwall() if entry.pw_name in ("postgres", "nobody")][::-1]


def _initdb(binaries: Path, data: str, user: dict[str, Any]) -> None:
    command = [
        str(binaries / "initdb"),
        "-D",
        data,
        "-U",
        "paddock",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    subprocess.run(command, cwd="/", check=True, capture_output=True, **user)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise AssertionError(log.read_text()) from None
            time.sleep(0.05)
