"""What a run does next: from its row, its commands and who is present, one act."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paddock.core.command import Command, State
from paddock.core.job import Phase, Step
from paddock.core.report import spell
from paddock.core.run import Run, Verdict

SLACK = timedelta(seconds=30)
"""How much longer than a phase's limit the server waits: the agent counts the limit, and tells how it ended."""

CANCEL = "task.cancel"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Issue the commands of a step of the present phase on these machines."""

    step: int
    machines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """End these commands' process trees; their final status comes like any other."""

    commands: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Enter:
    """Go on to a phase, with the verdict as far as it is known."""

    phase: Phase
    verdict: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The run is over."""

    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Nothing to do until a command, an agent or the clock moves."""

    until: datetime


Act = Order | Cancel | Enter | Finish | Wait


@dataclass(frozen=True, kw_only=True)
class Presence:
    """Whether a machine's agent can be asked; `away` is since when it cannot."""

    is_connected: bool
    away: datetime | None = None


def advance(
    run: Run,
    commands: Sequence[Command],
    machines: Mapping[str, Presence],
    *,
    missing: Sequence[str] = (),
    grace: timedelta,
    now: datetime,
) -> Act:
    """Decide the next act of a run that has an environment. `missing` names output that has not arrived yet."""
    if run.phase is None or run.phase_since is None:
        raise AssertionError(f"run {run.id}: it has an environment and no phase")
    if run.ending is not None and run.ending in _GIVEN_UP:
        return Finish(verdict=run.ending, reason=run.reason)
    lost = _lost(run, machines, grace=grace, now=now)
    if lost:
        return Finish(verdict=run.verdict or Verdict.ERROR, reason=run.reason or lost)
    if run.phase is Phase.HELLO:
        return _hello(run, machines, now=now)
    mine = [command for command in commands if command.phase is run.phase and command.method != CANCEL]
    cancelled = {command.target for command in commands if command.method == CANCEL}
    if run.phase is Phase.COLLECT:
        return _collect(run, mine, machines, missing=missing, now=now)
    return _phase(run, mine, cancelled, machines, now=now)


_GIVEN_UP = frozenset({Verdict.ERROR, Verdict.LEASE_LOST})
"""Asked to end because what it ran on is gone: there is nothing left to run `after` on, or to collect from."""


def _lost(run: Run, machines: Mapping[str, Presence], *, grace: timedelta, now: datetime) -> str:
    """The reason why a machine has to be given up, if one has been away for longer than its grace."""
    if run.phase is Phase.HELLO:
        return ""
    for name, presence in machines.items():
        if not presence.is_connected and presence.away is not None and now >= presence.away + grace:
            return f"the agent of {name} has been away since {presence.away:%H:%M:%S} UTC"
    return ""


def _hello(run: Run, machines: Mapping[str, Presence], *, now: datetime) -> Act:
    silent = [name for name, presence in machines.items() if not presence.is_connected]
    if not silent:
        return Enter(phase=Phase.SOURCES)
    if run.ending is not None:
        return Finish(verdict=run.ending, reason=run.reason)
    deadline = _deadline(run, Phase.HELLO)
    if now >= deadline:
        limit = spell(run.spec.limits.hello)
        return Finish(verdict=Verdict.ERROR, reason=f"no hello from the agent of {', '.join(silent)} within {limit}")
    return Wait(until=deadline)


def _phase(
    run: Run,
    commands: Sequence[Command],
    cancelled: set[str],
    machines: Mapping[str, Presence],
    *,
    now: datetime,
) -> Act:
    """Sources, before, main, after: step by step, until all have ended or one did not succeed."""
    phase = run.phase
    assert phase is not None
    is_ending = run.ending is not None and phase is not Phase.AFTER
    verdict, reason = _judge(run, commands, phase)
    foreground = [command for command in commands if command.is_open and not command.background]
    if foreground:
        if is_ending:
            return _end(foreground, cancelled, run, now=now)
        return _wait_for_agents(run, foreground, now=now)
    ordered = {command.step for command in commands}
    steps = _steps(run, phase)
    if verdict is None and not is_ending:
        unstarted = [command for command in commands if command.background and command.state in _NOT_STARTED]
        if unstarted:
            return _wait_for_agents(run, unstarted, now=now)
        for index, step in enumerate(steps, start=1):
            if index not in ordered:
                return Order(step=index, machines=step.on or tuple(machines))
    if (phase is not Phase.BEFORE or verdict is not None or is_ending) and (
        background := [command for command in commands if command.is_open]
    ):
        return _end(background, cancelled, run, now=now)
    return _leave(run, phase, verdict, reason)


_NOT_STARTED = frozenset({State.QUEUED, State.SENT, State.ACCEPTED})


def _steps(run: Run, phase: Phase) -> tuple[Step, ...]:
    if phase is Phase.SOURCES:
        return (SOURCES,) if run.spec.sources else ()
    return run.spec.steps_of(phase)


