"""The store on SQL: group commit under one epoch; read-only once a commit was lost.

Effects: journaled; COMMIT is the journal, and a caller is answered after it.
"""

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, cast

from paddock.adapters.stores.sql.database import Database
from paddock.adapters.stores.sql.migrating import migrate
from paddock.adapters.stores.sql.rows import SqlTables, Transaction
from paddock.core.errors import Broken, PaddockError, Refused, Stale
from paddock.hands import faults
from paddock.ports import T, Tables, Touched

log = logging.getLogger(__name__)

GROUP_LIMIT = 256
"""Steps that one COMMIT makes durable."""
GROUP_SECONDS = 0.005
"""How long steps of one group may run before it is committed: the event loop has others to serve."""


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A step that somebody waits for."""

    step: Callable[[Tables], Any]
    answer: asyncio.Future[Any]


@dataclass(kw_only=True)
class _Group:
    """Steps that one COMMIT makes durable, and what each caller will be told."""

    answers: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = field(default_factory=list)
    touched: dict[tuple[str, str], Touched] = field(default_factory=dict)
    wrote: bool = False
    failure: PaddockError | None = None
    """Why nothing of it was stored, and nothing will be after it."""


class _Connection:
    """A connection with the tables that steps see on it."""

    def __init__(self, database: Database, *, reads_only: bool = False) -> None:
        self.connection = database.connect()
        self.cursor = self.connection.cursor()
        self.tables = SqlTables(Transaction(self.cursor, reads_only=reads_only), database.dialect)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """What opening found."""

    writer: _Connection
    epoch: int
    birth: str


class SqlStore:
    """`Store` over a database. Made by `open_store`, or by `SqlStore.open` for a database of one's own."""

    def __init__(self, database: Database, opened: _Opened) -> None:
        self._database = database
        self._writer = opened.writer
        self._epoch = self._expected = opened.epoch
        self._birth = opened.birth
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._is_busy = False
        self._is_closed = False
        self._idle: asyncio.Future[None] | None = None
        self._over: PaddockError | None = None
        self._listeners: list[Callable[[Sequence[Touched]], None]] = []
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="store-commit")
        # Steps and reads of a database over a socket wait for it, so they do that on threads.
        self._is_inline = database.readers == 0
        self._readers = None if self._is_inline else ThreadPoolExecutor(database.readers, "store-read")
        self._reader = threading.local()
        self._opened_readers: list[_Connection] = []

    @classmethod
    async def open(cls, database: Database) -> "SqlStore":
        """Take the lock, bring the tables up to date and raise the epoch. `Refused` while another server has it."""
        opened = await asyncio.to_thread(_open, database)
        log.info("store opened", extra={"store": database.name, "epoch": opened.epoch})
        return cls(database, opened)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def birth(self) -> str:
        return self._birth

    @property
    def trouble(self) -> str:
        """Why nothing is written any more; empty while all is well."""
        return self._over.message if self._over is not None else ""

    async def write(self, step: Callable[[Tables], T]) -> T:
        if self._over is not None:
            raise _again(self._over)
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Waiting(step=step, answer=answer))
        if not self._is_busy:
            self._is_busy = True
            # Not at once: whoever else is ready in this turn of the loop comes into the same group.
            self._loop.call_soon(self._start_group)
        return await answer

    async def read(self, step: Callable[[Tables], T]) -> T:
        # A store that cannot be written any more can still be read, until it is closed.
        if self._is_closed:
            raise Broken("store: it is closed")
        if self._readers is None:
            return self._read(step)
        return await self._loop.run_in_executor(self._readers, self._read, step)

    def subscribe(self, tell: Callable[[Sequence[Touched]], None]) -> Callable[[], None]:
        self._listeners.append(tell)

        def stop() -> None:
            if tell in self._listeners:
                self._listeners.remove(tell)

        return stop

    async def raise_epoch(self, above: int) -> int:
        def step(tables: Tables) -> int:
            epoch = max(self._expected, above + 1)
            own = self._writer.tables
            own.transaction.mark()
            own.transaction.cursor.execute(own.server.raise_epoch, (epoch,))
            self._expected = epoch
            return epoch

        self._epoch = await self.write(step)
        return self._epoch

    async def close(self) -> None:
        """Finish what waits, then let go of the database. Idempotent."""
        if self._is_closed:
            return
        self._over = self._over or Broken("store: it is closed")
        self._is_closed = True
        if self._is_busy:
            self._idle = self._loop.create_future()
            await self._idle
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        self._committer.shutdown()
        if self._readers is not None:
            self._readers.shutdown()
        for reader in self._opened_readers:
            reader.connection.close()
        self._writer.connection.close()
        self._database.unlock()

    def _start_group(self) -> None:
        if not self._is_inline:
            self._committer.submit(self._carry_out)
            return
        group = self._run()
        if group.wrote and group.failure is None:
            self._committer.submit(self._carry_out, group)
        else:
            self._end(group)
            self._answer(group)

    def _carry_out(self, group: _Group | None = None) -> None:
        """On the committer's thread: make a group durable, then wake the loop once for all who wait."""
        group = self._run() if group is None else group
        self._end(group)
        self._loop.call_soon_threadsafe(self._answer, group)

    def _run(self) -> _Group:
        """Run waiting steps one after the other in one transaction, each of which can be undone alone."""
        group = _Group()
        try:
            self._database.begin(self._writer.cursor)
            self._check_epoch()
        except BaseException as exc:
            group.failure = self._failure(exc)
        until = perf_counter() + GROUP_SECONDS
        while self._waiting and len(group.answers) < GROUP_LIMIT:
            waiting = self._waiting.popleft()
            if waiting.answer.cancelled():
                continue
            if group.failure is None:
                self._run_step(group, waiting)
            else:
                group.answers.append((waiting.answer, None, None))
            if perf_counter() > until:
                break
        group.wrote = group.wrote or self._writer.tables.is_unsaved
        return group

    def _run_step(self, group: _Group, waiting: _Waiting) -> None:
        transaction = self._writer.tables.transaction
        result, exc = None, None
        try:
            result = waiting.step(self._writer.tables)
        except BaseException as raised:
            exc = raised
        try:
            if exc is not None and self._database.is_fatal(exc):
                raise exc
            if exc is not None:
                transaction.undo()
            else:
                done = transaction.keep()
                group.wrote = group.wrote or done.is_marked
                group.touched.update(done.touched)
        except BaseException as raised:
            group.failure = self._failure(raised)
        group.answers.append((waiting.answer, result, None if exc is None else self._translated(exc)))

    def _check_epoch(self) -> None:
        own = self._writer.tables
        own.transaction.cursor.execute(own.server.look)
        epoch = own.transaction.cursor.fetchone()[0]
        if epoch != self._expected:
            raise Stale(f"{self._database.name}: epoch {self._expected} is over, the current one is {epoch}")

    def _end(self, group: _Group) -> None:
        """COMMIT, or ROLLBACK where there is nothing to keep."""
        if group.wrote and group.failure is None:
            try:
                self._writer.tables.flush()
                faults.at("store.committing")
                self._database.commit(self._writer.cursor)
                faults.at("store.committed")
                return
            except BaseException as exc:
                group.failure = self._failure(exc)
        try:
            self._writer.tables.transaction.keep_nothing()
            self._database.rollback(self._writer.cursor)
        except Exception as exc:
            # The transaction may be gone already; what matters is that nothing is written after it.
            if group.failure is None:
                group.failure = self._failure(exc)

    def _failure(self, exc: BaseException) -> PaddockError:
        return (
            exc if isinstance(exc, PaddockError) else Broken(f"{self._database.name}: {exc}; nothing more is written")
        )

    def _answer(self, group: _Group) -> None:
        """On the loop: tell subscribers, then callers, then go on with who came meanwhile."""
        if group.failure is not None:
            self._over = group.failure
            log.error("store writes no more", extra={"store": self._database.name, "why": group.failure.message})
        if group.failure is None and group.touched:
            touched = tuple(group.touched.values())
            for tell in self._listeners:
                self._loop.call_soon(tell, touched)
        for answer, result, exc in group.answers:
            if answer.done():
                continue
            if group.failure is not None:
                answer.set_exception(_again(group.failure))
            elif exc is not None:
                answer.set_exception(exc)
            else:
                answer.set_result(result)
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting:
            self._loop.call_soon(self._start_group)
            return
        self._is_busy = False
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _read(self, step: Callable[[Tables], T]) -> T:
        reader = self._own_reader()
        try:
            self._database.begin_read(reader.cursor)
            try:
                return step(cast(Tables, reader.tables))
            finally:
                self._database.rollback(reader.cursor)
        except Exception as exc:
            translated = self._translated(exc)
            if translated is exc:
                raise
            raise translated from exc

    def _own_reader(self) -> _Connection:
        reader: _Connection | None = getattr(self._reader, "connection", None)
        if reader is None:
            reader = self._reader.connection = _Connection(self._database, reads_only=True)
            self._opened_readers.append(reader)
        return reader

    def _translated(self, exc: BaseException) -> BaseException:
        """A driver's exception in our words; others as they are."""
        if self._database.is_refusal(exc):
            return Refused(f"store: {exc}")
        if self._database.is_fatal(exc):
            return Broken(f"{self._database.name}: {exc}")
        # A future cannot carry it.
        return RuntimeError("a step raised StopIteration") if isinstance(exc, StopIteration) else exc


def _again(failure: PaddockError) -> PaddockError:
    """One exception for each who is told: they carry tracebacks."""
    return type(failure)(failure.message, hint=failure.hint)


def _open(database: Database) -> _Opened:
    database.lock()
    try:
        migrate(database)
        writer = _Connection(database)
        cursor, server = writer.cursor, writer.tables.server
        database.begin(cursor)
        cursor.execute(server.look)
        found = cursor.fetchone()
        epoch, birth = (1, secrets.token_hex(8)) if found is None else (int(found[0]) + 1, str(found[1]))
        if found is None:
            cursor.execute(server.found, (epoch, birth))
        else:
            cursor.execute(server.raise_epoch, (epoch,))
        database.commit(cursor)
        return _Opened(writer=writer, epoch=epoch, birth=birth)
    except BaseException as exc:
        database.unlock()
        if database.is_fatal(exc):
            raise Broken(f"{database.name}: {exc}") from exc
        raise
