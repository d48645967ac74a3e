"""What the engine needs from the world, as small protocols cut by noun.

Real implementations live in `paddock.adapters`, in-memory ones in `paddock.testing`; one contract suite a port is
run by
both (`tests/contracts`). No port takes or returns a vendor's type.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from paddock.core.access import Enrolment, Token
from paddock.core.agent import Agent
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.event import Change, Event, Heard
from paddock.core.history import Transition
from paddock.core.host import Host
from paddock.core.image import HostImage
from paddock.core.lease import Lease
from paddock.core.report import Report
from paddock.core.results import Results
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.wire.hello import Alert as AlertTold
from paddock.wire.hello import Enrol, Hello, Output, Relay, Status, Welcome
from paddock.wire.hello import Heard as AlertHeard


class Row(Protocol):
    """What every stored noun has. `version` is counted by the store; nobody else touches it."""

    @property
    def id(self) -> str: ...

    @property
    def version(self) -> int: ...


R = TypeVar("R", bound=Row)
T = TypeVar("T")
Scalar = str | int | bool | datetime | None


class Rows(Protocol[R]):
    """The rows of one noun, inside one transaction. Synchronous: a step never waits for anything but the store."""

    def add(self, row: R) -> R:
        """Store a new row and return it as stored. `Refused` if its id (an event: its forge, session and position)
        exists."""

    def find(self, id: str) -> R | None:
        """The row, or None."""

    def swap(self, old: R, new: R) -> R:
        """Replace `old` by `new` and return it with its new version. `Conflict` if the stored row is not `old`'s
        version."""

    def where(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        above: str | None = None,
        below: str | None = None,
        **equal: Scalar | Sequence[Scalar],
    ) -> list[R]:
        """The rows whose fields equal the given values (one of them, where a sequence is given).

        In the order in which they were added, or the reverse for `newest`; `above` and `below` are ids: only rows that
        were added after, before that row. Fields that can be asked for are the scalar ones (str, int, bool, enum,
        datetime).
        """

    def count(self, **equal: Scalar | Sequence[Scalar]) -> int:
        """How many rows `where` would return."""

    def remove(self, id: str) -> None:
        """Forget a row. Idempotent. For retention only."""


class History(Protocol):
    """The transitions that happened, in order; append-only but for retention."""

    def add(self, transition: Transition) -> None: ...

    def of(self, noun: str, id: str, *, limit: int = 1000) -> list[Transition]:
        """The transitions of one row, oldest first; the last `limit` of them."""

    def since(self, noun: str, at: datetime, *, limit: int = 10_000) -> list[Transition]:
        """The transitions of all rows of a noun from `at` on, oldest first."""

    def prune(self, before: datetime) -> int:
        """Forget what happened before; how many were forgotten."""


class Tables(Protocol):
    """Everything that is stored, as one transaction sees it."""

    @property
    def events(self) -> Rows[Event]: ...
    @property
    def rounds(self) -> Rows[Round]: ...
    @property
    def runs(self) -> Rows[Run]: ...
    @property
    def results(self) -> Rows[Results]: ...
    @property
    def reports(self) -> Rows[Report]: ...
    @property
    def leases(self) -> Rows[Lease]: ...
    @property
    def environments(self) -> Rows[Environment]: ...
    @property
    def hosts(self) -> Rows[Host]: ...
    @property
    def images(self) -> Rows[HostImage]: ...
    @property
    def agents(self) -> Rows[Agent]: ...
    @property
    def commands(self) -> Rows[Command]: ...
    @property
    def alerts(self) -> Rows[Alert]: ...
    @property
    def tokens(self) -> Rows[Token]: ...
    @property
    def enrolments(self) -> Rows[Enrolment]: ...
    @property
    def history(self) -> History: ...

    def number(self, name: str) -> int:
        """The next number of a counter, from 1; never given twice, gaps are possible."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """One row that a committed transaction wrote, as it is now. `row` is None for a removed one."""

    noun: str
    id: str
    row: object | None


class Store(Protocol):
    """The one durable memory. Real: adapters.stores.sql (SQLite, PostgreSQL). Test: testing.MemoryStore.

    Opening takes the store's lock (`Refused` while another server has it) and raises the epoch. Writes run one after
    the
    other, so a step sees all that earlier steps wrote; many may be made durable by one flush.
    """

    @property
    def epoch(self) -> int:
        """Raised at each start of a server; every write is conditional on it (`Stale` once a later server started)."""

    @property
    def birth(self) -> str:
        """A random name given to the store when it was made: ids of two stores never meet at an agent."""

    async def write(self, step: Callable[[Tables], T]) -> T:
        """Run `step` in a transaction of its own and answer when it is durable.

        An exception of `step` undoes what it wrote and is raised here; other transactions are not touched. `Broken`
        once
        a flush did not succeed: then nothing more is written until an operator looked. `step` may be called on another
        thread, must be quick and may be called again after an undone attempt.
        """

    async def read(self, step: Callable[[Tables], T]) -> T:
        """Run `step` on a consistent, committed state; writing inside is a programming error."""

    def subscribe(self, tell: Callable[[Sequence[Touched]], None]) -> Callable[[], None]:
        """Call `tell` on the event loop after each commit with what was written; returns the way to stop it."""

    async def raise_epoch(self, above: int) -> int:
        """Make the epoch higher than `above` (an agent saw that one: this store was restored from a copy); the new
        epoch."""

    async def close(self) -> None: ...


class Clock(Protocol):
    """Real: adapters' SystemClock in server. Test: testing.FakeClock, advanced by hand."""

    def now(self) -> datetime:
        """This moment, in UTC."""

    async def sleep_until(self, moment: datetime) -> None: ...


