"""Something that happened, to a change, a stream or by hand: as heard and as understood."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from paddock.core.table import Table


class Kind(StrEnum):
    """What an event is about; what a forge says beyond these is kept as `other` and explained as such."""

    PATCHSET_CREATED = "patchset-created"
    COMMENT_ADDED = "comment-added"
    GAP = "gap"
    """The stream was away for a while: what happened meanwhile was not heard."""
    MANUAL = "manual"
    """A person asked: `run retry` after the report, or the API."""
    OTHER = "other"
    """A type that Paddock does not act on, or a line that could not be read."""


BY_HAND = "by hand"
"""The session of events that people cause."""


class State(StrEnum):
    HEARD = "heard"
    PLANNED = "planned"
    IGNORED = "ignored"


class Signal(StrEnum):
    PLAN = "plan"
    IGNORE = "ignore"


LIFECYCLE = Table(
    name="event",
    initial=State.HEARD,
    final=frozenset({State.PLANNED, State.IGNORED}),
    steps={
        (State.HEARD, Signal.PLAN): State.PLANNED,
        (State.HEARD, Signal.IGNORE): State.IGNORED,
    },
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One patch set of one change on one forge."""

    forge: str
    project: str
    branch: str
    """Short name (`master`), whatever the forge's version writes."""
    number: int
    patchset: int
    ref: str
    revision: str
    subject: str = ""
    url: str = ""
    owner: str = ""

    @property
    def title(self) -> str:
        """`openstack/nova 912345,3`: how a change is named everywhere."""
        return f"{self.project} {self.number},{self.patchset}"


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One line of a forge's stream, before anybody has understood it. Its key is (forge, session, position)."""

    forge: str
    session: str
    """One connection's stream, or one recorded file."""
    position: int
    """The line's number in its session, from 0."""
    at: datetime
    raw: str
    """The line as it came, or a JSON object `{"type": "gap", ...}` made by the adapter."""


@dataclass(frozen=True, kw_only=True)
class Why:
    """Why one job runs, or does not, for an event."""

    job: str
    runs: bool
    reason: str
    where: str = ""
    """The line of the configuration that decided: `paddock.yaml:31`."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What was heard, understood as far as it could be, and what became of it."""

    id: str
    forge: str
    session: str
    position: int
    heard: datetime
    kind: Kind
    type: str
    """The forge's own word for the kind: `change-merged`, `reviewer-added`..."""
    raw: str
    author: str = ""
    """The account that caused it (user name), empty where the forge does not say."""
    comment: str = ""
    change: Change | None = None
    project: str = ""
    number: int = 0
    """The change's number, 0 without one: what pages and queries look events up by."""
    state: State = State.HEARD
    outcome: str = ""
    """What became of it, for a person: `round 7: noop, two-machines`, `bot jenkins`, `no project stackforge/rally`."""
    whys: tuple[Why, ...] = ()
    round: str = ""
    version: int = 0
