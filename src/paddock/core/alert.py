"""Something an agent wants a person to know: told again until somebody says that they do."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from paddock.core.table import Table


class State(StrEnum):
    RAISED = "raised"
    ACKNOWLEDGED = "acknowledged"
    """A person knows; the condition lasts."""
    OVER = "over"


class Signal(StrEnum):
    REPEAT = "repeat"
    ACKNOWLEDGE = "acknowledge"
    END = "end"


class Level(StrEnum):
    WARNING = "warning"
    ERROR = "error"


LIFECYCLE = Table(
    name="alert",
    initial=State.RAISED,
    final=frozenset({State.OVER}),
    steps={
        (State.RAISED, Signal.REPEAT): State.RAISED,
        (State.RAISED, Signal.ACKNOWLEDGE): State.ACKNOWLEDGED,
        (State.RAISED, Signal.END): State.OVER,
        (State.ACKNOWLEDGED, Signal.REPEAT): State.ACKNOWLEDGED,
        (State.ACKNOWLEDGED, Signal.ACKNOWLEDGE): State.ACKNOWLEDGED,
        (State.ACKNOWLEDGED, Signal.END): State.OVER,
    },
)

OPEN = frozenset({State.RAISED, State.ACKNOWLEDGED})


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One condition of one agent, however often it was told."""

    id: str
    agent: str
    name: str
    """What the agent calls the condition; while it is open, the same name is the same alert."""
    level: Level
    at: datetime
    """When it was raised, by the server's clock."""
    told: datetime
    """When it was told last."""
    subject: str = ""
    message: str = ""
    count: int = 1
    """How often it was told."""
    state: State = State.RAISED
    acknowledged: datetime | None = None
    acknowledged_by: str = ""
    ended: datetime | None = None
    version: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


def repeat(alert: Alert, *, level: Level, subject: str, message: str, now: datetime) -> Alert:
    """Told again, perhaps in other words. One that became graver than what a person knows of is raised anew."""
    state = LIFECYCLE.step(alert.state, Signal.REPEAT)
    is_graver = level is Level.ERROR and alert.level is Level.WARNING
    after = replace(alert, state=state, level=level, subject=subject, message=message, told=now, count=alert.count + 1)
    if is_graver and state is State.ACKNOWLEDGED:
        return replace(after, state=LIFECYCLE.initial, acknowledged=None, acknowledged_by="")
    return after


def acknowledge(alert: Alert, *, by: str, now: datetime) -> Alert:
    """A person knows. The first one who said so stays named. `Refused` for one that is over."""
    state = LIFECYCLE.step(alert.state, Signal.ACKNOWLEDGE)
    if alert.state is State.ACKNOWLEDGED:
        return alert
    return replace(alert, state=state, acknowledged=now, acknowledged_by=by)


def end(alert: Alert, *, now: datetime) -> Alert:
    """The condition is over."""
    return replace(alert, state=LIFECYCLE.step(alert.state, Signal.END), ended=now)
