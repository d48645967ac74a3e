"""In-memory stand-ins for every port, for tests of Paddock and of what is built on it.

They pass the contract suites of the real adapters (`tests/contracts`) and misbehave on request: conflict once, lose a
commit, die after it, refuse, go silent. Effects: none.
"""

import asyncio
import heapq
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, cast, get_args, get_type_hints

from paddock.core.access import Enrolment, Token
from paddock.core.agent import Agent
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.errors import Broken, Conflict, Missing, Refused, Stale
from paddock.core.event import Change, Event, Heard, Kind
from paddock.core.history import Transition
from paddock.core.host import Host
from paddock.core.image import HostImage
from paddock.core.lease import Lease
from paddock.core.names import archive_name
from paddock.core.report import Report
from paddock.core.results import Results
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.ports import Away, R, Scalar, T, Tables, Touched

__all__ = ["FakeChance", "FakeClock", "FakeForge", "FakeLinks", "MemoryArchive", "MemoryStore"]

S = TypeVar("S")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""Where a FakeClock starts unless it is told otherwise."""


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: datetime = EPOCH) -> None:
        self._now = now
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []
        self._slept = 0

    @property
    def sleepers(self) -> int:
        """How many are asleep now: a test waits for this before it moves the clock."""
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    def now(self) -> datetime:
        return self._now

    async def sleep_until(self, moment: datetime) -> None:
        if moment <= self._now:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._slept += 1
        heapq.heappush(self._sleepers, (moment, self._slept, woken))
        await woken

    def advance(
        self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0, to: datetime | None = None
    ) -> datetime:
        """Jump ahead (or `to` a moment) and wake who is due, in order of their moments, at the loop's next turn.

        All see the new time. A loop that sleeps again and again is woken once; `elapse` lives through every moment.
        """
        span = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
        moment = (self._now if to is None else to) + span
        if moment < self._now:
            raise ValueError(f"clock: {moment} is before {self._now}")
        self._now = moment
        while self._sleepers and self._sleepers[0][0] <= moment:
            self._wake()
        return moment

    async def elapse(self, *, seconds: float = 0, minutes: float = 0, hours: float = 0, days: float = 0) -> None:
        """Let time pass: each sleeper due on the way is woken at its own moment and gets to run before the next."""
        until = self._now + timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            self._now = max(self._now, self._sleepers[0][0])
            self._wake()
            await settle()
        self._now = until
        await settle()

    def _wake(self) -> None:
        _, _, sleeper = heapq.heappop(self._sleepers)
        if not sleeper.done():
            sleeper.set_result(None)


async def settle(turns: int = 50) -> None:
    """Let everything that is ready run: in-memory fakes never wait for more than a few turns of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)


class FakeChance:
    """Names and secrets that count: `run1`, `run2`; every test sees the same ones."""

    def __init__(self, shares: Sequence[float] = (0.5,)) -> None:
        self._counted: dict[str, int] = {}
        self._shares = shares
        self._shared = 0

    def name(self, prefix: str) -> str:
        self._counted[prefix] = self._counted.get(prefix, 0) + 1
        return f"{prefix}{self._counted[prefix]}"

    def secret(self) -> str:
        return self.name("secret").ljust(43, "-")

    def share(self) -> float:
        self._shared += 1
        return self._shares[(self._shared - 1) % len(self._shares)]


Undo = Callable[[], None]


class _Writing:
    """What one transaction of a MemoryStore did so far, and how to undo it."""

    def __init__(self) -> None:
        self.undo: list[Undo] = []
        self.touched: dict[tuple[str, str], Touched] = {}

    def back_out(self) -> None:
        for undo in reversed(self.undo):
            undo()


class _Shelf(Generic[R]):
    """The committed rows of one noun and the order in which they were added."""

    def __init__(self, noun: str, kind: type[R], unique: tuple[str, ...] = ()) -> None:
        self.noun = noun
        self.rows: dict[str, R] = {}
        self.places: dict[str, int] = {}
        self.added = 0
        self.unique = unique
        self.taken: dict[tuple[object, ...], str] = {}
        hints = get_type_hints(kind)
        self.askable = {field.name for field in fields(cast(Any, kind)) if _is_askable(hints[field.name])}

    def key(self, row: R) -> tuple[object, ...] | None:
        return tuple(getattr(row, name) for name in self.unique) if self.unique else None


