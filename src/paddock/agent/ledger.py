"""The agent's durable memory of commands, fences and epochs, in one SQLite file.

Effects: journaled; it is the journal. A method returns when what it wrote is durable. Steps that wait together
share one flush, each in a savepoint of its own, so that one of them failing undoes itself alone.

Sync rules: write-ahead log, `synchronous = FULL`, so each commit is one fsync of the log before anybody is answered. A
commit that fails (a full disk) is undone and raised as Unwritable: nothing of it was decided. A file that cannot be
read whole is never repaired: it is renamed, kept for a person, and a new ledger with another name begins; the server
sees the name in hello and takes every command that was under way for interrupted.

Params may hold what nobody should find: what is no longer needed of them is overwritten (`secure_delete`), and the log
that still shows it is emptied once nothing was written for a second, every ten seconds at the latest. What SQLite left
of a row that it moved within the file before, one in a thousand or so, stays until its page is used again.
"""

import asyncio
import json
import logging
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from paddock.agent.admission import Act, Asked, Decision, Facts, on_command
from paddock.agent.entry import LIFECYCLE, Entry, Keeper, Moment, Outcome, Signal, State, Stream
from paddock.core.errors import Broken, Missing
from paddock.wire.framing import JSON
from paddock.wire.messages import Code

_log = logging.getLogger(__name__)
T = TypeVar("T")

_LARGEST_GROUP = 256
_BUSY_LIMIT = 5  # seconds
_QUIET = 1.0  # seconds without a step after which the log is emptied
_EMPTIED_EVERY = 10.0  # seconds, if there is no such pause
_SCHEMA = """
CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS words (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fences (environment TEXT PRIMARY KEY, fence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
    id TEXT PRIMARY KEY, task TEXT NOT NULL UNIQUE, method TEXT NOT NULL, digest TEXT NOT NULL, seq INTEGER,
    epoch INTEGER, environment TEXT NOT NULL, fence INTEGER NOT NULL, state TEXT NOT NULL, accepted TEXT NOT NULL,
    uptime REAL NOT NULL, boot_id TEXT NOT NULL, params TEXT, keeper_pid INTEGER, keeper_started INTEGER, outcome TEXT,
    acknowledged REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entries_by_state ON entries (state, seq);
"""
_COLUMNS = (
    "id, task, method, digest, seq, epoch, environment, fence, state, accepted, uptime, boot_id, params, keeper_pid, "
    "keeper_started, outcome"
)


RETRY = 1.0
"""Seconds until what found no room is tried again."""


class Unwritable(Broken):
    """What was to be remembered could not be made durable (a full disk): nothing of it counts."""


class Unreadable(Unwritable):
    """Not even what is remembered can be read now: nobody can be told anything, neither yes nor no."""


