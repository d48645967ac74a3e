"""PostgreSQL as the store's database: the same tables, and an advisory lock.

Effects: idempotent.
"""

import contextlib
import os
import time
from typing import Any, NoReturn

import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from paddock.adapters.stores.sql.rows import Cursor
from paddock.adapters.stores.sql.statements import POSTGRESQL, Dialect
from paddock.core.errors import Broken, Refused
from paddock.core.redaction import redact

# One store a schema: two stores may share a database.
_LOCK = "SELECT pg_try_advisory_lock(%s, hashtext(current_schema()))"
_OWNER = """
SELECT coalesce(nullif(a.application_name, ''), 'backend ' || a.pid)
FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid::bigint = %s AND l.database = a.datid AND l.granted
  AND l.objid::bigint = hashtext(current_schema())::bigint & 4294967295
"""
_PATIENCE = 1.0
"""Seconds that opening waits for the lock."""
_KEY = 0x7061646B
"""`padk`: which of a database's advisory locks is ours."""


class PostgreSQL:
    """A database on a server, named by a `postgresql://` URL as libpq reads it."""

    def __init__(self, url: str) -> None:
        try:
            self._name = make_url(url).render_as_string(hide_password=True)
        except (ArgumentError, ValueError):
            # Without its words: they hold the URL, and the URL may hold a password.
            raise Refused("store: it is no URL that can be read", hint="postgresql://USER@HOST/DATABASE") from None
        self._url = url
        self._lock: psycopg.Connection[Any] | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def dialect(self) -> Dialect:
        return POSTGRESQL

    @property
    def readers(self) -> int:
        return 2

    def lock(self) -> None:
        connection = self.connect()
        until = time.monotonic() + _PATIENCE
        while not connection.execute(_LOCK, (_KEY,)).fetchone()[0]:
            # PostgreSQL may need a moment to notice that a killed server's connection is gone.
            if time.monotonic() > until:
                self._refuse(connection)
            time.sleep(0.05)
        self._lock = connection

    def _refuse(self, connection: Any) -> NoReturn:
        owner = connection.execute(_OWNER, (_KEY,)).fetchone()
        connection.close()
        raise Refused(
            f"{self.name}: {owner[0] if owner else 'somebody'} has this store open",
            hint="stop that server first, or give this one another database",
        )

    def unlock(self) -> None:
        if self._lock is not None:
            # Said aloud: closing alone is noticed later, and the next server would be refused meanwhile.
            with contextlib.suppress(psycopg.Error):
                self._lock.execute("SELECT pg_advisory_unlock_all()")
            self._lock.close()
            self._lock = None

    def connect(self) -> Any:
        try:
            return psycopg.connect(
                self._url, autocommit=True, application_name=f"paddock process {os.getpid()}", connect_timeout=10
            )
        except psycopg.Error as exc:
            raise Broken(f"{self.name}: {redact(str(exc).strip())}") from exc

    def migration_url(self) -> str:
        return "postgresql+psycopg://"

    def begin(self, cursor: Cursor) -> None:
        cursor.execute("BEGIN")

    def begin_read(self, cursor: Cursor) -> None:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    def commit(self, cursor: Cursor) -> None:
        cursor.execute("COMMIT")

    def rollback(self, cursor: Cursor) -> None:
        cursor.execute("ROLLBACK")

    def is_fatal(self, exc: BaseException) -> bool:
        return isinstance(exc, psycopg.OperationalError | psycopg.InternalError | psycopg.InterfaceError)

    def is_refusal(self, exc: BaseException) -> bool:
        return isinstance(exc, psycopg.DataError | OverflowError | UnicodeEncodeError)