class Chance(Protocol):
    """Where names and secrets come from. Real: server. Test: testing.FakeChance, which counts."""

    def name(self, prefix: str) -> str:
        """A new unique id, short enough to type: `<prefix>` and random letters and digits."""

    def secret(self) -> str:
        """A new secret of at least 256 bits, printable."""

    def share(self) -> float:
        """A number from 0 to below 1."""


@dataclass(frozen=True, kw_only=True)
class Away:
    """Since when a forge is not heard, and why."""

    since: datetime
    why: str


class Forge(Protocol):
    """Where changes come from and reports go to. Real: adapters.forges. Test: testing.FakeForge."""

    @property
    def name(self) -> str: ...

    @property
    def away(self) -> Away | None:
        """None while it is heard."""

    async def listen(self, hear: Callable[[Sequence[Heard]], Awaitable[None]], *, since: int | None = None) -> None:
        """Hear until cancelled; reconnects by itself. `hear` answers when the lines are durable; lines wait for it.

        A gap is heard as a line `{"type": "gap", "from": ..., "until": ..., "why": ...}` of the new session. `since`
        is the
        last stored position of a recorded stream's session, which is not told again; a live stream ignores it.
        """

    def understand(self, heard: Heard) -> Event:
        """The event that a line is, with an empty id. Never raises: what cannot be read is of kind OTHER and says
        why."""

    async def find(self, change: Change, link: str) -> bool:
        """Whether a message whose last line is `link` stands on the change. `Broken` if the forge cannot be asked."""

    async def send(self, report: Report) -> None:
        """Post message and labels on the exact patch set. Not idempotent: the caller asks `find` when in doubt.

        `Refused` with the forge's words if it will never be taken, `Broken` if it may be tried again later.
        """


class Archive(Protocol):
    """Logs, artifacts and results of runs, as named byte streams. Real: adapters.archives. Test: testing.MemoryArchive.

    Names are relative paths with `/`. `Refused`, naming the path, for absolute ones, `..`, empty or odd parts (control
    characters, over 255 bytes), and wherever a symlink would lead out.
    """

    async def append(self, name: str, offset: int, data: bytes) -> int:
        """Make `data` durable at `offset` and return the length then. Bytes that are there already are not written
        again;
        an offset beyond the end is `Refused` (the caller resends from the returned length)."""

    async def length(self, name: str) -> int | None:
        """The length in bytes, or None if there is no such file."""

    async def read(self, name: str, offset: int = 0, limit: int | None = None) -> bytes:
        """Bytes from `offset`; `Missing` if there is no such file."""

    async def write(self, name: str, data: bytes) -> None:
        """Put a whole file, by temporary name. Idempotent."""

    async def list(self, prefix: str) -> Mapping[str, int]:
        """Names below a directory → length, sorted."""

    async def remove(self, prefix: str) -> None:
        """Forget all below a directory. Idempotent. For retention only."""


class Links(Protocol):
    """The agents' live connections. Real: adapters.links.hub. Test: testing.FakeLinks."""

    def nudge(self, agent: str) -> None:
        """There may be queued commands for this agent: ask the desk for them if it is connected."""

    def drop(self, agent: str, reason: str) -> None:
        """Close the agent's session, if it has one."""


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The answer to a hello, and what the agent is to be told with it."""

    agent: str
    session: str
    welcome: Welcome


class Desk(Protocol):
    """What the hub asks of the engine for each agent; the hub itself decides nothing. Real: engine.commanding."""

    async def enrol(self, enrol: Enrol) -> tuple[str, str]:
        """Agent id and token for a valid code; `Refused` otherwise."""

    async def vouched(self, relay: Relay) -> None:
        """Check a host's word for a machine before its hello, which may take minutes: `Refused` for a stranger's."""

    async def admit(
        self, hello: Hello, *, relay: Relay | None, session: str, probe: Callable[[str], Awaitable[bool]]
    ) -> Admitted:
        """Check identity, settle what the agent knows against what we know (protocol.md, Session 2) and record the
        session.

        `probe` pings the session that the agent of this id has already and says whether it answered. `Refused` shuts
        it out.
        """

    async def outgoing(self, agent: str, session: str, *, limit: int) -> list[Command]:
        """Queued commands in order of seq, durably `sent` now. Empty for a session that is not the live one."""

    async def unanswered(self, agent: str, session: str) -> list[Command]:
        """The commands that were `sent` and have no answer yet: to be sent again after a hello, same id and seq."""

    async def answered(
        self, agent: str, command: str, *, result: Mapping[str, object] | None, code: str, message: str
    ) -> None:
        """The direct response to a command: accepted, complete or failed. Repeats are harmless."""

    async def told(self, agent: str, status: Status) -> None:
        """A task's status; answered to the agent once this returned. `Refused` for tasks it was not given."""

    async def output(self, agent: str, output: Output) -> int:
        """Store output and return the synced length of the stream. `Refused` for tasks it was not given, `Stale`
        after the fence."""

    async def alerted(self, agent: str, alert: AlertTold) -> AlertHeard:
        """Something a person should know; durable when this returned. Told again it is the same alert."""

    async def logged(self, agent: str, entries: Sequence[Mapping[str, object]]) -> None: ...

    async def rotate(self, agent: str, token: str) -> None:
        """The agent's next token; the present one stays valid until the next one has said hello."""

    async def left(self, agent: str, session: str) -> None:
        """The session is over."""
