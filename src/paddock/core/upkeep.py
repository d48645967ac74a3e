"""What an environment needs from the agent that carries it: build, clean, destroy."""

from collections.abc import Sequence
from dataclasses import dataclass

from paddock.core.command import Command, State
from paddock.core.environment import Environment

BUILD = "machine.build"
CLEAN = "machine.clean"
DESTROY = "machine.destroy"

_AGAIN = frozenset({"interrupted", "busy", "expired"})
"""Codes that say nothing about the machine: the same state is asked for once more, under a new id."""

TRIES = {BUILD: 3, CLEAN: 1, DESTROY: 1}
"""How many answers of another kind are taken before it is given up: a cleaning that did not succeed proves nothing."""

INTERRUPTIONS = 10


@dataclass(frozen=True, kw_only=True)
class Ask:
    """Order the method for these machines."""

    machines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Commands are under way."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """Every machine has it; the last command of each."""

    commands: tuple[Command, ...]


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """It was tried often enough."""

    reason: str


def progress(environment: Environment, method: str, commands: Sequence[Command]) -> Ask | Waiting | Done | GiveUp:
    """How far `method` has come under the environment's present fence."""
    mine = [one for one in commands if one.method == method and one.fence == environment.fence]
    due: list[str] = []
    done: list[Command] = []
    for machine in environment.machines:
        tries = [one for one in mine if one.machine == machine.name]
        if reason := _hopeless(method, tries):
            return GiveUp(reason=f"{machine.name}: {reason}")
        last = tries[-1] if tries else None
        if last is None or last.state is State.FAILED:
            due.append(machine.name)
        elif last.state is State.COMPLETE:
            done.append(last)
    if due:
        return Ask(machines=tuple(due))
    return Done(commands=tuple(done)) if len(done) == len(environment.machines) else Waiting()


def _hopeless(method: str, tries: Sequence[Command]) -> str:
    failed = [one for one in tries if one.state is State.FAILED]
    meant = [one for one in failed if one.code not in _AGAIN]
    if len(meant) >= TRIES[method] or len(failed) >= INTERRUPTIONS:
        return f"{method} {failed[-1].code}: {failed[-1].message}"
    return ""