_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY)
_NO_WRITE = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
)
"""What SQLite says when it has read all it wanted, and could not write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """What was decided; `entry` is the new entry of an Act."""

    decision: Decision
    entry: Entry | None = None


class Ledger:
    """Open with `Ledger.open(path)`, close with `close`. One process at a time; its caller holds the state's lock."""

    def __init__(
        self, path: Path, *, connection: sqlite3.Connection, set_aside: Path | None = None, why: str = ""
    ) -> None:
        self.set_aside = set_aside
        """Where a corrupt predecessor was put; it is a new ledger then."""
        self.why = why
        """What was wrong with that."""
        self._corruption = ""
        self._guard: asyncio.Future[str] | None = None
        self._path = path
        self._connection = connection
        self._changes = 0
        """Of the connection, when the log was last emptied."""
        self._logged_since: float | None = time.monotonic()
        """What was written since then is in the log; at first, what the last process has left there."""
        self._waiting: queue.SimpleQueue[_Step[Any] | None] = queue.SimpleQueue()
        self.id = _name(connection)
        """Empty while it is nobody's."""
        self._owed: Mapping[str, int] | None = None
        """The first fences of one that was told its name, which is still to be written."""
        self._numbers, self._fences = _mirror(connection)
        self._writer = threading.Thread(target=self._write_on, name="ledger", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, path: Path, *, name: str = "") -> Self:
        """Open or make it. One that is corrupt is renamed and a new one begun: nothing is guessed from its rest.

        `name` is what one without a name is called; else it gets a new one.
        """
        set_aside, why = None, ""
        try:
            connection = _open(path, name=name)
        except sqlite3.DatabaseError as exc:
            # OperationalError is a full disk or a missing right: the file may be sound.
            if isinstance(exc, sqlite3.OperationalError) or not path.exists():
                raise Broken(f"{path}: {exc}") from exc
            set_aside, why = _put_aside(path), str(exc)
            connection = _open(path, name="")
        return cls(path, connection=connection, set_aside=set_aside, why=why)

    @classmethod
    def blank(cls, path: Path) -> Self:
        """A new one without a name, whatever was there: `become` makes it somebody's."""
        for one in (path, *(path.with_name(path.name + suffix) for suffix in _BESIDE)):
            with suppress(FileNotFoundError):
                one.unlink()
        try:
            return cls(path, connection=_open(path, name=None))
        except sqlite3.DatabaseError as exc:
            raise Broken(f"{path}: {exc}") from exc

    def become(self, name: str, fences: Mapping[str, int]) -> None:
        """A blank one is called so from now on, and knows these fences. Written with the next step; `stamp` is one."""
        self.id, self._owed = name, dict(fences)
        self._fences = {**self._fences, **fences}

    async def stamp(self) -> None:
        """What it was told to be is durable. Raises Unwritable."""
        await self._write(lambda _: None)

    # What it knows, without waiting

    @property
    def epoch(self) -> int:
        """The highest seen."""
        return self._numbers.get("epoch", 0)

    @property
    def seq(self) -> int:
        """The highest seen of a command that was accepted."""
        return self._numbers.get("seq", 0)

    @property
    def pruned_below(self) -> int:
        """A command up to this seq that is not in the ledger is not run."""
        return self._numbers.get("pruned_below", 0)

    @property
    def fences(self) -> Mapping[str, int]:
        """Highest seen per environment."""
        return dict(self._fences)

    def fence(self, environment: str) -> int:
        """The highest seen of one environment."""
        return self._fences.get(environment, 0)

    # What changes it

    async def admit(
        self, asked: Asked, *, entry: Entry, busy: str = "", floor: int = 0, starts: bool = False
    ) -> Admitted:
        """Decide on a command and, where it is to be carried out, record `entry`, epoch, seq and fence with it.

        `floor` is a fence known from elsewhere. With `starts` it may run from then on, unless something has to end
        before: one flush less for what needs no keeper. Raises Unwritable; then nothing was decided.
        """

        def step(db: sqlite3.Connection) -> Admitted:
            found = _find(db, entry.id)
            owner = None if found else db.execute("SELECT id FROM entries WHERE task = ?", (entry.task,)).fetchone()
            highest = max(_fence(db, asked.environment), floor)
            facts = Facts(
                pruned_below=_number(db, "pruned_below"),
                epoch=_number(db, "epoch"),
                fence=highest,
                task_owner=owner[0] if owner else "",
                busy=busy,
            )
            decision = on_command(found, asked, facts)
            if not isinstance(decision, Act):
                return Admitted(decision=decision)
            admitted = entry
            if starts and not decision.ends_lower:
                admitted = replace(entry, state=LIFECYCLE.step(entry.state, Signal.START))
            _insert(db, admitted)
            _raise(db, "epoch", asked.epoch or 0)
            _raise(db, "seq", asked.seq or 0)
            if asked.environment:
                _raise_fence(db, asked.environment, asked.fence)
            return Admitted(decision=decision, entry=admitted)

        return await self._write(step)

    async def raise_fences(self, fences: Mapping[str, int], *, epoch: int = 0) -> None:
        """Never see less than this again."""
        if epoch <= self.epoch and all(fence <= self.fence(name) for name, fence in fences.items()):
            return

        def step(db: sqlite3.Connection) -> None:
            _raise(db, "epoch", epoch)
            for environment, fence in fences.items():
                _raise_fence(db, environment, fence)

        await self._write(step)

    async def start(self, entry: Entry, *, keeper: Keeper | None) -> Entry:
        """It may run from now on."""

        def step(db: sqlite3.Connection) -> Entry:
            state = _step(db, entry.id, Signal.START)
            pid, started = (keeper.pid, keeper.started) if keeper else (None, None)
            db.execute(
                "UPDATE entries SET state = ?, keeper_pid = ?, keeper_started = ? WHERE id = ?",
                (state, pid, started, entry.id),
            )
            return replace(entry, state=state, keeper=keeper)

        return await self._write(step)

    async def put_back(self, entry: Entry) -> Entry:
        """It is proven that nothing of it ran: it may start again."""

        def step(db: sqlite3.Connection) -> Entry:
            state = _step(db, entry.id, Signal.RETURN)
            db.execute(
                "UPDATE entries SET state = ?, keeper_pid = NULL, keeper_started = NULL WHERE id = ?", (state, entry.id)
            )
            return replace(entry, state=state, keeper=None)

        return await self._write(step)

    async def keep_params(self, id: str, params: Mapping[str, JSON]) -> None:
        """Only these are still needed; the others may hold what nobody should find here."""
        text = json.dumps(params, separators=(",", ":"))
        await self._write(
            lambda db: _execute(
                db, "UPDATE entries SET params = ? WHERE id = ? AND state = ?", (text, id, State.STARTED)
            )
        )

    async def finish(self, entry: Entry, outcome: Outcome, *, acknowledged: datetime | None = None) -> Entry:
        """How it ended, before anybody is told. What is only ever told to who asks is acknowledged with it."""

        def step(db: sqlite3.Connection) -> Entry:
            state = _step(db, entry.id, Signal.FINISH)
            if acknowledged is not None:
                state = LIFECYCLE.step(state, Signal.ACKNOWLEDGE)
            db.execute(
                "UPDATE entries SET state = ?, outcome = ?, params = NULL, acknowledged = ? WHERE id = ?",
                (state, _outcome_text(outcome), acknowledged and acknowledged.timestamp(), entry.id),
            )
            return replace(entry, state=state, outcome=outcome, params=None)

        return await self._write(step)

    async def acknowledge(self, ids: Sequence[str], *, now: datetime) -> None:
        """The server has all of these; what is acknowledged or gone already stays so."""

        def step(db: sqlite3.Connection) -> None:
            for id in ids:
                found = _state(db, id)
                if found is not None and LIFECYCLE.allows(found, Signal.ACKNOWLEDGE):
                    state = LIFECYCLE.step(found, Signal.ACKNOWLEDGE)
                    db.execute(
                        "UPDATE entries SET state = ?, acknowledged = ? WHERE id = ?", (state, now.timestamp(), id)
                    )

        await self._write(step)

    async def prune(self, *, before: datetime) -> int:
        """Forget entries acknowledged before a moment; how many. Those without a seq are kept for ever.

        `pruned_below` is durable with the removal, and only a prefix goes: whatever is open keeps all above it known.
        """

        def step(db: sqlite3.Connection) -> int:
            kept = db.execute(
                "SELECT MIN(seq) FROM entries WHERE seq IS NOT NULL AND NOT (state = ? AND acknowledged < ?)",
                (State.ACKNOWLEDGED, before.timestamp()),
            ).fetchone()[0]
            last = db.execute(
                "SELECT MAX(seq) FROM entries WHERE seq < ?", (kept if kept is not None else 1 << 62,)
            ).fetchone()[0]
            if last is None:
                return 0
            _raise(db, "pruned_below", last)
            return db.execute("DELETE FROM entries WHERE seq <= ?", (last,)).rowcount

        return await self._write(step)

    async def number(self, name: str) -> int:
        """The next number of a counter, from 1, never given twice."""

        def step(db: sqlite3.Connection) -> int:
            value = _number(db, f"counter.{name}") + 1
            _raise(db, f"counter.{name}", value)
            return value

        return await self._write(step)

    async def find(self, id: str) -> Entry | None:
        """The entry of a command."""
        return await self._write(lambda db: _find(db, id))

    async def by_task(self, task: str) -> Entry | None:
        """The entry whose task this is."""
        return await self._write(lambda db: _first(db, "task = ?", (task,)))

    async def unacknowledged(self) -> list[Entry]:
        """Everything that is not over, in order of acceptance."""
        return await self._write(
            lambda db: _all(db, "state <> ? ORDER BY COALESCE(seq, 0), accepted", (State.ACKNOWLEDGED,))
        )

    async def close(self) -> None:
        """Finish what waits, then close; one that has turned out to be corrupt is set aside. Idempotent."""
        if self._writer.is_alive():
            self._waiting.put(None)
            await asyncio.to_thread(self._writer.join)
            if self._corruption:
                _log.error("ledger is corrupt", extra={"why": self._corruption, "kept_as": str(_put_aside(self._path))})

    async def guard(self) -> None:
        """Raises Broken when the file turns out to be corrupt while it is used: nobody acts on its rest."""
        self._guard = asyncio.get_running_loop().create_future()
        why = self._corruption or await self._guard
        raise Broken(f"{self._path}: is corrupt: {why}", hint="start the agent again: a new ledger begins")

    # The writing thread

    async def _write(self, step: Callable[[sqlite3.Connection], T]) -> T:
        if not self._writer.is_alive():
            raise Unwritable(f"{self._path}: closed")
        waiting = _Step(step)
        self._waiting.put(waiting)
        return await waiting.answer

    def _write_on(self) -> None:
        try:
            while (first := self._next()) is not None:
                group, is_last = self._gather(first)
                self._commit(group)
                if is_last:
                    break
                if self._logged_since is None and self._connection.total_changes != self._changes:
                    self._logged_since = time.monotonic()
        finally:
            self._connection.close()

    def _next(self) -> "_Step[Any] | None":
        """The next step. The log is emptied where none comes for a while, and before one that comes too late."""
        while self._logged_since is not None:
            left = self._logged_since + _EMPTIED_EVERY - time.monotonic()
            with suppress(queue.Empty):
                if left > 0:
                    return self._waiting.get(timeout=min(left, _QUIET))
            self._empty()
        return self._waiting.get()

    def _empty(self) -> None:
        """Move all that is in the log into the file, and leave nothing in it. Nobody who reads is waited for."""
        db = self._connection
        self._logged_since = time.monotonic()
        try:
            db.execute("PRAGMA busy_timeout = 0")
            try:
                is_busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                db.execute(f"PRAGMA busy_timeout = {_BUSY_LIMIT * 1000}")
        except sqlite3.Error as exc:
            self._suspect(exc)  # of a full disk nothing is lost: it is tried again
            return
        if not is_busy:
            self._logged_since, self._changes = None, db.total_changes

    def _gather(self, first: "_Step[Any]") -> tuple[list["_Step[Any]"], bool]:
        """What waits already; nobody is waited for."""
        group = [first]
        with suppress(queue.Empty):
            while len(group) < _LARGEST_GROUP:
                step = self._waiting.get_nowait()
                if step is None:
                    return group, True
                group.append(step)
        return group, False

    def _commit(self, group: Sequence["_Step[Any]"]) -> None:
        db = self._connection
        try:
            db.execute("BEGIN IMMEDIATE")
            if (owed := self._owed) is not None:
                _stamp(db, self.id, owed)
            for step in group:
                step.run(db)
            # Before the commit: what cannot be read back is not written either.
            mirror = _mirror(db)
            db.execute("COMMIT")
        except sqlite3.Error as exc:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            self._suspect(exc)
            if len(group) > 1:
                # One that finds no room must not take along whoever only wanted to know: each by itself.
                for step in group:
                    self._commit([step])
                return
            code = getattr(exc, "sqlite_errorcode", 0)
            is_room = code & 0xFF in _NO_ROOM or code in _NO_WRITE
            group[0].fail((Unwritable if is_room else Unreadable)(f"{self._path}: {exc}"))
        else:
            if self._owed is owed:
                self._owed = None
            # Before anybody is answered: whoever goes on sees what was written.
            self._numbers, self._fences = mirror[0], {**mirror[1], **(self._owed or {})}
        _tell(group)

    def _suspect(self, exc: sqlite3.Error) -> None:
        """A full or a busy disk is an OperationalError; this class itself means a file that is not what it was."""
        if type(exc) is not sqlite3.DatabaseError or self._corruption:
            return
        self._corruption = str(exc)
        if (guard := self._guard) is not None:
            with suppress(RuntimeError):  # the loop is closed
                guard.get_loop().call_soon_threadsafe(_answer, guard, self._corruption)