def _is_askable(hint: object) -> bool:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return all(isinstance(kind, type) and issubclass(kind, str | int | datetime | NoneType) for kind in kinds)


class _MemoryRows(Generic[R]):
    """`Rows` over a shelf; without a transaction it only reads."""

    def __init__(self, store: "MemoryStore", shelf: _Shelf[R], writing: _Writing | None) -> None:
        self._store = store
        self._shelf = shelf
        self._writing = writing

    def add(self, row: R) -> R:
        writing, shelf = self._need_writing(), self._shelf
        if row.id in shelf.rows:
            raise Refused(f"{shelf.noun}: {row.id} exists already")
        self._put(writing, cast(R, replace(cast(Any, row), version=1)))
        shelf.added += 1
        shelf.places[row.id] = shelf.added
        return shelf.rows[row.id]

    def find(self, id: str) -> R | None:
        return self._shelf.rows.get(id)

    def swap(self, old: R, new: R) -> R:
        writing, shelf = self._need_writing(), self._shelf
        if old.id != new.id:
            raise ValueError(f"{shelf.noun}: {old.id} cannot become {new.id}")
        stored = shelf.rows.get(old.id)
        if stored is None or stored.version != old.version or self._store._wants_conflict(shelf.noun):
            raise Conflict(f"{shelf.noun}: {old.id} was changed by somebody else")
        if stored != old:
            # A real one writes what differs between both: what was changed in `old` already would never be stored.
            raise ValueError(f"{shelf.noun}: {old.id} as it was read is wanted, not one that was changed since")
        self._put(writing, cast(R, replace(cast(Any, new), version=old.version + 1)))
        return shelf.rows[old.id]

    def where(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        above: str | None = None,
        below: str | None = None,
        **equal: Scalar | Sequence[Scalar],
    ) -> list[R]:
        places = self._shelf.places
        wanted = [(self._askable(name), _choices(value)) for name, value in equal.items()]
        if not places.keys() >= {id for id in (above, below) if id is not None}:
            return []
        floor = 0 if above is None else places[above]
        ceiling = self._shelf.added + 1 if below is None else places[below]
        found = [
            row
            for id, row in self._shelf.rows.items()
            if floor < places[id] < ceiling and all(getattr(row, name) in choices for name, choices in wanted)
        ]
        found.sort(key=lambda row: places[row.id], reverse=newest)
        return found if limit is None else found[: max(0, limit)]

    def count(self, **equal: Scalar | Sequence[Scalar]) -> int:
        return len(self.where(**cast(dict[str, Any], equal)))

    def remove(self, id: str) -> None:
        writing, shelf = self._need_writing(), self._shelf
        row = shelf.rows.pop(id, None)
        if row is None:
            return
        place = shelf.places.pop(id)
        key = shelf.key(row)
        if key is not None:
            del shelf.taken[key]

        def undo() -> None:
            shelf.rows[id], shelf.places[id] = row, place
            if key is not None:
                shelf.taken[key] = id

        writing.undo.append(undo)
        writing.touched[shelf.noun, id] = Touched(noun=shelf.noun, id=id, row=None)

    def _put(self, writing: _Writing, row: R) -> None:
        shelf, id = self._shelf, row.id
        _check_storable(shelf.noun, row)
        before, key = shelf.rows.get(id), shelf.key(row)
        before_key = None if before is None else shelf.key(before)
        if key is not None and shelf.taken.get(key, id) != id:
            raise Refused(f"{shelf.noun}: {', '.join(map(str, key))} exists already")
        if before_key is not None and before_key != key:
            del shelf.taken[before_key]
        if key is not None:
            shelf.taken[key] = id
        shelf.rows[id] = row

        def undo() -> None:
            if key is not None and before_key != key:
                del shelf.taken[key]
            if before_key is not None:
                shelf.taken[before_key] = id
            if before is None:
                del shelf.rows[id], shelf.places[id]
            else:
                shelf.rows[id] = before

        writing.undo.append(undo)
        writing.touched[shelf.noun, id] = Touched(noun=shelf.noun, id=id, row=row)

    def _need_writing(self) -> _Writing:
        if self._writing is None:
            raise RuntimeError(f"{self._shelf.noun}: written inside a read")
        return self._writing

    def _askable(self, name: str) -> str:
        if name not in self._shelf.askable:
            raise TypeError(f"{self._shelf.noun}: {name} is no field that can be asked for")
        return name


