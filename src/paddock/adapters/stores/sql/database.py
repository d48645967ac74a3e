"""What the store asks of a database; SQLite and PostgreSQL are the two that it has."""

from typing import Any, Protocol

from paddock.adapters.stores.sql.rows import Cursor
from paddock.adapters.stores.sql.statements import Dialect


class Database(Protocol):
    """One place where rows are kept, and how its driver is spoken to.

    Connections are in autocommit mode: the store says BEGIN and COMMIT itself. Drivers' exceptions pass through; the
    store sorts them with `is_fatal` and `is_refusal`.
    """

    @property
    def name(self) -> str:
        """What messages call it: the file's path, or the URL without a password."""

    @property
    def dialect(self) -> Dialect: ...

    @property
    def readers(self) -> int:
        """How many threads read. 0: statements are so quick that they run on the event loop, reading and writing.

        Handing a microsecond's work to a thread costs more than the work: a row is found in 13 µs on the loop and in
        110 µs by a thread. Only COMMIT, which waits for the disk, goes to one.
        """

    def lock(self) -> None:
        """Take the store for this process until `unlock` or its death. `Refused` while somebody else has it."""

    def unlock(self) -> None: ...

    def connect(self) -> Any:
        """A DBAPI connection in autocommit mode."""

    def migration_url(self) -> str:
        """For SQLAlchemy's engine, which runs the migrations over `connect`."""

    def begin(self, cursor: Cursor) -> None:
        """Open a transaction that will write."""

    def begin_read(self, cursor: Cursor) -> None:
        """Open a transaction that sees one committed state."""

    def commit(self, cursor: Cursor) -> None:
        """Make it durable, or raise."""

    def rollback(self, cursor: Cursor) -> None: ...

    def is_fatal(self, exc: BaseException) -> bool:
        """Whether the database itself is in trouble: disk, connection, damage."""

    def is_refusal(self, exc: BaseException) -> bool:
        """Whether a value is one that the database cannot keep or compare."""