class _Step(Generic[T]):
    """Something to do inside a transaction, and whoever waits for it."""

    def __init__(self, act: Callable[[sqlite3.Connection], T]) -> None:
        self._act = act
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._value: T | None = None
        self._failure: BaseException | None = None

    def run(self, db: sqlite3.Connection) -> None:
        """In a savepoint; what is no fault of the database undoes this step alone. May be called again."""
        self._failure = None
        db.execute("SAVEPOINT step")
        try:
            self._value = self._act(db)
        except sqlite3.Error:
            raise
        except Exception as exc:
            self._failure = exc
            db.execute("ROLLBACK TO step")
        db.execute("RELEASE step")

    def fail(self, failure: BaseException) -> None:
        self._failure = failure

    def resolve(self) -> None:
        """Answer whoever waits. On its loop."""
        if self.answer.done():
            return
        if self._failure is not None:
            self.answer.set_exception(self._failure)
        else:
            self.answer.set_result(self._value)  # type: ignore[arg-type]


def _answer(waiting: "asyncio.Future[str]", what: str) -> None:
    if not waiting.done():
        waiting.set_result(what)


def _tell(group: Sequence[_Step[Any]]) -> None:
    """Answer all of a group at once: waking the loop costs more than an answer."""

    def resolve() -> None:
        for step in group:
            step.resolve()

    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        group[0].answer.get_loop().call_soon_threadsafe(resolve)


