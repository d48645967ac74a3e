"""Running: each run that has an environment is taken from act to act until it is done.

Effects: idempotent (every act is one transaction on the run's row and its commands; agents carry them out at most once)
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from paddock.core import agent as agents
from paddock.core import phases
from paddock.core import run as runs
from paddock.core.agent import Agent
from paddock.core.command import Command
from paddock.core.configuration import Configuration
from paddock.core.environment import Environment, Machine
from paddock.core.errors import Conflict, PaddockError
from paddock.core.job import Phase
from paddock.core.phases import Cancel, Enter, Finish, Order, Presence, Wait
from paddock.core.run import Run, Span
from paddock.engine import collecting
from paddock.engine.collecting import Outstanding
from paddock.engine.loop import RETRY, earliest
from paddock.engine.means import Means, move, need, order
from paddock.engine.preparing import GRACE, Work, console, work
from paddock.hands import faults
from paddock.ports import Tables, Touched

log = logging.getLogger(__name__)

ACTIVE = (runs.State.PREPARING, runs.State.RUNNING, runs.State.COLLECTING)
MISSING_AGAIN = timedelta(seconds=5)
"""How often output that was announced is looked for, beside being told when some arrives."""


class Running:
    """The stage from preparing to done. It looks only at runs that something happened to."""

    name = "running"

    def __init__(self, means: Means) -> None:
        self._means = means
        # Derived from the rows, rebuilt at every start: which runs to look at next, and when.
        self._stirred: set[str] | None = None
        self._environments: set[str] = set()
        self._due: dict[str, datetime] = {}

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Command(run=run) if run:
                return self.stir(run)
            case Run(id=run, state=state) if state in ACTIVE:
                return self.stir(run)
            case Agent(kind=agents.Kind.MACHINE, environment=environment):
                self._environments.add(environment)
                return True
            case _:
                return False

    def stir(self, run: str) -> bool:
        """Something happened to a run: look at it."""
        if self._stirred is not None:
            self._stirred.add(run)
        return True

    async def step(self, now: datetime) -> datetime | None:
        taken = await self._take(now)
        try:
            while taken:
                await self._look(taken[-1], now)
                taken.pop()
        finally:
            # Whatever ends this step early: nobody else remembers these.
            for run in taken:
                self.stir(run)
        return now if self._stirred or self._environments else earliest(*self._due.values())

    async def _take(self, now: datetime) -> list[str]:
        """The runs to look at now, the first to be looked at last: all of them the first time."""
        if self._stirred is None:
            self._stirred = set()
            try:
                found = await self._means.store.read(lambda tables: tables.runs.where(state=ACTIVE))
            except BaseException:
                self._stirred = None
                raise
            return [run.id for run in reversed(found)]
        if self._environments:
            names = sorted(self._environments)
            found = await self._means.store.read(lambda tables: tables.runs.where(environment=names, state=ACTIVE))
            self._environments.difference_update(names)
            self._stirred |= {run.id for run in found}
        stirred, self._stirred = self._stirred, set()
        return sorted(stirred | {run for run, moment in self._due.items() if moment <= now}, reverse=True)

    async def _look(self, run: str, now: datetime) -> None:
        """One run that cannot go on keeps no other from it."""
        try:
            await self._advance(run, now)
        except Conflict:
            self.stir(run)
        except PaddockError as exc:
            log.warning("run was put off", extra={"run": run, "reason": exc.message})
            self._due[run] = now + RETRY

    async def _advance(self, id: str, now: datetime) -> None:
        """Take one run as far as it goes today."""
        found = await collecting.outstanding(self._means, id)
        act, run = await self._means.store.write(lambda tables: carry_out(tables, self._means, id, found, now=now))
        faults.at("running.moved")
        match act:
            case Finish() if run is not None:
                await collecting.finish(self._means, run, act, now=now)
                self._due.pop(id, None)
            case Enter(phase=Phase.COLLECT):
                self.stir(id)
            case Wait(until=moment) if run is not None:
                self._due[id] = min(moment, now + MISSING_AGAIN) if found.names else moment
            case None if run is not None:
                self.stir(id)
            case _:
                self._due.pop(id, None)


def carry_out(
    tables: Tables, means: Means, id: str, found: Outstanding, *, now: datetime
) -> tuple[phases.Act | None, Run | None]:
    """Decide and do, act after act, in one transaction, until there is something to wait for.

    Returns the last act with the run as it is then. Finishing, which reads files, and collecting, which has to know
    what was `found` missing, are left to the caller; no act and a run: commands ended since that was looked up, and it
    has to be looked up again.
    """
    configuration = means.configuration()
    run = tables.runs.find(id)
    if run is None or run.state not in ACTIVE:
        return None, None
    environment = need(tables.environments, run.environment, "environment")
    while True:
        commands = tables.commands.where(run=run.id)
        if run.phase is Phase.COLLECT and not found.covers(commands):
            return None, run
        act = phases.advance(
            run,
            commands,
            _presence(tables, environment),
            missing=found.names,
            grace=configuration.server.host_grace,
            now=now,
        )
        match act:
            case Order(step=index, machines=names):
                run = _order(tables, means, run, environment, index, names, configuration, now=now)
            case Cancel(commands=ids):
                _cancel(tables, means, run, [one for one in commands if one.id in ids], now=now)
            case Enter(phase=phase):
                if run.phase is Phase.HELLO and environment.spec is not None:
                    _follow_consoles(tables, means, run, environment, now=now)
                run = enter(tables, run, act, now=now)
                if phase is Phase.COLLECT:
                    followed = [one for one in commands if one.method == phases.CONSOLE and one.is_open]
                    _cancel(tables, means, run, followed, now=now)
                    return act, run
            case _:
                return act, run


def _presence(tables: Tables, environment: Environment) -> Mapping[str, Presence]:
    """Machine → whether its agent has a session, in the order of the configuration."""
    found = {agent.machine: agent for agent in tables.agents.where(environment=environment.id)}
    return {
        machine.name: Presence(
            is_connected=found[machine.name].is_connected,
            away=found[machine.name].seen or found[machine.name].created,
            boot_id=found[machine.name].boot_id,
        )
        for machine in environment.machines
    }


def _order(
    tables: Tables,
    means: Means,
    run: Run,
    environment: Environment,
    index: int,
    names: Sequence[str],
    configuration: Configuration,
    *,
    now: datetime,
) -> Run:
    round = need(tables.rounds, run.round, "round")
    for machine in environment.machines:
        if machine.name not in names:
            continue
        todo = work(run, round, environment, machine, index, configuration, now=now)
        _order_work(tables, means, run, environment, machine, todo, phase=run.phase, step=index, now=now)
    return run if run.started is not None else tables.runs.swap(run, replace(run, started=now))


def _order_work(
    tables: Tables,
    means: Means,
    run: Run,
    environment: Environment,
    machine: Machine,
    todo: Work,
    *,
    phase: Phase | None,
    step: int,
    now: datetime,
) -> None:
    """One command for a machine: to its own agent, or to that of its host, which is told what boot it ends."""
    agent, target = machine.agent, ""
    if todo.by_host:
        agent = need(tables.hosts, environment.host, "host").agent
        target = need(tables.agents, machine.agent, "agent").boot_id if todo.method == phases.POWER else ""
    order(
        tables,
        means,
        agent,
        todo.method,
        todo.params,
        now=now,
        environment=environment.id,
        fence=run.fence,
        run=run.id,
        phase=phase,
        step=step,
        machine=machine.name,
        target=target,
        background=todo.background,
        archive=todo.archive,
    )


def _follow_consoles(tables: Tables, means: Means, run: Run, environment: Environment, *, now: datetime) -> None:
    """What each machine says on its serial line is one more log of the run, and decides nothing."""
    for machine in environment.machines:
        todo = console(run, machine.name)
        _order_work(tables, means, run, environment, machine, todo, phase=None, step=0, now=now)


def _cancel(tables: Tables, means: Means, run: Run, commands: Sequence[Command], *, now: datetime) -> None:
    for command in commands:
        order(
            tables,
            means,
            command.agent,
            phases.CANCEL,
            {"task_id": command.id, "grace": GRACE},
            now=now,
            environment=command.environment,
            fence=command.fence,
            run=run.id,
            phase=command.phase,
            step=command.step,
            machine=command.machine,
            target=command.id,
        )


_SIGNAL: Mapping[runs.State, runs.Signal] = {
    runs.State.RUNNING: runs.Signal.START,
    runs.State.COLLECTING: runs.Signal.COLLECT,
}


def enter(tables: Tables, run: Run, act: Enter, *, now: datetime) -> Run:
    """Go on to a phase; the run's state follows, with what went wrong so far."""
    state = runs.STATE_OF[act.phase]
    entered = replace(
        run,
        phase=act.phase,
        phase_since=now,
        verdict=run.verdict or act.verdict,
        reason=run.reason or act.reason,
        spans=(*runs.close(run.spans, now=now), Span(phase=act.phase.value, began=now)),
    )
    if state is run.state:
        return tables.runs.swap(run, entered)
    signal = _SIGNAL[state]
    moved = replace(entered, state=runs.LIFECYCLE.step(run.state, signal))
    return move(tables, "runs", run, moved, signal, now=now)