def _check_storable(noun: str, row: object) -> None:
    """Refuse what no database keeps: the in-memory store is no more patient than the real ones."""
    for field in fields(cast(Any, row)):
        value = getattr(row, field.name)
        if isinstance(value, str) and "\0" in value:
            raise Refused(f"{noun}: a text with a NUL cannot be stored")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise Refused(f"{noun}: {value} is too large to be stored")
    try:
        json.dumps(vars(row), ensure_ascii=False, default=_plain).encode()
    except UnicodeEncodeError as exc:
        raise Refused(f"{noun}: a text with half of a surrogate pair cannot be stored") from exc


def _plain(value: object) -> object:
    """What JSON does not know: a nested dataclass by its fields, anything else as text."""
    return vars(value) if is_dataclass(value) else str(value)


def _choices(value: Scalar | Collection[Scalar]) -> Collection[Scalar]:
    return value if isinstance(value, Collection) and not isinstance(value, str) else (value,)


class _MemoryHistory:
    """`History` over a list."""

    def __init__(self, store: "MemoryStore", writing: _Writing | None) -> None:
        self._store = store
        self._writing = writing

    def add(self, transition: Transition) -> None:
        writing = self._need_writing()
        self._store._disk.history.append(transition)
        writing.undo.append(lambda: _drop_last(self._store._disk.history))

    def of(self, noun: str, id: str, *, limit: int = 1000) -> list[Transition]:
        found = [line for line in self._store._disk.history if line.noun == noun and line.id == id]
        return found[max(0, len(found) - limit) :]

    def since(self, noun: str, at: datetime, *, limit: int = 10_000) -> list[Transition]:
        found = [line for line in self._store._disk.history if line.noun == noun and line.at >= at]
        # Stable: those of one moment stay in the order in which they were added.
        return sorted(found, key=lambda line: line.at)[:limit]

    def prune(self, before: datetime) -> int:
        writing, disk = self._need_writing(), self._store._disk
        whole = disk.history
        disk.history = [line for line in whole if line.at >= before]

        def undo() -> None:
            disk.history = whole

        writing.undo.append(undo)
        return len(whole) - len(disk.history)

    def _need_writing(self) -> _Writing:
        if self._writing is None:
            raise RuntimeError("history: written inside a read")
        return self._writing


def _drop_last(lines: list[Transition]) -> None:
    lines.pop()


class _Disk:
    """What outlives one MemoryStore: `reopen` opens it again."""

    def __init__(self) -> None:
        self.epoch = 0
        self.events = _Shelf("events", Event, unique=("forge", "session", "position"))
        self.rounds = _Shelf("rounds", Round)
        self.runs = _Shelf("runs", Run)
        self.results = _Shelf("results", Results)
        self.reports = _Shelf("reports", Report)
        self.leases = _Shelf("leases", Lease)
        self.environments = _Shelf("environments", Environment)
        self.hosts = _Shelf("hosts", Host)
        self.images = _Shelf("images", HostImage)
        self.agents = _Shelf("agents", Agent)
        self.commands = _Shelf("commands", Command)
        self.alerts = _Shelf("alerts", Alert)
        self.tokens = _Shelf("tokens", Token)
        self.enrolments = _Shelf("enrolments", Enrolment)
        self.history: list[Transition] = []
        self.counters: dict[str, int] = {}