def _new_name() -> str:
    return f"ledger-{secrets.token_hex(12)}"


def _stamp(db: sqlite3.Connection, name: str, fences: Mapping[str, int]) -> None:
    db.execute("INSERT OR REPLACE INTO words VALUES ('ledger', ?)", (name,))
    for environment, fence in fences.items():
        _raise_fence(db, environment, fence)


def _name(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT value FROM words WHERE name = 'ledger'").fetchone()
    return str(row[0]) if row else ""


def _open(path: Path, *, name: str | None) -> sqlite3.Connection:
    """`name`: of one that has none, empty for a new one; None leaves it without."""
    fresh = not path.exists()
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_LIMIT)
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -512")
        connection.execute("PRAGMA secure_delete = ON")
        connection.executescript(_SCHEMA)
        said = _one(connection, "PRAGMA quick_check(1)")
        if said != "ok":
            raise sqlite3.DatabaseError(said)
        _read_whole(connection)
        if name is not None and not _name(connection):
            if not fresh and connection.execute("SELECT 1 FROM entries").fetchone() is not None:
                raise sqlite3.DatabaseError("it has lost its name")
            _stamp(connection, name or _new_name(), {})
    except BaseException:
        connection.close()
        raise
    return connection


def _read_whole(db: sqlite3.Connection) -> None:
    """Pages that are sound may hold rows that are not ours: what will be acted on is read before anything is."""
    try:
        _all(db, "state <> ?", (State.ACKNOWLEDGED,))
        counts = [value for counted in _mirror(db) for value in counted.values()]
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise sqlite3.DatabaseError(f"an entry cannot be read: {exc!r}") from exc
    if not all(isinstance(count, int) for count in counts):
        raise sqlite3.DatabaseError("a counter holds no number")


