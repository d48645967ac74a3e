"""What a step sees: rows, history and counters of one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, cast

from paddock.adapters.stores.sql.conversion import LARGEST, conversion, moment
from paddock.adapters.stores.sql.schema import NOUNS
from paddock.adapters.stores.sql.statements import (
    Dialect,
    HistoryStatements,
    ServerStatements,
    Statements,
    statements_of,
)
from paddock.core.access import Enrolment, Token
from paddock.core.agent import Agent
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.errors import Conflict, Refused
from paddock.core.event import Event
from paddock.core.history import Transition
from paddock.core.host import Host
from paddock.core.image import HostImage
from paddock.core.lease import Lease
from paddock.core.report import Report
from paddock.core.results import Results
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.ports import R, Row, Scalar, Touched

N = TypeVar("N", bound=Row)


class Cursor(Protocol):
    """What sqlite3's and psycopg's cursors have in common."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, text: Any, values: Any = ..., /) -> Any: ...
    def executemany(self, text: Any, values: Any, /) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


@dataclass(kw_only=True)
class Step:
    """What the step that runs at the moment did so far. The savepoint is set by its first write."""

    is_marked: bool = False
    touched: dict[tuple[str, str], Touched] = field(default_factory=dict)
    lines: list[Transition] = field(default_factory=list)
    """The history that it wrote."""


class Transaction:
    """One connection's open transaction, in which steps run one after the other."""

    def __init__(self, cursor: Cursor, *, reads_only: bool = False) -> None:
        self.cursor = cursor
        self._reads_only = reads_only
        self.step = Step()
        self.lines: list[Transition] = []
        """The history that steps before this one wrote: it goes to the database at once, before COMMIT."""
        self._marked_lines = self.lines

    def mark(self) -> Step:
        """Called before each write: what the step writes can be undone alone."""
        if not self.step.is_marked:
            if self._reads_only:
                raise RuntimeError("store: written inside a read")
            self.cursor.execute("SAVEPOINT step")
            self.step.is_marked = True
            self._marked_lines = self.lines
        return self.step

    def keep(self) -> Step:
        """End the step; return what it did."""
        done, self.step = self.step, Step()
        if done.is_marked:
            self.cursor.execute("RELEASE SAVEPOINT step")
        self.lines = self.lines + done.lines if done.lines else self.lines
        return done

    def keep_nothing(self) -> None:
        """The whole transaction is rolled back: no savepoint is left to end."""
        self.step = Step()
        self.lines = []

    def undo(self) -> None:
        """End the step as if it had never begun; the others of the transaction stay."""
        done, self.step = self.step, Step()
        if done.is_marked:
            self.lines = self._marked_lines
            self.cursor.execute("ROLLBACK TO SAVEPOINT step")
            self.cursor.execute("RELEASE SAVEPOINT step")


class SqlRows(Generic[R]):
    """`Rows` of one noun."""

    def __init__(self, transaction: Transaction, name: str, statements: Statements) -> None:
        self._name = name
        self._transaction = transaction
        self._statements = statements
        self._execute = transaction.cursor.execute
        self._cursor = transaction.cursor
        convert = conversion(NOUNS[name])
        self._encode, self._decode = convert.encode, convert.decode
        self._changes, self._versioned = convert.changes, convert.versioned

    def add(self, row: R) -> R:
        step = self._transaction.mark()
        stored = self._versioned(row, 1)
        self._execute(self._statements.insert, self._encode(stored))
        if self._cursor.rowcount != 1:
            raise Refused(self._exists(row))
        step.touched[self._name, row.id] = Touched(noun=self._name, id=row.id, row=stored)
        return cast(R, stored)

    def find(self, id: str) -> R | None:
        if "\0" in id:
            return None  # PostgreSQL refuses even to look for it
        self._execute(self._statements.find, (id,))
        values = self._cursor.fetchone()
        return None if values is None else cast(R, self._decode(values))

    def swap(self, old: R, new: R) -> R:
        if old.id != new.id:
            raise ValueError(f"{self._name}: {old.id} cannot become {new.id}")
        step = self._transaction.mark()
        version = old.version + 1
        names, values = self._changes(old, new)
        self._check_unique(names, new)
        values += (version, old.id, old.version)
        self._execute(self._statements.update(names), values)
        if self._cursor.rowcount != 1:
            raise Conflict(f"{self._name}: {old.id} was changed by somebody else")
        stored = self._versioned(new, version)
        step.touched[self._name, new.id] = Touched(noun=self._name, id=new.id, row=stored)
        return cast(R, stored)

    def where(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        above: str | None = None,
        below: str | None = None,
        **equal: Scalar | Sequence[Scalar],
    ) -> list[R]:
        if limit is not None:
            limit = max(0, min(limit, LARGEST))
        query = self._statements.where(equal, limit=limit, newest=newest, above=above, below=below)
        if query is None:
            return []
        self._execute(*query)
        decode = self._decode
        return [decode(row) for row in self._cursor.fetchall()]

    def count(self, **equal: Scalar | Sequence[Scalar]) -> int:
        query = self._statements.count(equal)
        if query is None:
            return 0
        self._execute(*query)
        return int(self._cursor.fetchone()[0])

    def remove(self, id: str) -> None:
        step = self._transaction.mark()
        self._execute(self._statements.remove, (id,))
        if self._cursor.rowcount:
            step.touched[self._name, id] = Touched(noun=self._name, id=id, row=None)

    def _check_unique(self, names: Sequence[str], row: R) -> None:
        # Asked first: on PostgreSQL a violation would end the whole step, even if it is caught.
        unique = self._statements.unique
        if not unique or not set(unique) & set(names):
            return
        self._execute(self._statements.taken, [*(getattr(row, name) for name in unique), row.id])
        if self._cursor.fetchone() is not None:
            raise Refused(self._key_exists(row))

    def _exists(self, row: R) -> str:
        if self._statements.unique and self.find(row.id) is None:
            return self._key_exists(row)
        return f"{self._name}: {row.id} exists already"

    def _key_exists(self, row: R) -> str:
        return f"{self._name}: {', '.join(str(getattr(row, name)) for name in self._statements.unique)} exists already"