SOURCES = Step(name="sources", run="")
"""Stands for the checkout of the change in the phase of that name: its command is `sources.checkout`."""


def _leave(run: Run, phase: Phase, verdict: Verdict | None, reason: str) -> Act:
    """The phase after this one; one that did not go well, or was ended, leads to `after`."""
    if phase is Phase.AFTER:
        return Enter(phase=Phase.COLLECT, verdict=verdict, reason=reason)
    if run.ending is not None:
        return Enter(phase=Phase.AFTER, verdict=run.ending, reason=run.reason)
    if verdict is not None:
        return Enter(phase=Phase.AFTER, verdict=verdict, reason=reason)
    following = {Phase.SOURCES: Phase.BEFORE, Phase.BEFORE: Phase.MAIN, Phase.MAIN: Phase.AFTER}
    return Enter(phase=following[phase])


def _judge(run: Run, commands: Sequence[Command], phase: Phase) -> tuple[Verdict | None, str]:
    """The verdict as it stands: what was known before, or the first command that did not succeed."""
    if run.verdict is not None:
        return run.verdict, run.reason
    for command in commands:
        verdict, why = judge(command)
        if verdict is not None:
            name = _steps(run, phase)[command.step - 1].name
            return verdict, f"{phase.value} {command.step} ({name}) on {command.machine} {why}"
    return None, ""


_OURS = "the trouble was ours"


def judge(command: Command) -> tuple[Verdict | None, str]:
    """What one command says about its run; None as long as it says nothing against it."""
    if command.is_open:
        return None, ""
    if command.state is State.COMPLETE:
        if command.background or command.exit in (0, None):
            return _signalled(command)
        return Verdict.FAILURE, f"exited {command.exit}"
    if command.code == "cancelled":
        return None, ""
    if command.code == "timed_out":
        return Verdict.TIMED_OUT, "was ended by its limit"
    return Verdict.ERROR, f"did not run to its end: {command.code}: {command.message}".rstrip(": ")


def _signalled(command: Command) -> tuple[Verdict | None, str]:
    signal = command.result.get("signal")
    if command.background or not signal:
        return None, ""
    return Verdict.FAILURE, f"was ended by signal {signal}"


def _end(commands: Sequence[Command], cancelled: set[str], run: Run, *, now: datetime) -> Act:
    """Cancel what was not cancelled yet, then wait for the final statuses."""
    due = tuple(command.id for command in commands if command.id not in cancelled)
    return Cancel(commands=due) if due else _wait_for_agents(run, commands, now=now)


def _wait_for_agents(run: Run, commands: Sequence[Command], *, now: datetime) -> Act:
    """Wait for these; the agent counts the limit, so past limit and slack it has not kept its word."""
    assert run.phase is not None
    deadline = _deadline(run, run.phase) + SLACK
    if now < deadline:
        return Wait(until=deadline)
    names = ", ".join(sorted({command.machine for command in commands}))
    reason = f"{run.phase.value} did not end on {names} within its limit and {spell(SLACK)}"
    return Finish(verdict=run.verdict or Verdict.ERROR, reason=run.reason or reason)


def _collect(
    run: Run,
    commands: Sequence[Command],
    machines: Mapping[str, Presence],
    *,
    missing: Sequence[str],
    now: datetime,
) -> Act:
    """Fetch what the job names, then wait until every byte that was announced has arrived."""
    ordered = {command.step for command in commands}
    for index, globs in enumerate((run.spec.results, run.spec.artifacts), start=1):
        if globs and index not in ordered:
            return Order(step=index, machines=tuple(machines))
    if any(command.is_open for command in commands):
        return _wait_for_agents(run, [command for command in commands if command.is_open], now=now)
    if missing:
        deadline = _deadline(run, Phase.COLLECT) + SLACK
        if now < deadline:
            return Wait(until=deadline)
        return Finish(verdict=Verdict.ERROR, reason=f"output did not arrive: {', '.join(missing[:5])}")
    failed = next((command for command in commands if command.state is State.FAILED), None)
    if failed is not None and run.verdict is None:
        why = f"{failed.code}: {failed.message}".rstrip(": ")
        return Finish(verdict=Verdict.ERROR, reason=f"collecting from {failed.machine} did not succeed: {why}")
    return Finish(verdict=run.verdict or Verdict.SUCCESS, reason=run.reason)


def _deadline(run: Run, phase: Phase) -> datetime:
    assert run.phase_since is not None
    return run.phase_since + run.spec.limits.of(phase)


def remaining(run: Run, *, now: datetime) -> int:
    """Seconds that are left of the present phase's limit, at least 1: the `limit` of a command ordered now."""
    assert run.phase is not None
    return max(1, round((_deadline(run, run.phase) - now).total_seconds()))
