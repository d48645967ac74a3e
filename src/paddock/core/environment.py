"""Machines and networks lent as one: the pool that is configured, and its instances."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from paddock.core.errors import Refused
from paddock.core.image import Image
from paddock.core.machine import MachineSettings, NetworkSettings, Size, Start
from paddock.core.table import Table


class State(StrEnum):
    REQUESTED = "requested"
    BUILDING = "building"
    READY = "ready"
    LEASED = "leased"
    HELD = "held"
    SAVING = "saving"
    """Its disks are being kept, its machines let go."""
    SAVED = "saved"
    """Its disks are kept and nothing else; `fork` makes a new environment of them."""
    DIRTY = "dirty"
    CLEANING = "cleaning"
    BROKEN = "broken"
    QUARANTINED = "quarantined"
    GONE = "gone"


class Signal(StrEnum):
    BUILD = "build"
    BUILT = "built"
    LEASE = "lease"
    HOLD = "hold"
    SAVE = "save"
    KEPT = "kept"
    UNSAVED = "unsaved"
    RELEASE = "release"
    CLEAN = "clean"
    CLEANED = "cleaned"
    REMOVE = "remove"
    BREAK = "break"
    QUARANTINE = "quarantine"


_BREAKABLE = (
    State.REQUESTED,
    State.BUILDING,
    State.READY,
    State.LEASED,
    State.HELD,
    State.SAVING,
    State.DIRTY,
    State.CLEANING,
)

LIFECYCLE = Table(
    name="environment",
    initial=State.REQUESTED,
    final=frozenset({State.GONE}),
    steps={
        (State.REQUESTED, Signal.BUILD): State.BUILDING,
        (State.REQUESTED, Signal.REMOVE): State.GONE,
        (State.BUILDING, Signal.BUILT): State.READY,
        (State.READY, Signal.LEASE): State.LEASED,
        (State.READY, Signal.CLEAN): State.CLEANING,
        (State.LEASED, Signal.HOLD): State.HELD,
        (State.LEASED, Signal.RELEASE): State.DIRTY,
        (State.HELD, Signal.HOLD): State.HELD,
        (State.HELD, Signal.RELEASE): State.DIRTY,
        (State.HELD, Signal.SAVE): State.SAVING,
        (State.SAVING, Signal.KEPT): State.SAVED,
        (State.SAVING, Signal.UNSAVED): State.HELD,
        (State.SAVING, Signal.RELEASE): State.DIRTY,
        (State.SAVED, Signal.HOLD): State.SAVED,
        (State.SAVED, Signal.RELEASE): State.DIRTY,
        (State.DIRTY, Signal.CLEAN): State.CLEANING,
        (State.CLEANING, Signal.CLEANED): State.READY,
        (State.CLEANING, Signal.REMOVE): State.GONE,
        (State.CLEANING, Signal.QUARANTINE): State.QUARANTINED,
        (State.READY, Signal.QUARANTINE): State.QUARANTINED,
        (State.LEASED, Signal.QUARANTINE): State.QUARANTINED,
        (State.HELD, Signal.QUARANTINE): State.QUARANTINED,
        (State.SAVING, Signal.QUARANTINE): State.QUARANTINED,
        (State.DIRTY, Signal.QUARANTINE): State.QUARANTINED,
        (State.BROKEN, Signal.QUARANTINE): State.QUARANTINED,
        (State.BROKEN, Signal.CLEAN): State.CLEANING,
        (State.QUARANTINED, Signal.CLEAN): State.CLEANING,
        (State.QUARANTINED, Signal.REMOVE): State.GONE,
        **{(state, Signal.BREAK): State.BROKEN for state in _BREAKABLE},
    },
)

CHANGES_OWNER = frozenset(
    {
        Signal.LEASE,
        Signal.HOLD,
        Signal.SAVE,
        Signal.RELEASE,
        Signal.CLEAN,
        Signal.BREAK,
        Signal.QUARANTINE,
    }
)
"""The signals that raise the fence: whoever acted before must not act after."""

MADE = frozenset({Signal.BUILT, Signal.CLEANED})
"""The signals by which every machine is there, and every template that was made for them is counted."""


class Reset(StrEnum):
    """What makes an environment of a pool lendable again."""

    CLEAN = "clean"
    """A cleaning command to the agent that carries it, proven by that agent."""
    NONE = "none"
    """Nothing to clean (a mere reservation): the transition alone."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """How long, and how much, of a pool's environments may be kept for a person."""

    longest: timedelta = timedelta(days=30)
    space: int = 0
    """Bytes that all saved disks of the pool may take together; 0: as much as its host has."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A configured kind of environment."""

    name: str
    host: str
    """The host that carries it; empty: any that has its labels."""
    machines: tuple[str, ...]
    """Names of its machines; unique within the environment."""
    max: int = 1
    min_ready: int = 0
    """How many are kept built ahead of demand."""
    reset: Reset = Reset.CLEAN
    isolated: bool = False
    """Whether what runs in it is kept from the host: false for the skill `local`."""
    where: str = ""
    labels: tuple[str, ...] = ()
    """Of the hosts that may carry it, where `host` is empty."""
    settings: tuple[MachineSettings, ...] = ()
    """Its virtual machines, in the order of `machines`; empty: they are processes on the host."""
    networks: tuple[NetworkSettings, ...] = ()
    start: Start = Start.FORK
    egress: tuple[str, ...] = ()
    """What its machines may reach outside: `HOST:PORT`, `*.HOST:PORT`."""
    ttl: timedelta | None = None
    """The longest that an outside holder may have one without a renewal, and what one gets who does not say."""
    hold: Hold = Hold()

    @property
    def is_virtual(self) -> bool:
        """Whether its machines are made from images and booked on their host."""
        return bool(self.settings)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One computer of an environment."""

    name: str
    agent: str
    """Id of its agent, known to the server by the relay of its host's agent."""
    address: str = ""
    """Where the other machines of the environment reach it."""
    addresses: tuple[str, ...] = ()
    """Of its cards, in their order; empty where one has none."""
    start: str = ""
    """How it came to life, of a virtual one: `fork` or `boot`."""
    why: str = ""
    """Why it was booted although a fork was wanted."""
    host_key: str = ""
    """Its public ssh host key, made for this lease."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What the machines of an environment were made as: a pool's settings, and what its images were then."""

    machines: tuple[MachineSettings, ...]
    networks: tuple[NetworkSettings, ...] = ()
    egress: tuple[str, ...] = ()
    start: Start = Start.FORK
    images: Mapping[str, str] = field(default_factory=dict)
    """Image → digest of what served when it was booked."""
    kernels: Mapping[str, Image] = field(default_factory=dict)
    """Image → what booted its disk then, of those that are booted with a file of the host: see `image.booted`."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a run left is kept, as its job wants, until a person takes it over."""

    run: str
    job: str

    def __str__(self) -> str:
        """As who holds it."""
        return f"run {self.run} of {self.job}"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One instance of a pool. Its id is `<pool>-<number>`, never used again."""

    id: str
    pool: str
    host: str
    since: datetime
    """When it came into its present state."""
    machines: tuple[Machine, ...] = ()
    reset: Reset = Reset.CLEAN
    state: State = State.REQUESTED
    fence: int = 0
    """Raised at every change of owner, never reset; whoever shows a lower one is refused."""
    lease: str = ""
    retiring: bool = False
    """Whether its next cleaning is its last: the machines are destroyed and it is gone."""
    held_by: str = ""
    """Who holds it, or wants to once its lease ends."""
    held_for: Left | None = None
    """The run that holds it, or wants to; None: a person or nobody does."""
    hold_ttl: timedelta | None = None
    """Asked for while it is leased: when the lease ends it is held this long instead of being cleaned."""
    hold_until: datetime | None = None
    reason: str = ""
    attempts: int = 0
    """How often in a row building or cleaning did not succeed."""
    created: datetime | None = None
    size: Size | None = None
    """What is booked of its host for it; None: nothing, its machines are processes."""
    full_disk: int = 0
    """Bytes that its disks may grow to: what a copy of them takes, however small they are when they are saved."""
    for_templates: int = 0
    """Bytes of its host's disk that are booked beside `size` while its machines are made: what they are forked from
    may have to be made first.
    """
    spec: Spec | None = None
    """None: its machines are processes on the host."""
    maker: str = ""
    """The birth of the store that it was made in: in the MACs of its machines, so that those of two Paddocks differ.

    Empty: it was made before they had it, and keeps the MACs that it has.
    """
    fork_of: str = ""
    """The environment from whose saved disks it is made."""
    wants_saving: bool = False
    """Asked for with a hold: once it is held its disks are kept, and its machines let go."""
    has_saved: bool = False
    """Whether its host may have copies of its disks."""
    version: int = 0


LIVE = frozenset(State) - {State.GONE}
KEPT = frozenset({State.HELD, State.SAVING, State.SAVED})
"""The states of what is kept for a person, whole or its disks alone."""


def move(environment: Environment, signal: Signal, *, now: datetime, reason: str = "") -> Environment:
    """Step along the lifecycle; the fence rises where the owner changes. `Refused`, naming it, where no step leads."""
    if not LIFECYCLE.allows(environment.state, signal):
        *others, last = [state.value for state in State if LIFECYCLE.allows(state, signal)]
        places = f"{', '.join(others)} or {last}" if others else last
        raise Refused(
            f"environment {environment.id}: it is {environment.state.value}, and {signal} applies to {places}"
        )
    raised = 1 if signal in CHANGES_OWNER else 0
    return replace(
        environment,
        state=LIFECYCLE.step(environment.state, signal),
        fence=environment.fence + raised,
        since=now,
        reason=reason,
        for_templates=0 if signal in MADE else environment.for_templates,
    )


def hold(environment: Environment, *, by: str, ttl: timedelta, now: datetime) -> Environment:
    """Kept for a person after (or instead of) its run; ends by expiry or by that person, always into dirty."""
    held = move(environment, Signal.HOLD, now=now, reason=f"held by {by}")
    return replace(held, held_by=by, hold_ttl=None, hold_until=now + ttl, lease="")
