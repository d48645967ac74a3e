"""The store on SQL: one adapter, two dialects."""

from pathlib import Path

from paddock.adapters.stores.sql.database import Database
from paddock.adapters.stores.sql.store import SqlStore
from paddock.core.errors import Refused

__all__ = ["SqlStore", "database_at", "open_store"]


def database_at(url: str) -> Database:
    """The database that a URL names: `sqlite:///relative/path`, `sqlite:////absolute/path`, `postgresql://...`."""
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from paddock.adapters.stores.sql.sqlite import Sqlite

        return Sqlite(Path(rest[1:]))
    if scheme in ("postgresql", "postgres"):
        from paddock.adapters.stores.sql.postgresql import PostgreSQL

        return PostgreSQL(url)
    raise Refused(f"store: {scheme or url}: no such database", hint="sqlite:///PATH or postgresql://USER@HOST/NAME")


async def open_store(url: str) -> SqlStore:
    """Open the store at `url`; make and migrate it where needed.

    `Refused` while another server has it open (its process is named) and for tables of a later Paddock; `Broken` where
    the database cannot be reached.
    """
    return await SqlStore.open(database_at(url))
