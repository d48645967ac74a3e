"""What a run does next: from its row, its commands and who is present, one act."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paddock.core.command import Command, State
from paddock.core.job import Phase, Step
from paddock.core.redaction import sentence
from paddock.core.report import spell
from paddock.core.run import Run, Verdict

SLACK = timedelta(seconds=30)
"""How much longer than a phase's limit the server waits: the agent counts the limit, and tells how it ended."""

CANCEL_SLACK = timedelta(minutes=1)
"""How long the server waits for the end of what it cancelled: the agent kills after a few seconds of grace."""

CANCEL = "task.cancel"
SCRIPT = "script.run"
REBOOT = "system.reboot"
POWER = "machine.power"
CONSOLE = "machine.console"
"""What machines say on their serial lines is followed beside everything, and decides nothing."""


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
    boot_id: str = ""
    """Of the machine, as its agent said in its last hello."""


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
        return Finish(verdict=run.verdict or run.ending, reason=run.reason)
    commands = [command for command in commands if command.method != CONSOLE]
    off = _switched_off(commands)
    down = {command.machine for command in _down(run, commands, machines)}
    staying = {name: presence for name, presence in machines.items() if name not in off | down}
    lost = _lost(run, staying, grace=grace, now=now)
    if lost:
        return Finish(verdict=run.verdict or Verdict.ERROR, reason=run.reason or lost)
    if run.phase is Phase.HELLO:
        return _hello(run, machines, now=now)
    cancelled = {command.target: command.asked for command in commands if command.method == CANCEL}
    mine = [command for command in commands if command.phase is run.phase and command.method != CANCEL]
    # Nothing runs on a machine that is off, and nothing can be fetched from it.
    running = {name: presence for name, presence in machines.items() if name not in off}
    if run.phase is Phase.COLLECT:
        act = _collect(run, mine, running, missing=missing, now=now)
    else:
        left = [command for command in commands if _outlived(command, run.phase)]
        present = running if run.phase is Phase.AFTER else machines
        act = _phase(run, mine, left, cancelled, present, now=now)
    return _until_lost(act, staying, grace=grace) if isinstance(act, Wait) else act


def _switched_off(commands: Sequence[Command]) -> set[str]:
    """The machines that a step of the run has switched off, and none has switched on again."""
    off: set[str] = set()
    for command in commands:
        if command.method == POWER and command.state is State.COMPLETE:
            (off.add if command.result.get("power") == "off" else off.discard)(command.machine)
    return off


def _step_of(run: Run, command: Command) -> Step | None:
    """The step that a command of the job's own belongs to."""
    steps = _steps(run, command.phase) if command.phase is not None else ()
    return steps[command.step - 1] if 0 < command.step <= len(steps) else None


def _down(run: Run, commands: Sequence[Command], machines: Mapping[str, Presence]) -> list[Command]:
    """The commands of the present phase by which machines went down, and are to come back, and are not back yet.

    A reboot is complete when its machine is back. The button is pressed by another agent: its command is complete at
    once, and the machine is back under another boot id than it had (the command's target).
    """
    found = []
    for command in commands:
        step = _step_of(run, command) if command.phase is run.phase else None
        if step is None or not step.ends_boot:
            continue
        presence = machines.get(command.machine)
        if command.method == POWER and command.state is State.COMPLETE:
            if presence is not None and not (presence.is_connected and presence.boot_id != command.target):
                found.append(command)
        elif command.method in (REBOOT, POWER) and command.is_open:
            found.append(command)
    return found


def _back_by(run: Run, command: Command) -> datetime:
    """Until when a machine that went down is waited for."""
    step = _step_of(run, command)
    assert step is not None
    return command.asked + step.within + SLACK


def _outlived(command: Command, phase: Phase) -> bool:
    """Whether it is a background step that `before` left running and that `main` has to end."""
    return phase is Phase.MAIN and command.phase is Phase.BEFORE and command.background and command.is_open


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


