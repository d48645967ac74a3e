"""Keeping: what ended long ago is forgotten; rows in flight are never touched.

Effects: idempotent (files first, rows after: a run without files is forgotten at the next pass)
"""

from datetime import datetime, timedelta
from functools import partial

from paddock.core import environment as environments
from paddock.core import round as rounds
from paddock.core.configuration import Keep
from paddock.core.round import Round
from paddock.engine.means import Means
from paddock.hands import faults
from paddock.ports import Tables, Touched

PASS = timedelta(minutes=10)
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
        await self._means.store.write(lambda tables: forget_old(tables, keep, now=now))
        return now + (timedelta(seconds=1) if len(found) == BATCH else PASS)


def old_rounds(tables: Tables, *, before: datetime) -> list[tuple[Round, list[str]]]:
    """The oldest ended rounds whose runs are all done, with the archive of each run."""
    found = []
    for round in tables.rounds.where(state=_ENDED, limit=BATCH):
        mine = tables.runs.where(round=round.id)
        if round.ended is None or round.ended >= before or not all(run.is_done for run in mine):
            continue
        found.append((round, [run.archive for run in mine]))
    return found


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


def forget_old(tables: Tables, keep: Keep, *, now: datetime) -> None:
    """Events that became nothing or whose round is forgotten, ended leases and commands without a run, history."""
    forget_events(tables, before=now - keep.events)
    for lease in tables.leases.where(run="", limit=BATCH):
        if not lease.is_open and lease.ended is not None and lease.ended < now - keep.runs:
            tables.leases.remove(lease.id)
    for command in tables.commands.where(run="", limit=BATCH):
        if not command.is_open and command.ended is not None and command.ended < now - keep.runs:
            tables.commands.remove(command.id)
    forget_environments(tables, before=now - keep.runs)
    tables.history.prune(now - max(keep.events, keep.runs))


def forget_events(tables: Tables, *, before: datetime) -> None:
    """Oldest first, until one that is young enough."""
    for event in tables.events.where(limit=BATCH):
        if event.heard >= before:
            return
        is_kept = event.state == "heard" or (event.round and tables.rounds.find(event.round) is not None)
        if not is_kept:
            tables.events.remove(event.id)


def forget_environments(tables: Tables, *, before: datetime) -> None:
    """Environments that are gone, with the agents of their machines and the commands about them."""
    for environment in tables.environments.where(state=environments.State.GONE, limit=BATCH):
        if environment.since >= before:
            continue
        for machine in environment.machines:
            tables.agents.remove(machine.agent)
        tables.environments.remove(environment.id)
