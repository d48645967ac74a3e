"""A machine that carries environments, as configured, and whether its agent can be asked."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from paddock.core.machine import Size
from paddock.core.table import Table


class State(StrEnum):
    JOINING = "joining"
    """Configured; its agent has not said hello yet."""
    ONLINE = "online"
    DRAINING = "draining"
    """Keeps what it carries, gets nothing new."""
    OFFLINE = "offline"
    """Its agent is away; what it carries keeps its state within the grace."""
    LOST = "lost"
    """Away past the grace: what it carried is broken."""


class Signal(StrEnum):
    ARRIVE = "arrive"
    LEAVE = "leave"
    LOSE = "lose"
    DRAIN = "drain"
    RESUME = "resume"


LIFECYCLE = Table(
    name="host",
    initial=State.JOINING,
    final=frozenset(),
    steps={
        (State.JOINING, Signal.ARRIVE): State.ONLINE,
        (State.ONLINE, Signal.ARRIVE): State.ONLINE,
        (State.ONLINE, Signal.LEAVE): State.OFFLINE,
        (State.ONLINE, Signal.DRAIN): State.DRAINING,
        (State.DRAINING, Signal.ARRIVE): State.DRAINING,
        (State.DRAINING, Signal.RESUME): State.ONLINE,
        (State.DRAINING, Signal.LEAVE): State.OFFLINE,
        (State.OFFLINE, Signal.ARRIVE): State.ONLINE,
        (State.OFFLINE, Signal.LOSE): State.LOST,
        (State.LOST, Signal.ARRIVE): State.ONLINE,
    },
)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Bytes of a host's disk that are taken by what no environment owns, as its agent counts them."""

    images: int = 0
    """By layers, those of images that are no longer configured too."""
    templates: int = 0
    """By frozen machines: their memory, and what their disks have beyond the images."""
    counter: str = ""
    """Who counted: another one after each start of the agent."""
    number: int = 0
    """It rises with each count: they are not always heard in the order in which they were made."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """The row of a configured host. Its id is its name."""

    id: str
    skills: tuple[str, ...]
    since: datetime
    agent: str = ""
    """Id of the agent that enrolled for it; empty until then."""
    state: State = State.JOINING
    drained_by: str = ""
    """Who drained it; outlasts an absence of its agent."""
    reason: str = ""
    capacity: Size | None = None
    """What its agent says that machines may have of it; None: it has not said."""
    stored: Stored | None = None
    """What its agent said last of what its images and templates take; None: it has not said."""
    listing: str = ""
    """The command by which its agent is asked what it carries, until that is answered."""
    version: int = 0
