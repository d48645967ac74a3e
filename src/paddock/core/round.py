"""All runs that one event started for one change; superseded, cancelled and reported as one."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from paddock.core.event import Change
from paddock.core.table import Table


class State(StrEnum):
    PLANNED = "planned"
    RUNNING = "running"
    REPORTING = "reporting"
    DONE = "done"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


class Signal(StrEnum):
    START = "start"
    REPORT = "report"
    FINISH = "finish"
    SUPERSEDE = "supersede"
    CANCEL = "cancel"


LIFECYCLE = Table(
    name="round",
    initial=State.PLANNED,
    final=frozenset({State.DONE, State.SUPERSEDED, State.CANCELLED}),
    steps={
        (State.PLANNED, Signal.START): State.RUNNING,
        (State.PLANNED, Signal.SUPERSEDE): State.SUPERSEDED,
        (State.PLANNED, Signal.CANCEL): State.CANCELLED,
        (State.RUNNING, Signal.REPORT): State.REPORTING,
        (State.RUNNING, Signal.SUPERSEDE): State.SUPERSEDED,
        (State.RUNNING, Signal.CANCEL): State.CANCELLED,
        (State.REPORTING, Signal.FINISH): State.DONE,
    },
)

LIVE = frozenset({State.PLANNED, State.RUNNING, State.REPORTING})


@dataclass(frozen=True, kw_only=True)
class Round:
    """One event's runs. It reports once, when its last run is done."""

    id: str
    event: str
    forge: str
    project: str
    number: int
    """The change's number, 0 for a round without a change."""
    patchset: int
    change: Change | None
    created: datetime
    state: State = State.PLANNED
    ended: datetime | None = None
    reason: str = ""
    """Why it was superseded or cancelled, for a person."""
    version: int = 0