class _MemoryTables:
    """`Tables` as one transaction of a MemoryStore sees them."""

    def __init__(self, store: "MemoryStore", writing: _Writing | None) -> None:
        disk = store._disk
        self.events = _MemoryRows(store, disk.events, writing)
        self.rounds = _MemoryRows(store, disk.rounds, writing)
        self.runs = _MemoryRows(store, disk.runs, writing)
        self.results = _MemoryRows(store, disk.results, writing)
        self.reports = _MemoryRows(store, disk.reports, writing)
        self.leases = _MemoryRows(store, disk.leases, writing)
        self.environments = _MemoryRows(store, disk.environments, writing)
        self.hosts = _MemoryRows(store, disk.hosts, writing)
        self.images = _MemoryRows(store, disk.images, writing)
        self.agents = _MemoryRows(store, disk.agents, writing)
        self.commands = _MemoryRows(store, disk.commands, writing)
        self.alerts = _MemoryRows(store, disk.alerts, writing)
        self.tokens = _MemoryRows(store, disk.tokens, writing)
        self.enrolments = _MemoryRows(store, disk.enrolments, writing)
        self.history = _MemoryHistory(store, writing)
        self._counters = disk.counters
        self._writing = writing

    def number(self, name: str) -> int:
        if self._writing is None:
            raise RuntimeError(f"counter {name}: written inside a read")
        # Not undone with the rest: a gap is allowed, a number given twice is not.
        self._counters[name] = self._counters.get(name, 0) + 1
        return self._counters[name]


class MemoryStore:
    """The store without a disk. `reopen` is what a restart of the server is to the real one."""

    def __init__(self, *, birth: str = "memory") -> None:
        self._disk = _Disk()
        self._birth = birth
        self._open()

    def _open(self) -> None:
        self._disk.epoch += 1
        self._epoch = self._disk.epoch
        self._listeners: list[Callable[[Sequence[Touched]], None]] = []
        self._closed = ""
        self._conflicts: list[str] = []
        self._failing = False
        self._dying: list[tuple[BaseException, Callable[[Sequence[Touched]], bool]]] = []

    def reopen(self) -> "MemoryStore":
        """A new server on the same rows, under a higher epoch; what the old one writes from now on is `Stale`."""
        later = MemoryStore(birth=self._birth)
        later._disk = self._disk
        later._open()
        return later

    def conflict_once(self, noun: str = "") -> None:
        """The next swap (of that noun's rows, if one is named) is a `Conflict`, as if somebody had been quicker."""
        self._conflicts.append(noun)

    def fail_commit(self) -> None:
        """The next commit does not reach the disk: `Broken`, undone, and nothing more is written until `reopen`."""
        self._failing = True

    def die_after(
        self, exception: BaseException, *, when: Callable[[Sequence[Touched]], bool] = lambda _: True
    ) -> None:
        """Raise `exception` out of the next write whose rows satisfy `when`, once durable: the caller never knows."""
        self._dying.append((exception, when))

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def birth(self) -> str:
        return self._birth

    async def write(self, step: Callable[[Tables], T]) -> T:
        # The real one answers after a flush; whoever waits here must live with others coming first.
        await asyncio.sleep(0)
        self._check()
        writing = _Writing()
        try:
            answer = step(_MemoryTables(self, writing))
        except BaseException:
            writing.back_out()
            raise
        if self._failing:
            writing.back_out()
            self._failing, self._closed = False, "store: the disk did not take the last commit; nothing more is written"
            raise Broken(self._closed)
        self._tell(list(writing.touched.values()))
        return answer

    async def read(self, step: Callable[[Tables], T]) -> T:
        await asyncio.sleep(0)
        return step(_MemoryTables(self, None))

    def subscribe(self, tell: Callable[[Sequence[Touched]], None]) -> Callable[[], None]:
        self._listeners.append(tell)

        def stop() -> None:
            if tell in self._listeners:
                self._listeners.remove(tell)

        return stop

    async def raise_epoch(self, above: int) -> int:
        await asyncio.sleep(0)
        self._check()
        self._disk.epoch = self._epoch = max(self._epoch, above + 1)
        return self._epoch

    async def close(self) -> None:
        self._closed = self._closed or "store: it is closed"

    def _check(self) -> None:
        if self._closed:
            raise Broken(self._closed)
        if self._disk.epoch != self._epoch:
            raise Stale(f"store: epoch {self._epoch} is over, the current one is {self._disk.epoch}")

    def _tell(self, touched: Sequence[Touched]) -> None:
        if touched:
            for tell in list(self._listeners):
                tell(touched)
        for number, (exception, when) in enumerate(self._dying):
            if when(touched):
                del self._dying[number]
                raise exception

    def _wants_conflict(self, noun: str) -> bool:
        for wanted in ("", noun):
            if wanted in self._conflicts:
                self._conflicts.remove(wanted)
                return True
        return False