def _mirror(db: sqlite3.Connection) -> tuple[dict[str, int], dict[str, int]]:
    """Counters and fences."""
    return (
        dict(db.execute("SELECT name, value FROM numbers")),
        dict(db.execute("SELECT environment, fence FROM fences")),
    )


_ASIDE = "corrupt"
_BESIDE = ("-wal", "-shm")


def set_aside(path: Path) -> list[Path]:
    """Corrupt ledgers that were kept beside this one, oldest first."""
    found = path.parent.glob(f"{path.name}.{_ASIDE}-*")
    return sorted(one for one in found if not one.name.endswith(_BESIDE))


def _put_aside(path: Path) -> Path:
    target = path.with_name(f"{path.name}.{_ASIDE}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}")
    path.rename(target)
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(target.with_name(target.name + suffix))
    return target


def _one(db: sqlite3.Connection, statement: str) -> str:
    return str(db.execute(statement).fetchone()[0])


def _execute(db: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> None:
    db.execute(statement, values)


def _number(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT value FROM numbers WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def _raise(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute(
        "INSERT INTO numbers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = MAX(value, excluded.value)",
        (name, value),
    )


def _fence(db: sqlite3.Connection, environment: str) -> int:
    row = db.execute("SELECT fence FROM fences WHERE environment = ?", (environment,)).fetchone()
    return int(row[0]) if row else 0


def _raise_fence(db: sqlite3.Connection, environment: str, fence: int) -> None:
    db.execute(
        "INSERT INTO fences VALUES (?, ?) ON CONFLICT (environment) DO UPDATE SET fence = MAX(fence, excluded.fence)",
        (environment, fence),
    )


def _step(db: sqlite3.Connection, id: str, signal: Signal) -> State:
    found = _state(db, id)
    if found is None:
        raise Missing(f"{id}: is not in the ledger")
    return LIFECYCLE.step(found, signal)


def _state(db: sqlite3.Connection, id: str) -> State | None:
    row = db.execute("SELECT state FROM entries WHERE id = ?", (id,)).fetchone()
    return State(row[0]) if row else None


def _find(db: sqlite3.Connection, id: str) -> Entry | None:
    return _first(db, "id = ?", (id,))


def _first(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> Entry | None:
    return next(iter(_all(db, where, values)), None)


def _all(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[Entry]:
    return [_entry(row) for row in db.execute(f"SELECT {_COLUMNS} FROM entries WHERE {where}", values)]


def _insert(db: sqlite3.Connection, entry: Entry) -> None:
    params = None if entry.params is None else json.dumps(entry.params, separators=(",", ":"))
    moment = entry.accepted
    values = (entry.id, entry.task, entry.method, entry.digest, entry.seq, entry.epoch, entry.environment, entry.fence)
    values += (entry.state, moment.at.isoformat(), moment.uptime.total_seconds(), moment.boot_id)  # type: ignore[assignment]
    db.execute(
        f"INSERT INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
        (*values, params),
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(
        id=row[0],
        task=row[1],
        method=row[2],
        digest=row[3],
        seq=row[4],
        epoch=row[5],
        environment=row[6],
        fence=row[7],
        state=State(row[8]),
        accepted=Moment(at=datetime.fromisoformat(row[9]), uptime=timedelta(seconds=row[10]), boot_id=row[11]),
        params=None if row[12] is None else json.loads(row[12]),
        keeper=None if row[13] is None else Keeper(pid=row[13], started=row[14]),
        outcome=None if row[15] is None else _outcome(json.loads(row[15])),
    )


def _outcome_text(outcome: Outcome) -> str:
    streams = {name: [stream.path, stream.length] for name, stream in outcome.streams.items()}
    fields: dict[str, object] = {"result": outcome.result, "streams": streams}
    if outcome.code is not None:
        fields |= {"code": outcome.code, "msg": outcome.msg}
    return json.dumps(fields, separators=(",", ":"))


def _outcome(fields: dict[str, Any]) -> Outcome:
    return Outcome(
        code=Code(fields["code"]) if "code" in fields else None,
        msg=fields.get("msg", ""),
        result=fields["result"],
        streams={name: Stream(path=path, length=length) for name, (path, length) in fields["streams"].items()},
    )


def peek(path: Path, *, limit: int) -> list[Entry]:
    """The newest entries, without becoming the writer: for a person, also while an agent lives on it."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return _all(connection, "1 ORDER BY accepted DESC LIMIT ?", (limit,))
        finally:
            connection.close()
    except sqlite3.Error as exc:
        raise Broken(f"{path}: {exc}") from exc
