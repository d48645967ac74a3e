"""Planning: each event becomes a round of runs, or the reason why it does not.

Effects: idempotent (one transaction moves the event and makes the round; nothing else is touched)
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from paddock.core import event as events
from paddock.core import round as rounds
from paddock.core.configuration import Configuration, ProjectJob
from paddock.core.event import Event
from paddock.core.round import Round
from paddock.core.run import Run, Verdict
from paddock.core.trigger import Plan, decide
from paddock.engine.means import Means, move
from paddock.hands import faults
from paddock.ports import Tables, Touched

log = logging.getLogger(__name__)

BATCH = 50
"""Events that are planned in one transaction: a burst neither blocks the store nor pays one flush each."""


class Planning:
    """The stage from `heard` to `planned` or `ignored`."""

    name = "planning"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        return isinstance(touched.row, Event) and touched.row.state is events.State.HEARD

    async def step(self, now: datetime) -> datetime | None:
        """Plan what was heard, oldest first; looks again at once while there is more."""
        configuration = self._means.configuration()
        planned = await self._means.store.write(lambda tables: plan_batch(tables, configuration, now=now))
        faults.at("planning.planned")
        return now if planned == BATCH else None


def plan_batch(tables: Tables, configuration: Configuration, *, now: datetime) -> int:
    """Plan the oldest events; how many there were."""
    heard = tables.events.where(state=events.State.HEARD, limit=BATCH)
    for event in heard:
        plan(tables, event, configuration, now=now)
    return len(heard)


def plan(tables: Tables, event: Event, configuration: Configuration, *, now: datetime) -> Round | None:
    """Move one event on; the round that it started, if any."""
    decided = decide(event, configuration, _live(tables, event))
    for older in decided.supersedes:
        supersede(tables, older, by=event, now=now)
    if not decided.jobs:
        ignored = replace(
            event,
            state=events.LIFECYCLE.step(event.state, events.Signal.IGNORE),
            outcome=decided.outcome,
            whys=decided.whys,
        )
        move(tables, "events", event, ignored, events.Signal.IGNORE, now=now)
        return None
    return _start(tables, event, decided, configuration, now=now)


def _live(tables: Tables, event: Event) -> list[Round]:
    if event.change is None:
        return []
    return tables.rounds.where(
        forge=event.forge, number=event.change.number, state=sorted(state.value for state in rounds.LIVE)
    )


def _start(tables: Tables, event: Event, decided: Plan, configuration: Configuration, *, now: datetime) -> Round:
    round = open_round(tables, event, decided.jobs, configuration, now=now)
    names = ", ".join(job.job for job in decided.jobs)
    planned = replace(
        event,
        state=events.LIFECYCLE.step(event.state, events.Signal.PLAN),
        outcome=f"round {round.id}: {names}",
        whys=decided.whys,
        round=round.id,
    )
    move(tables, "events", event, planned, events.Signal.PLAN, now=now)
    return round


def open_round(
    tables: Tables, event: Event, jobs: Sequence[ProjectJob], configuration: Configuration, *, now: datetime
) -> Round:
    """A new round with a first attempt of each job."""
    change = event.change
    round = tables.rounds.add(
        Round(
            id=str(tables.number("round")),
            event=event.id,
            forge=event.forge,
            project=change.project if change else "",
            number=change.number if change else 0,
            patchset=change.patchset if change else 0,
            change=change,
            created=now,
        )
    )
    for job in jobs:
        add_run(tables, round, job.job, configuration, voting=job.voting, attempt=1, now=now)
    started = replace(round, state=rounds.LIFECYCLE.step(round.state, rounds.Signal.START))
    return move(tables, "rounds", round, started, rounds.Signal.START, now=now, by=f"event {event.id}")


def add_run(
    tables: Tables, round: Round, job: str, configuration: Configuration, *, voting: bool, attempt: int, now: datetime
) -> Run:
    """One attempt of a job, with the job as it is configured now."""
    return tables.runs.add(
        Run(
            id=str(tables.number("run")),
            round=round.id,
            job=job,
            spec=configuration.jobs[job],
            forge=round.forge,
            project=round.project,
            number=round.number,
            patchset=round.patchset,
            created=now,
            attempt=attempt,
            voting=voting,
            archive=archive_of(round, job, attempt),
        )
    )


def archive_of(round: Round, job: str, attempt: int) -> str:
    """`<forge>/<project>/<change>/<patchset>/<round>/<job>/<attempt>`; without a change by its source and date."""
    if round.change is None:
        return f"{round.forge}/{round.created:%Y-%m-%d}/{round.id}/{job}/{attempt}"
    return f"{round.forge}/{round.project}/{round.number}/{round.patchset}/{round.id}/{job}/{attempt}"


def supersede(tables: Tables, round_id: str, *, by: Event, now: datetime) -> None:
    """A newer patch set came: the round is over, its runs are asked to end, and nothing is reported."""
    round = tables.rounds.find(round_id)
    if round is None or not rounds.LIFECYCLE.allows(round.state, rounds.Signal.SUPERSEDE):
        return
    reason = f"superseded by {by.change.title}" if by.change else "superseded"
    over = replace(round, state=rounds.LIFECYCLE.step(round.state, rounds.Signal.SUPERSEDE), ended=now, reason=reason)
    move(tables, "rounds", round, over, rounds.Signal.SUPERSEDE, now=now, by=f"event {by.id}")
    for run in tables.runs.where(round=round.id):
        ask_to_end(tables, run, Verdict.SUPERSEDED, reason=reason)


def ask_to_end(tables: Tables, run: Run, verdict: Verdict, *, reason: str) -> Run:
    """Ask a run to end early. Idempotent; a run that is done, or was asked before, stays as it is."""
    if run.is_done or run.ending is not None:
        return run
    return tables.runs.swap(run, replace(run, ending=verdict, reason=run.reason or reason))


def give_up(tables: Tables, run: Run, verdict: Verdict, *, reason: str) -> Run:
    """A run lost what it ran on: it ends at once, even where it was asked to end in order before."""
    if run.is_done:
        return run
    known = run.verdict or run.ending
    return tables.runs.swap(run, replace(run, verdict=known, ending=verdict, reason=run.reason or reason))
