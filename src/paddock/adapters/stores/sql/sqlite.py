"""SQLite as the store's database: one file in WAL mode, and a lock file beside it.

Effects: idempotent.
"""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Any

from paddock.adapters.stores.sql.rows import Cursor
from paddock.adapters.stores.sql.statements import SQLITE, Dialect
from paddock.core.errors import Broken, Refused

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=5000",
    "cache_size=-8000",
    "journal_size_limit=67108864",
    "wal_autocheckpoint=4000",
)


class Sqlite:
    """A file. Its directory is made, 0700, if there is none; the file is 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: int | None = None

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def dialect(self) -> Dialect:
        return SQLITE

    @property
    def readers(self) -> int:
        return 0

    def lock(self) -> None:
        self._prepare()
        # flock and not lockf: it belongs to this opening of the file, so a second store in one process is refused too.
        lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 32).decode("ascii", "replace").strip()
            os.close(lock)
            raise Refused(
                f"{self._path}: process {owner or 'unknown'} has this store open",
                hint="stop that server first, or give this one another state directory",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def unlock(self) -> None:
        # The file stays: removing it would let two servers lock two files of one name.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def connect(self) -> Any:
        try:
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, cached_statements=512
            )
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error as exc:
            raise Broken(f"{self._path}: {exc}") from exc
        return connection

    def migration_url(self) -> str:
        return "sqlite://"

    def begin(self, cursor: Cursor) -> None:
        cursor.execute("BEGIN IMMEDIATE")

    def begin_read(self, cursor: Cursor) -> None:
        cursor.execute("BEGIN")

    def commit(self, cursor: Cursor) -> None:
        cursor.execute("COMMIT")

    def rollback(self, cursor: Cursor) -> None:
        cursor.execute("ROLLBACK")

    def is_fatal(self, exc: BaseException) -> bool:
        mild = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)
        return isinstance(exc, sqlite3.DatabaseError) and not isinstance(exc, mild)

    def is_refusal(self, exc: BaseException) -> bool:
        return isinstance(exc, sqlite3.DataError | OverflowError | UnicodeEncodeError)

    def _prepare(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise Broken(f"{self._path}: {exc.strerror}") from exc
