"""Machines and networks lent as one: the pool that is configured, and its instances."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from paddock.core.errors import Refused
from paddock.core.table import Table


class State(StrEnum):
    REQUESTED = "requested"
    BUILDING = "building"
    READY = "ready"
    LEASED = "leased"
    HELD = "held"
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
        (State.DIRTY, Signal.CLEAN): State.CLEANING,
        (State.CLEANING, Signal.CLEANED): State.READY,
        (State.CLEANING, Signal.REMOVE): State.GONE,
        (State.CLEANING, Signal.QUARANTINE): State.QUARANTINED,
        (State.READY, Signal.QUARANTINE): State.QUARANTINED,
        (State.LEASED, Signal.QUARANTINE): State.QUARANTINED,
        (State.HELD, Signal.QUARANTINE): State.QUARANTINED,
        (State.DIRTY, Signal.QUARANTINE): State.QUARANTINED,
        (State.BROKEN, Signal.QUARANTINE): State.QUARANTINED,
        (State.BROKEN, Signal.CLEAN): State.CLEANING,
        (State.QUARANTINED, Signal.CLEAN): State.CLEANING,
        (State.QUARANTINED, Signal.REMOVE): State.GONE,
        **{(state, Signal.BREAK): State.BROKEN for state in _BREAKABLE},
    },
)

CHANGES_OWNER = frozenset({Signal.LEASE, Signal.HOLD, Signal.RELEASE, Signal.CLEAN, Signal.BREAK, Signal.QUARANTINE})
"""The signals that raise the fence: whoever acted before must not act after."""


class Reset(StrEnum):
    """What makes an environment of a pool lendable again."""

    CLEAN = "clean"
    """A cleaning command to the agent that carries it, proven by that agent."""
    NONE = "none"
    """Nothing to clean (a mere reservation): the transition alone."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A configured kind of environment."""

    name: str
    host: str
    machines: tuple[str, ...]
    """Names of its machines; unique within the environment."""
    max: int = 1
    min_ready: int = 0
    """How many are kept built ahead of demand."""
    reset: Reset = Reset.CLEAN
    isolated: bool = False
    """Whether what runs in it is kept from the host: false for the skill `local`."""
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One computer of an environment."""

    name: str
    agent: str
    """Id of its agent, known to the server by the relay of its host's agent."""
    address: str = ""
    """Where the other machines of the environment reach it."""


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
    hold_ttl: timedelta | None = None
    """Asked for while it is leased: when the lease ends it is held this long instead of being cleaned."""
    hold_until: datetime | None = None
    reason: str = ""
    attempts: int = 0
    """How often in a row building or cleaning did not succeed."""
    created: datetime | None = None
    version: int = 0


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
    )


def hold(environment: Environment, *, by: str, ttl: timedelta, now: datetime) -> Environment:
    """Kept for a person after (or instead of) its run; ends by expiry or by that person, always into dirty."""
    held = move(environment, Signal.HOLD, now=now, reason=f"held by {by}")
    return replace(held, held_by=by, hold_ttl=None, hold_until=now + ttl, lease="")
