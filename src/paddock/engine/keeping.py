"""Keeping: what ended long ago is forgotten; rows in flight are never touched.

Effects: idempotent (files first, rows after: a run without files is forgotten at the next pass)
"""

from datetime import datetime, timedelta
from functools import partial

from paddock.core import alert as alerts
from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core import event as events
from paddock.core import lease as leases
from paddock.core import round as rounds
from paddock.core.command import Command
from paddock.core.configuration import Keep
from paddock.core.environment import Environment
from paddock.core.round import Round
from paddock.engine.admission import is_live
from paddock.engine.means import Means, fail
from paddock.hands import faults
from paddock.ports import Tables, Touched

PASS = timedelta(minutes=10)
AGAIN = timedelta(seconds=1)
"""After a pass that found a whole batch: there is more, and others want the store meanwhile."""
BATCH = 100
_ENDED = (rounds.State.DONE, rounds.State.SUPERSEDED, rounds.State.CANCELLED)


class Keeping:
    """The stage that forgets by age, a batch a pass."""

    name = "keeping"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        return False

    async def step(self, now: datetime) -> datetime | None:
        keep = self._means.configuration().server.keep
        found = await self._means.store.read(lambda tables: old_rounds(tables, before=now - keep.runs))
        for round, archives in found:
            for archive in archives:
                await self._means.archive.remove(archive)
            faults.at("keeping.removed")
            await self._means.store.write(partial(forget_round, round=round))
        for archive in await self._means.store.read(lambda tables: old_archives(tables, before=now - keep.runs)):
            await self._means.archive.remove(archive)
        is_full = await self._means.store.write(lambda tables: forget_old(tables, keep, now=now))
        return now + (AGAIN if is_full or len(found) == BATCH else PASS)


def old_rounds(tables: Tables, *, before: datetime) -> list[tuple[Round, list[str]]]:
    """The oldest ended rounds whose runs are all done, with the archive of each run."""
    found = []
    for round in tables.rounds.where(state=_ENDED, limit=BATCH):
        mine = tables.runs.where(round=round.id)
        if round.ended is None or round.ended >= before or not all(run.is_done for run in mine):
            continue
        found.append((round, [run.archive for run in mine]))
    return found


def old_archives(tables: Tables, *, before: datetime) -> list[str]:
    """Where the output of old commands that people ordered lies, and all of agents that are to be forgotten."""
    ordered = [command.archive for command in _old_commands(tables, before=before) if command.by]
    gone = [machine.agent for one in _old_environments(tables, before=before) for machine in one.machines]
    return [*ordered, *(f"agents/{agent}" for agent in gone)]


def forget_round(tables: Tables, round: Round) -> None:
    """The rows of a round: its runs, their commands, results and leases, and its report."""
    for run in tables.runs.where(round=round.id):
        for command in tables.commands.where(run=run.id):
            tables.commands.remove(command.id)
        tables.results.remove(run.id)
        if run.lease:
            tables.leases.remove(run.lease)
        tables.runs.remove(run.id)
    tables.reports.remove(round.id)
    tables.rounds.remove(round.id)


def forget_old(tables: Tables, keep: Keep, *, now: datetime) -> bool:
    """Events that became nothing or whose round is forgotten, ended leases and commands without a run, history.

    Whether there is more of something than one pass takes.
    """
    before = now - keep.runs
    outdate_orders(tables, now=now)
    most = max(
        forget_events(tables, before=now - keep.events),
        forget_leases(tables, before=before),
        forget_commands(tables, before=before),
        forget_alerts(tables, before=before),
        forget_environments(tables, before=before),
    )
    tables.history.prune(now - max(keep.events, keep.runs))
    return most == BATCH


def forget_events(tables: Tables, *, before: datetime) -> int:
    """Those that became nothing, or whose round is forgotten; the last of each forge's stream stays."""
    old = [event for event in tables.events.where(state=_SETTLED, limit=BATCH) if event.heard < before]
    last = {forge: _last_heard(tables, forge) for forge in {event.forge for event in old}}
    gone = [
        event
        for event in old
        if event.id != last[event.forge] and (not event.round or tables.rounds.find(event.round) is None)
    ]
    for event in gone:
        tables.events.remove(event.id)
    return len(gone)


def _last_heard(tables: Tables, forge: str) -> str:
    """The event by which a stream that is told again (a recorded one) is known to have been heard so far."""
    newest = tables.events.where(forge=forge, newest=True, limit=BATCH)
    return next((event.id for event in newest if event.session != events.BY_HAND), "")


_SETTLED = (events.State.PLANNED, events.State.IGNORED)
_OVER = sorted(leases.LIFECYCLE.final)


def forget_leases(tables: Tables, *, before: datetime) -> int:
    """Ended leases of outside holders; those of runs go with their rounds."""
    found = tables.leases.where(run="", state=_OVER, limit=BATCH)
    old = [lease for lease in found if lease.ended is not None and lease.ended < before]
    for lease in old:
        tables.leases.remove(lease.id)
    return len(old)


def _old_commands(tables: Tables, *, before: datetime) -> list[Command]:
    found = tables.commands.where(run="", state=sorted(commands.LIFECYCLE.final), limit=BATCH)
    return [command for command in found if command.ended is not None and command.ended < before]


def forget_commands(tables: Tables, *, before: datetime) -> int:
    """Ended commands of upkeep and of people; those of runs go with their rounds."""
    old = _old_commands(tables, before=before)
    for command in old:
        tables.commands.remove(command.id)
    return len(old)


def outdate_orders(tables: Tables, *, now: datetime) -> None:
    """What somebody ordered under a fence that is over, and that nobody ended with it: no answer to it is taken."""
    for command in tables.commands.where(run="", state=sorted(commands.OPEN), limit=10 * BATCH):
        if command.by and not is_live(tables, command):
            fail(tables, command, "stale", f"fence {command.fence} of {command.environment} is over", now=now)


def forget_alerts(tables: Tables, *, before: datetime) -> int:
    """Alerts that are over; one that is open stays, however long nobody looks."""
    found = tables.alerts.where(state=alerts.State.OVER, limit=BATCH)
    old = [alert for alert in found if alert.ended is not None and alert.ended < before]
    for alert in old:
        tables.alerts.remove(alert.id)
    return len(old)


def _old_environments(tables: Tables, *, before: datetime) -> list[Environment]:
    found = tables.environments.where(state=environments.State.GONE, limit=BATCH)
    return [environment for environment in found if environment.since < before]


def forget_environments(tables: Tables, *, before: datetime) -> int:
    """Environments that are gone, with the agents of their machines."""
    old = _old_environments(tables, before=before)
    for environment in old:
        for machine in environment.machines:
            tables.agents.remove(machine.agent)
        tables.environments.remove(environment.id)
    return len(old)