def _until_lost(wait: Wait, machines: Mapping[str, Presence], *, grace: timedelta) -> Wait:
    """An agent that is away is looked for again when its grace is over, however long the phase may last."""
    ends = [one.away + grace for one in machines.values() if not one.is_connected and one.away is not None]
    return Wait(until=min(wait.until, *ends)) if ends else wait


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
    left: Sequence[Command],
    cancelled: Mapping[str, datetime],
    machines: Mapping[str, Presence],
    *,
    now: datetime,
) -> Act:
    """Sources, before, main, after: step by step, until all have ended or one did not succeed.

    `after` is what has to happen in any case: nothing that goes wrong in it keeps its next step from running. `left`
    is what an earlier phase left running and this one ends.
    """
    phase = run.phase
    assert phase is not None
    is_ending = run.ending is not None and phase is not Phase.AFTER
    verdict, reason = _judge(run, commands, cancelled, phase)
    down = _down(run, commands, machines)
    late = [command for command in down if now >= _back_by(run, command)]
    if late:
        return _without(run, late)
    foreground = [command for command in commands if command.is_open and not command.background]
    if foreground:
        if is_ending:
            return _end(foreground, cancelled, run, now=now)
        return _not_longer(_wait_for_agents(run, foreground, now=now), run, down)
    if down and not is_ending:
        return _not_longer(Wait(until=_deadline(run, phase) + SLACK), run, down)
    if phase is Phase.AFTER or (verdict is None and not is_ending):
        act = _next_step(run, commands, machines, now=now)
        if act is not None:
            return act
    background = [*left, *(command for command in commands if command.is_open)]
    if background and (phase is not Phase.BEFORE or verdict is not None or is_ending):
        return _end(background, cancelled, run, now=now)
    return _leave(run, phase, verdict, reason)


def _not_longer(act: Act, run: Run, down: Sequence[Command]) -> Act:
    """What went down is looked at when it has to be back."""
    if not isinstance(act, Wait):
        return act
    return Wait(until=min(act.until, *(_back_by(run, command) for command in down))) if down else act


def _without(run: Run, late: Sequence[Command]) -> Act:
    """Machines that did not come back cost the run its verdict; what happens in any case happens."""
    command = late[0]
    step = _step_of(run, command)
    assert step is not None
    assert run.phase is not None
    name = f"{run.phase.value} {command.step} ({step.name})"
    reason = f"{name}: {_machines(late)} did not come back within {spell(step.within)}"
    verdict, reason = run.verdict or run.ending or Verdict.TIMED_OUT, run.reason or reason
    following = Phase.COLLECT if run.phase is Phase.AFTER else Phase.AFTER
    return Enter(phase=following, verdict=verdict, reason=reason)


def _next_step(run: Run, commands: Sequence[Command], machines: Mapping[str, Presence], *, now: datetime) -> Act | None:
    """Order the first step that was not ordered yet, once what runs beside it has started; None after the last."""
    phase = run.phase
    assert phase is not None
    unstarted = [command for command in commands if command.background and command.state in _NOT_STARTED]
    if unstarted:
        return _wait_for_agents(run, unstarted, now=now)
    ordered = {command.step for command in commands}
    for index, step in enumerate(_steps(run, phase), start=1):
        if index in ordered:
            continue
        names = tuple(name for name in step.on or machines if name in machines)
        if names and (phase is Phase.AFTER or len(names) == len(step.on or machines)):
            return Order(step=index, machines=names)
        if phase is Phase.AFTER:
            continue
        strangers = ", ".join(name for name in step.on if name not in machines) or "at all"
        reason = f"{phase.value} {index} ({step.name}): the environment has no machine {strangers}"
        return Enter(phase=Phase.AFTER, verdict=Verdict.ERROR, reason=reason)
    return None


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


def _judge(
    run: Run, commands: Sequence[Command], cancelled: Mapping[str, datetime], phase: Phase
) -> tuple[Verdict | None, str]:
    """The verdict as it stands: what was known before, or the first command that did not succeed."""
    if run.verdict is not None or run.ending is not None:
        return run.verdict or run.ending, run.reason
    for command in commands:
        verdict, why = judge(command, is_cancelled=command.id in cancelled)
        if verdict is not None:
            # The checkout is ours: a forge that does not answer says nothing about the change.
            verdict = Verdict.ERROR if phase is Phase.SOURCES else verdict
            name = _steps(run, phase)[command.step - 1].name
            return verdict, f"{phase.value} {command.step} ({name}) on {command.machine} {why}"
    return None, ""


