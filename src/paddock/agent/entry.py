"""One command in the agent's ledger: how far it is, what holds it, how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from paddock.core.table import Table
from paddock.wire.framing import JSON
from paddock.wire.hello import Status, TaskState
from paddock.wire.messages import Code


class State(StrEnum):
    ACCEPTED = "accepted"
    """Durable, and nothing of it ran."""
    STARTED = "started"
    """It may have run: a keeper stands at its gate, or this process is at it."""
    FINISHED = "finished"
    """How it ended is durable, the server does not have it yet."""
    ACKNOWLEDGED = "acknowledged"
    """The server has status and output; the entry stays to answer repeats until it is pruned."""


class Signal(StrEnum):
    START = "start"
    RETURN = "return"
    FINISH = "finish"
    ACKNOWLEDGE = "acknowledge"


LIFECYCLE = Table(
    name="entry",
    initial=State.ACCEPTED,
    final=frozenset({State.ACKNOWLEDGED}),
    steps={
        (State.ACCEPTED, Signal.START): State.STARTED,
        (State.ACCEPTED, Signal.FINISH): State.FINISHED,
        (State.STARTED, Signal.START): State.STARTED,
        (State.STARTED, Signal.RETURN): State.ACCEPTED,
        (State.STARTED, Signal.FINISH): State.FINISHED,
        (State.FINISHED, Signal.ACKNOWLEDGE): State.ACKNOWLEDGED,
    },
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """When something was, by the clock that goes on while the machine sleeps, and by the calendar across boots."""

    at: datetime
    uptime: timedelta
    boot_id: str

    def since(self, earlier: "Moment") -> timedelta:
        """How long ago the earlier one was; the calendar is asked only across a boot, and may be wrong."""
        if self.boot_id == earlier.boot_id:
            return self.uptime - earlier.uptime
        return max(self.at - earlier.at, timedelta())


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """A finished output: the file that holds it and its length in bytes, which does not change any more."""

    path: str
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a command ended: with a result, or with a code and words for a person, and what is true all the same."""

    code: Code | None = None
    msg: str = ""
    result: Mapping[str, JSON] = field(default_factory=dict)
    streams: Mapping[str, Stream] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeper:
    """Who holds the task's processes: pid and start time, as hands.trees.Identity has them."""

    pid: int
    started: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What the ledger knows of one command. `params` are there until it has started (of a read: until it ended)."""

    id: str
    task: str
    method: str
    digest: str
    seq: int | None
    epoch: int | None
    environment: str = ""
    fence: int = 0
    state: State = State.ACCEPTED
    accepted: Moment
    params: Mapping[str, JSON] | None = field(default=None, repr=False)
    keeper: Keeper | None = None
    outcome: Outcome | None = None

    @property
    def task_state(self) -> TaskState:
        """The state in the words of the wire."""
        if self.outcome is None:
            return TaskState.ACCEPTED if self.state is State.ACCEPTED else TaskState.RUNNING
        return TaskState.COMPLETE if self.outcome.code is None else TaskState.ERROR


def final_status(entry: Entry) -> Status:
    """What the server is told of an ended task."""
    outcome = entry.outcome
    if outcome is None:
        raise AssertionError(f"{entry.id}: has not ended")
    return Status(
        task_id=entry.task,
        state=entry.task_state,
        code=outcome.code,
        msg=outcome.msg or None,
        result=outcome.result if outcome.code is None or outcome.result else None,
        outputs={name: stream.length for name, stream in outcome.streams.items()},
    )
