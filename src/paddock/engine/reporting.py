"""Reporting: a round whose last run is done is told to its forge, exactly once.

Effects: journaled (intended, sending, sent; one found `sending` at a start is looked for on the change before it is
sent)
"""

import logging
from dataclasses import replace
from datetime import datetime, timedelta

from paddock.core import report as reports
from paddock.core import round as rounds
from paddock.core import run as runs
from paddock.core.configuration import Configuration
from paddock.core.errors import Broken, Refused
from paddock.core.report import Report, compose, last_attempts
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move, need
from paddock.hands import faults
from paddock.ports import Forge, Tables, Touched

log = logging.getLogger(__name__)

FIRST_RETRY = timedelta(seconds=2)
LONGEST_RETRY = timedelta(minutes=5)
DEADLINE = timedelta(seconds=60)
"""How long a forge may take for one answer."""


class Reporting:
    """The stage from the last run's end to the round's end."""

    name = "reporting"

    def __init__(self, means: Means) -> None:
        self._means = means
        self._again: dict[str, datetime] = {}
        """When a report that could not be sent is tried again; all at once after a start."""

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Run(state=runs.State.DONE) | Report(state=reports.State.INTENDED):
                return True
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        await self._means.store.write(lambda tables: intend_all(tables, self._means.configuration(), now=now))
        faults.at("reporting.intended")
        unsent = (reports.State.INTENDED, reports.State.SENDING)
        for report in await self._means.store.read(lambda tables: tables.reports.where(state=unsent)):
            if now >= self._again.get(report.id, now):
                await self._report(report, now)
        return earliest(*self._again.values())

    async def _report(self, report: Report, now: datetime) -> None:
        forge = self._means.forges.get(report.forge)
        try:
            if forge is None:
                raise Broken(f"forge {report.forge}: it is not configured")
            await self._send(forge, report, now)
        except Broken as exc:
            await self._put_off(report.id, exc.message, now)
        else:
            self._again.pop(report.id, None)

    async def _send(self, forge: Forge, report: Report, now: datetime) -> None:
        """Send under the intent. In doubt (found `sending`) the change is asked first."""
        if report.state is reports.State.SENDING and await forge.find(report.change, report.link):
            await self._confirm(report.id, now)
            return
        if report.state is reports.State.INTENDED:
            report = await self._means.store.write(lambda tables: _begin(tables, report.id, now=now))
            faults.at("reporting.sending")
        try:
            await forge.send(report)
        except Refused as exc:
            await self._refused(report, exc, now)
            return
        faults.at("reporting.sent")
        await self._confirm(report.id, now)
        faults.at("reporting.confirmed")

    async def _confirm(self, id: str, now: datetime) -> None:
        await self._means.store.write(lambda tables: _end(tables, id, reports.Signal.CONFIRM, "", now=now))

    async def _refused(self, report: Report, exc: Refused, now: datetime) -> None:
        """A vote that is not taken is left out, the text goes all the same; a text that is not taken is the end."""
        log.warning("report was refused", extra={"round": report.id, "reason": exc.message})
        if report.labels:
            await self._means.store.write(lambda tables: _without_vote(tables, report.id, exc.message))
            self._again[report.id] = now
            return
        await self._means.store.write(
            lambda tables: _end(tables, report.id, reports.Signal.REFUSE, exc.message, now=now)
        )

    async def _put_off(self, id: str, reason: str, now: datetime) -> None:
        report = await self._means.store.write(lambda tables: _count_attempt(tables, id, reason))
        wait = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(report.attempts, 10))
        self._again[id] = now + wait
        log.warning("report was put off", extra={"round": id, "reason": reason, "again": self._again[id].isoformat()})


def intend_all(tables: Tables, configuration: Configuration, *, now: datetime) -> None:
    """Write down the report of every round whose last run is done."""
    for round in tables.rounds.where(state=rounds.State.RUNNING):
        mine = tables.runs.where(round=round.id)
        if all(run.is_done for run in last_attempts(mine)):
            intend(tables, round, mine, configuration, now=now)


def intend(tables: Tables, round: Round, mine: list[Run], configuration: Configuration, *, now: datetime) -> None:
    """From running to reporting with the report's text; a round without a change has nobody to tell, and is done."""
    reporting = replace(round, state=rounds.LIFECYCLE.step(round.state, rounds.Signal.REPORT))
    reporting = move(tables, "rounds", round, reporting, rounds.Signal.REPORT, now=now)
    forge = configuration.forges.get(round.forge)
    if round.change is None or forge is None:
        _finish(tables, reporting, now=now)
        return
    tables.reports.add(
        compose(
            round.id,
            round.change,
            mine,
            public_url=configuration.server.public_url,
            vote=forge.vote,
            label=forge.label,
            contact=forge.contact,
            now=now,
        )
    )


def _begin(tables: Tables, id: str, *, now: datetime) -> Report:
    report = need(tables.reports, id, "report")
    sending = replace(report, state=reports.LIFECYCLE.step(report.state, reports.Signal.SEND))
    return move(tables, "reports", report, sending, reports.Signal.SEND, now=now)


def _end(tables: Tables, id: str, signal: reports.Signal, reason: str, *, now: datetime) -> None:
    report = need(tables.reports, id, "report")
    over = replace(report, state=reports.LIFECYCLE.step(report.state, signal), sent=now, reason=reason)
    move(tables, "reports", report, over, signal, now=now)
    _finish(tables, need(tables.rounds, id, "round"), now=now)


def _finish(tables: Tables, round: Round, *, now: datetime) -> None:
    done = replace(round, state=rounds.LIFECYCLE.step(round.state, rounds.Signal.FINISH), ended=now)
    move(tables, "rounds", round, done, rounds.Signal.FINISH, now=now)


def _without_vote(tables: Tables, id: str, reason: str) -> None:
    report = need(tables.reports, id, "report")
    tables.reports.swap(report, replace(report, labels={}, reason=f"its vote was not taken: {reason}"))


def _count_attempt(tables: Tables, id: str, reason: str) -> Report:
    report = need(tables.reports, id, "report")
    return tables.reports.swap(report, replace(report, attempts=report.attempts + 1, reason=reason))
