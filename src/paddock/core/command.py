"""An order to an agent, executed at most once, as the server keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from paddock.core.job import Phase
from paddock.core.table import Table


class State(StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    """Durable before its first byte left: it may have been executed."""
    ACCEPTED = "accepted"
    """Durable on the agent's side."""
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


class Signal(StrEnum):
    SEND = "send"
    ACCEPT = "accept"
    PROGRESS = "progress"
    COMPLETE = "complete"
    FAIL = "fail"


LIFECYCLE = Table(
    name="command",
    initial=State.QUEUED,
    final=frozenset({State.COMPLETE, State.FAILED}),
    steps={
        (State.QUEUED, Signal.SEND): State.SENT,
        (State.QUEUED, Signal.FAIL): State.FAILED,
        (State.SENT, Signal.SEND): State.SENT,
        (State.SENT, Signal.ACCEPT): State.ACCEPTED,
        (State.SENT, Signal.PROGRESS): State.RUNNING,
        (State.SENT, Signal.COMPLETE): State.COMPLETE,
        (State.SENT, Signal.FAIL): State.FAILED,
        (State.ACCEPTED, Signal.ACCEPT): State.ACCEPTED,
        (State.ACCEPTED, Signal.PROGRESS): State.RUNNING,
        (State.ACCEPTED, Signal.COMPLETE): State.COMPLETE,
        (State.ACCEPTED, Signal.FAIL): State.FAILED,
        (State.RUNNING, Signal.ACCEPT): State.RUNNING,
        (State.RUNNING, Signal.PROGRESS): State.RUNNING,
        (State.RUNNING, Signal.COMPLETE): State.COMPLETE,
        (State.RUNNING, Signal.FAIL): State.FAILED,
    },
)

OPEN = frozenset({State.QUEUED, State.SENT, State.ACCEPTED, State.RUNNING})


@dataclass(frozen=True, kw_only=True)
class Command:
    """One order and what became of it."""

    id: str
    agent: str
    seq: int
    method: str
    asked: datetime
    params: Mapping[str, object] = field(default_factory=dict)
    """As sent, environment and fence included."""
    environment: str = ""
    fence: int = 0
    run: str = ""
    phase: Phase | None = None
    step: int = 0
    machine: str = ""
    """The machine's name in its environment."""
    target: str = ""
    """Of `task.cancel`: the command that is to end. Of a run's `machine.power`: the boot id that it ends."""
    background: bool = False
    archive: str = ""
    """Where in the archive its output streams go: a directory, or for a run's script the log's path without `.log`."""
    by: str = ""
    """Who ordered it, outside of runs and upkeep: a token's name."""
    state: State = State.QUEUED
    code: str = ""
    """The error's code where it is failed: `interrupted`, `stale`, `timed_out`..."""
    message: str = ""
    result: Mapping[str, object] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    """Stream → length in bytes, said by the agent when the command ended."""
    percent: float | None = None
    eta: float | None = None
    sent: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    version: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def exit(self) -> int | None:
        """The exit code where the command ran a program to its end."""
        code = self.result.get("exit")
        return code if isinstance(code, int) and not isinstance(code, bool) else None
