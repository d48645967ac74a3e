"""What an environment needs from the agent that carries it, and how far that has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paddock.core.command import Command, State
from paddock.core.environment import Environment

BUILD = "machine.build"
CLEAN = "machine.clean"
DESTROY = "machine.destroy"
WEIGH = "machine.weigh"
SAVE = "machine.save"
FORGET = "machine.forget"

_AGAIN = frozenset({"interrupted", "busy", "expired"})
"""Codes that say nothing about the machine: the same state is asked for once more, under a new id."""
_FIRST = {BUILD: frozenset({"unbuilt"}), CLEAN: frozenset({"unbuilt"})}
"""Codes that say that there is something else to do before the same state may be asked for: of what makes machines."""

TRIES = {BUILD: 3, CLEAN: 1, DESTROY: 1, WEIGH: 1, SAVE: 1, FORGET: 1}
"""How many answers of another kind are taken before it is given up: a cleaning that did not succeed proves nothing."""

INTERRUPTIONS = 10
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Order the method for these machines."""

    machines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Commands are under way, or a host that was busy is left alone until a moment."""

    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Done:
    """Every machine has it; the last command of each."""

    commands: tuple[Command, ...]


@dataclass(frozen=True, kw_only=True)
class Unbuilt:
    """The images of these machines are not on their host as they were: they have to be built first."""

    machines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """It was tried often enough."""

    reason: str


def progress(
    environment: Environment, method: str, commands: Sequence[Command], *, now: datetime
) -> Ask | Waiting | Done | Unbuilt | GiveUp:
    """How far `method` has come under the environment's present fence."""
    mine = [one for one in commands if one.method == method and one.fence == environment.fence]
    unbuilt: list[str] = []
    due: list[str] = []
    done: list[Command] = []
    later: list[datetime] = []
    for machine in environment.machines:
        tries = [one for one in mine if one.machine == machine.name]
        if reason := _hopeless(method, tries):
            return GiveUp(reason=f"{machine.name}: {reason}")
        last = tries[-1] if tries else None
        if last is not None and last.code in _first_of(method):
            unbuilt.append(machine.name)
        elif last is None or last.state is State.FAILED:
            again = _again(tries)
            if again is not None and now < again:
                later.append(again)
            else:
                due.append(machine.name)
        elif last.state is State.COMPLETE:
            done.append(last)
    if unbuilt:
        return Unbuilt(machines=tuple(unbuilt))
    if due:
        return Ask(machines=tuple(due))
    if len(done) == len(environment.machines):
        return Done(commands=tuple(done))
    return Waiting(until=min(later, default=None))


def _first_of(method: str) -> frozenset[str]:
    return _FIRST.get(method, frozenset())


def _again(tries: Sequence[Command]) -> datetime | None:
    """When to ask again; None for at once. A host that said that it is busy gets twice the time of the time before."""
    if not tries or tries[-1].code != "busy" or tries[-1].ended is None:
        return None
    said = sum(one.code == "busy" for one in tries)
    return tries[-1].ended + min(LONGEST_PAUSE, FIRST_PAUSE * (1 << (said - 1)))


def _hopeless(method: str, tries: Sequence[Command]) -> str:
    failed = [one for one in tries if one.state is State.FAILED]
    meant = [one for one in failed if one.code not in _AGAIN | _first_of(method)]
    if len(meant) >= TRIES[method] or len(failed) >= INTERRUPTIONS:
        return f"{method} {failed[-1].code}: {failed[-1].message}"
    return ""