class MemoryArchive:
    """The archive without a disk."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}
        self._failing = ""

    def fail(self, why: str = "no space left on device") -> None:
        """Every append and write is `Broken` from now on, as on a full disk, until `mend`."""
        self._failing = why

    def mend(self) -> None:
        self._failing = ""

    async def append(self, name: str, offset: int, data: bytes) -> int:
        name = self._writable(name)
        await asyncio.sleep(0)
        there = len(self._files.get(name, b""))
        if offset < 0 or offset > there:
            raise Refused(f"{name}: offset {offset} is beyond its {there} bytes")
        if offset + len(data) > there or name not in self._files:
            self._files.setdefault(name, bytearray()).extend(data[there - offset :])
        return len(self._files[name])

    async def length(self, name: str) -> int | None:
        file = self._files.get(archive_name(name))
        return None if file is None else len(file)

    async def read(self, name: str, offset: int = 0, limit: int | None = None) -> bytes:
        name = archive_name(name)
        if name not in self._files:
            raise Missing(f"{name}: no such file")
        return bytes(self._files[name][offset : None if limit is None else offset + limit])

    async def write(self, name: str, data: bytes) -> None:
        name = self._writable(name)
        await asyncio.sleep(0)
        self._files[name] = bytearray(data)

    async def list(self, prefix: str) -> Mapping[str, int]:
        below = archive_name(prefix) + "/" if prefix else ""
        return {name: len(data) for name, data in sorted(self._files.items()) if name.startswith(below)}

    async def remove(self, prefix: str) -> None:
        name = archive_name(prefix)
        self._files = {
            other: data for other, data in self._files.items() if other != name and not other.startswith(name + "/")
        }

    def _writable(self, name: str) -> str:
        name = archive_name(name)
        if self._failing:
            raise Broken(f"{name}: {self._failing}")
        parents = ["/".join(name.split("/")[:depth]) for depth in range(1, name.count("/") + 1)]
        if any(parent in self._files for parent in parents) or any(file.startswith(name + "/") for file in self._files):
            raise Refused(f"{name}: a file and a directory cannot have one name")
        return name


@dataclass(frozen=True, kw_only=True)
class _Script:
    """One line that a FakeForge will say."""

    session: str
    position: int
    raw: str


class FakeForge:
    """A forge that says what a test scripts and keeps what it is sent."""

    def __init__(self, name: str = "forge", *, clock: FakeClock | None = None, account: str = "my-ci") -> None:
        self._name = name
        self._clock = clock or FakeClock()
        self._account = account
        self._script: list[_Script] = []
        self._session = 1
        self._said = asyncio.Event()
        self.sent: list[Report] = []
        """Every report that reached a change, twice if it was posted twice."""
        self.asked: list[str] = []
        """The links that `find` was asked for."""
        self._dying: list[BaseException] = []
        self._broken = ""
        self._refusing = ""
        self._silent = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def away(self) -> Away | None:
        return None

    def say(self, raw: str) -> None:
        """The stream's next line, as it is."""
        position = sum(line.session == self._session_name for line in self._script)
        self._script.append(_Script(session=self._session_name, position=position, raw=raw))
        self._said.set()

    def say_patchset(self, change: Change, *, author: str = "anna") -> None:
        self._say_of(change, type="patchset-created", author=author)

    def say_comment(self, change: Change, comment: str, *, author: str = "anna") -> None:
        self._say_of(change, type="comment-added", author=author, comment=comment)

    def reconnect(self) -> None:
        """The stream breaks and comes back: a new session, whose first line is the gap."""
        now = self._clock.now().isoformat()
        self._session += 1
        self.say(json.dumps({"type": "gap", "from": now, "until": now, "why": "the connection ended"}))

    def die_after_accepting(self, exception: BaseException) -> None:
        """The next `send` posts, and then the caller dies: nobody was told that it was posted."""
        self._dying.append(exception)

    def break_down(self, why: str = "connection refused") -> None:
        """`find` and `send` are `Broken` until `mend`."""
        self._broken = why

    def refuse(self, why: str = "change is closed") -> None:
        """`send` is `Refused` until `mend`."""
        self._refusing = why

    def go_silent(self) -> None:
        """`find` and `send` never answer, and nothing is posted, until the caller gives up."""
        self._silent = True

    def mend(self) -> None:
        self._broken, self._refusing, self._silent = "", "", False

    async def listen(self, hear: Callable[[Sequence[Heard]], Awaitable[None]], *, since: int | None = None) -> None:
        first = self._session_name
        told = 0
        while True:
            lines = self._script[told:]
            told += len(lines)
            wanted = [line for line in lines if since is None or line.session != first or line.position > since]
            if wanted:
                await hear([self._heard(line) for line in wanted])
            self._said.clear()
            if told == len(self._script):
                await self._said.wait()

    def understand(self, heard: Heard) -> Event:
        try:
            said = json.loads(heard.raw)
            return self._event(heard, said, _change(said))
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            return _event(heard, kind=Kind.OTHER, type="", outcome=f"not readable: {exc}")

    async def find(self, change: Change, link: str) -> bool:
        await self._reachable()
        self.asked.append(link)
        return any(
            report.change.number == change.number and report.message.splitlines()[-1:] == [link] for report in self.sent
        )

    async def send(self, report: Report) -> None:
        await self._reachable()
        if self._refusing:
            raise Refused(f"{self._name}: {self._refusing}")
        self.sent.append(report)
        if self._dying:
            raise self._dying.pop(0)

    @property
    def _session_name(self) -> str:
        return f"{self._name}-{self._session}"

    async def _reachable(self) -> None:
        await asyncio.sleep(0)
        if self._silent:
            await asyncio.Event().wait()
        if self._broken:
            raise Broken(f"{self._name}: {self._broken}")

    def _heard(self, line: _Script) -> Heard:
        return Heard(forge=self._name, session=line.session, position=line.position, at=self._clock.now(), raw=line.raw)

    def _say_of(self, change: Change, **said: str) -> None:
        self.say(json.dumps({**said, "change": {field.name: getattr(change, field.name) for field in fields(change)}}))

    def _event(self, heard: Heard, said: Mapping[str, Any], change: Change | None) -> Event:
        kind = said["type"]
        if not isinstance(kind, str):
            raise TypeError("its type is no text")
        return _event(
            heard,
            kind=Kind(kind) if kind in {known.value for known in Kind} else Kind.OTHER,
            type=kind,
            author=said.get("author", ""),
            comment=said.get("comment", ""),
            change=change,
            project=change.project if change else "",
            number=change.number if change else 0,
        )


def _change(said: Mapping[str, Any]) -> Change | None:
    return Change(**said["change"]) if "change" in said else None


def _event(heard: Heard, **rest: Any) -> Event:
    return Event(
        id="",
        forge=heard.forge,
        session=heard.session,
        position=heard.position,
        heard=heard.at,
        raw=heard.raw,
        **rest,
    )


class FakeLinks:
    """Keeps who was nudged and who was dropped; `on_nudge` lets a test play the agent."""

    def __init__(self, on_nudge: Callable[[str], None] | None = None) -> None:
        self.nudged: list[str] = []
        self.dropped: list[tuple[str, str]] = []
        self._on_nudge = on_nudge

    def nudge(self, agent: str) -> None:
        self.nudged.append(agent)
        if self._on_nudge is not None:
            self._on_nudge(agent)

    def drop(self, agent: str, reason: str) -> None:
        self.dropped.append((agent, reason))