class SqlHistory:
    """`History` of one transaction.

    Lines are kept until COMMIT and inserted by one call: they are the most of what is written. A step that asks for
    history sees those that wait, too.
    """

    def __init__(self, transaction: Transaction, statements: HistoryStatements) -> None:
        self._transaction = transaction
        self._statements = statements
        self._cursor = transaction.cursor
        self._encode, self._decode = conversion(Transition).encode, conversion(Transition).decode

    def add(self, transition: Transition) -> None:
        step = self._transaction.mark()
        self._encode(transition)  # what cannot be stored is refused here, not at COMMIT
        step.lines.append(transition)

    def flush(self) -> None:
        """Insert what the transaction's steps wrote."""
        lines, self._transaction.lines = self._transaction.lines, []
        if lines:
            self._cursor.executemany(self._statements.insert, [self._encode(line) for line in lines])

    def of(self, noun: str, id: str, *, limit: int = 1000) -> list[Transition]:
        limit = max(0, limit)
        self._cursor.execute(self._statements.of, (noun, id, limit))
        found = [self._decode(row) for row in reversed(self._cursor.fetchall())]
        found += [line for line in self._waiting() if line.noun == noun and line.id == id]
        return found[max(0, len(found) - limit) :]

    def since(self, noun: str, at: datetime, *, limit: int = 10_000) -> list[Transition]:
        limit = max(0, limit)
        self._cursor.execute(self._statements.since, (noun, moment(at), limit))
        found = [self._decode(row) for row in self._cursor.fetchall()]
        found += [line for line in self._waiting() if line.noun == noun and line.at >= at]
        return sorted(found, key=lambda line: line.at)[:limit]

    def prune(self, before: datetime) -> int:
        step = self._transaction.mark()
        waited = len(self._waiting())
        step.lines = [line for line in step.lines if line.at >= before]
        self._transaction.lines = [line for line in self._transaction.lines if line.at >= before]
        self._cursor.execute(self._statements.prune, (moment(before),))
        return self._cursor.rowcount + waited - len(self._waiting())

    def _waiting(self) -> list[Transition]:
        return self._transaction.lines + self._transaction.step.lines


class SqlTables:
    """`Tables` of one connection; made once, used by one step after the other."""

    def __init__(self, transaction: Transaction, dialect: Dialect) -> None:
        def rows(name: str, noun: type[N]) -> SqlRows[N]:
            return SqlRows[N](transaction, name, statements_of(dialect, name))

        self.transaction = transaction
        self.server = ServerStatements(dialect)
        self.events = rows("events", Event)
        self.rounds = rows("rounds", Round)
        self.runs = rows("runs", Run)
        self.results = rows("results", Results)
        self.reports = rows("reports", Report)
        self.leases = rows("leases", Lease)
        self.environments = rows("environments", Environment)
        self.hosts = rows("hosts", Host)
        self.images = rows("images", HostImage)
        self.agents = rows("agents", Agent)
        self.commands = rows("commands", Command)
        self.alerts = rows("alerts", Alert)
        self.tokens = rows("tokens", Token)
        self.enrolments = rows("enrolments", Enrolment)
        self.history = SqlHistory(transaction, HistoryStatements(dialect))
        self._given: dict[str, int] = {}
        self._unsaved: set[str] = set()

    @property
    def is_unsaved(self) -> bool:
        """Whether there are numbers to save, though their steps were undone."""
        return bool(self._unsaved)

    def number(self, name: str) -> int:
        # Kept here until COMMIT: a number whose step is undone is not given to the next one either.
        self.transaction.mark()
        last = self._given.get(name)
        if last is None:
            self.transaction.cursor.execute(self.server.counted, (name,))
            found = self.transaction.cursor.fetchone()
            last = 0 if found is None else int(found[0])
        self._given[name] = last + 1
        self._unsaved.add(name)
        return last + 1

    def flush(self) -> None:
        """Write what was kept back until COMMIT."""
        self.history.flush()
        for name in self._unsaved:
            self.transaction.cursor.execute(self.server.count, (name, self._given[name]))
        self._unsaved.clear()