def judge(command: Command, *, is_cancelled: bool) -> tuple[Verdict | None, str]:
    """What one command says about its run; None as long as it says nothing against it."""
    if command.is_open or (command.background and _has_run(command)):
        return None, ""
    if command.state is State.COMPLETE:
        return _exited(command)
    if command.code == "cancelled" and is_cancelled:
        return None, ""
    if command.code == "timed_out":
        return Verdict.TIMED_OUT, "was ended by its limit"
    return Verdict.ERROR, f"did not run to its end: {command.code}: {command.message}".rstrip(": ")


def _has_run(command: Command) -> bool:
    """A background step is only asked to start: how it ends, by us or by itself, is not part of the verdict."""
    return command.state is State.COMPLETE or command.started is not None


def _exited(command: Command) -> tuple[Verdict | None, str]:
    signal = command.result.get("signal")
    if command.exit not in (0, None):
        return Verdict.FAILURE, f"exited {command.exit}"
    if signal:
        return Verdict.FAILURE, f"was ended by signal {sentence(str(signal))}"
    if command.exit is None and command.method == SCRIPT:
        return Verdict.ERROR, "told neither how it exited nor what ended it"
    return None, ""


def _end(commands: Sequence[Command], cancelled: Mapping[str, datetime], run: Run, *, now: datetime) -> Act:
    """Cancel what was not cancelled yet, then wait for the final statuses, but not for ever."""
    due = tuple(command.id for command in commands if command.id not in cancelled)
    if due:
        return Cancel(commands=due)
    until = max(cancelled[command.id] for command in commands) + CANCEL_SLACK
    if now < until:
        return Wait(until=until)
    return _go_on_without(run, f"what was cancelled on {_machines(commands)} did not end within {spell(CANCEL_SLACK)}")


def _wait_for_agents(run: Run, commands: Sequence[Command], *, now: datetime) -> Act:
    """Wait for these; the agent counts the limit, so past limit and slack it has not kept its word."""
    assert run.phase is not None
    deadline = _deadline(run, run.phase) + SLACK
    if now < deadline:
        return Wait(until=deadline)
    reason = f"{run.phase.value} did not end on {_machines(commands)} within its limit and {spell(SLACK)}"
    return _go_on_without(run, reason)


def _machines(commands: Sequence[Command]) -> str:
    return ", ".join(sorted({command.machine for command in commands}))


def _go_on_without(run: Run, reason: str) -> Act:
    """Agents that do not keep their word cost the run its verdict, but not the phases that happen in any case."""
    verdict, reason = run.verdict or run.ending or Verdict.ERROR, run.reason or reason
    if run.phase is Phase.COLLECT:
        return Finish(verdict=verdict, reason=reason)
    following = Phase.COLLECT if run.phase is Phase.AFTER else Phase.AFTER
    return Enter(phase=following, verdict=verdict, reason=reason)


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
        if globs and machines and index not in ordered:
            return Order(step=index, machines=tuple(machines))
    open_ones = [command for command in commands if command.is_open]
    if open_ones:
        return _wait_for_agents(run, open_ones, now=now)
    known = run.verdict or run.ending
    if missing:
        deadline = _deadline(run, Phase.COLLECT) + SLACK
        if now < deadline:
            return Wait(until=deadline)
        reason = f"output did not arrive: {', '.join(missing[:5])}"
        if run.ending is not None:
            return Finish(verdict=run.verdict or run.ending, reason=run.reason)
        return Finish(verdict=Verdict.ERROR, reason=reason)
    failed = next((command for command in commands if command.state is State.FAILED), None)
    if failed is not None and known is None:
        why = f"{failed.code}: {failed.message}".rstrip(": ")
        return Finish(verdict=Verdict.ERROR, reason=f"collecting from {failed.machine} did not succeed: {why}")
    return Finish(verdict=known or Verdict.SUCCESS, reason=run.reason)


def _deadline(run: Run, phase: Phase) -> datetime:
    assert run.phase_since is not None
    return run.phase_since + run.spec.limits.of(phase)


def remaining(run: Run, *, now: datetime) -> int:
    """Seconds that are left of the present phase's limit, at least 1: the `limit` of a command ordered now."""
    assert run.phase is not None
    return max(1, round((_deadline(run, run.phase) - now).total_seconds()))
