"""One attempt of a job for a round, from queued to done, with a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from paddock.core.job import Job, Phase
from paddock.core.table import Table


class Verdict(StrEnum):
    """How a run ended. A run is not successful until proven, and `error` never votes against a change."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    LEASE_LOST = "lease_lost"


class State(StrEnum):
    QUEUED = "queued"
    LEASING = "leasing"
    PREPARING = "preparing"
    RUNNING = "running"
    COLLECTING = "collecting"
    DONE = "done"


class Signal(StrEnum):
    LEASE = "lease"
    PREPARE = "prepare"
    START = "start"
    COLLECT = "collect"
    FINISH = "finish"


LIFECYCLE = Table(
    name="run",
    initial=State.QUEUED,
    final=frozenset({State.DONE}),
    steps={
        (State.QUEUED, Signal.LEASE): State.LEASING,
        (State.QUEUED, Signal.FINISH): State.DONE,
        (State.LEASING, Signal.PREPARE): State.PREPARING,
        (State.LEASING, Signal.FINISH): State.DONE,
        (State.PREPARING, Signal.START): State.RUNNING,
        (State.PREPARING, Signal.FINISH): State.DONE,
        (State.RUNNING, Signal.COLLECT): State.COLLECTING,
        (State.RUNNING, Signal.FINISH): State.DONE,
        (State.COLLECTING, Signal.FINISH): State.DONE,
    },
)

STATE_OF: Mapping[Phase, State] = {
    Phase.HELLO: State.PREPARING,
    Phase.SOURCES: State.PREPARING,
    Phase.BEFORE: State.PREPARING,
    Phase.MAIN: State.RUNNING,
    Phase.AFTER: State.RUNNING,
    Phase.COLLECT: State.COLLECTING,
}


@dataclass(frozen=True, kw_only=True)
class Span:
    """When a phase of a run began and ended; `ended` is None while it lasts."""

    phase: str
    began: datetime
    ended: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt of a job. The job is kept as it was planned: a changed configuration does not reach a live run."""

    id: str
    round: str
    job: str
    spec: Job
    forge: str
    project: str
    number: int
    patchset: int
    created: datetime
    attempt: int = 1
    voting: bool = True
    state: State = State.QUEUED
    verdict: Verdict | None = None
    """Set with the first thing that went wrong, or at the end; final only when the state is `done`."""
    reason: str = ""
    """Why the verdict is what it is, for a person: `step 2 (fetch) on two exited 1`."""
    ending: Verdict | None = None
    """Asked to end early, as `cancelled` or `superseded`; the loops see to it."""
    lease: str = ""
    environment: str = ""
    fence: int = 0
    phase: Phase | None = None
    phase_since: datetime | None = None
    spans: tuple[Span, ...] = ()
    archive: str = ""
    """The attempt's directory in the archive."""
    started: datetime | None = None
    """When its first command of the job's own was ordered."""
    ended: datetime | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    version: int = 0

    @property
    def is_done(self) -> bool:
        return self.state is State.DONE


def close(spans: Sequence[Span], *, now: datetime) -> tuple[Span, ...]:
    """The spans with none left open: the phase that lasted until now is over."""
    return tuple(span if span.ended else replace(span, ended=now) for span in spans)


def finish(run: Run, verdict: Verdict, *, reason: str, now: datetime) -> Run:
    """The run is done, with its verdict and why."""
    return replace(
        run,
        state=LIFECYCLE.step(run.state, Signal.FINISH),
        verdict=verdict,
        reason=reason,
        spans=close(run.spans, now=now),
        ended=now,
    )
