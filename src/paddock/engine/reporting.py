"""Reporting: a round whose last run is done is told to its forge, exactly once.

Effects: journaled (intended, sending, sent; one found `sending` at a start is looked for on the change before it is
sent)
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from paddock.core import report as reports
from paddock.core import round as rounds
from paddock.core import run as runs
from paddock.core.configuration import Configuration
from paddock.core.errors import Broken, Refused
from paddock.core.report import Report, compose, last_attempts, spell
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
        self._rounds: set[str] | None = None
        """Rounds with a run that ended since the last look; all of them at a start."""

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Run(state=runs.State.DONE, round=round):
                if self._rounds is not None:
                    self._rounds.add(round)
                return True
            case Report(state=reports.State.INTENDED):
                return True
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        await self._intend(now)
        faults.at("reporting.intended")
        unsent = (reports.State.INTENDED, reports.State.SENDING)
        for report in await self._means.store.read(lambda tables: tables.reports.where(state=unsent)):
            if now >= self._again.get(report.id, now):
                await self._report(report, now)
        return earliest(*self._again.values())

    async def _intend(self, now: datetime) -> None:
        ended, self._rounds = self._rounds, set()
        try:
            configuration = self._means.configuration()
            await self._means.store.write(lambda tables: intend_all(tables, configuration, ended, now=now))
        except BaseException:
            self._rounds = None  # whatever was noticed: look at all of them
            raise

    async def _report(self, report: Report, now: datetime) -> None:
        forge = self._means.forges.get(report.forge)
        try:
            if forge is None:
                raise Broken(f"forge {report.forge}: it is not configured")
            again = await self._send(forge, report, now)
        except TimeoutError:
            await self._put_off(report.id, f"forge {report.forge}: no answer within {spell(DEADLINE)}", now)
        except Broken as exc:
            await self._put_off(report.id, exc.message, now)
        else:
            if again:
                self._again[report.id] = now
            else:
                self._again.pop(report.id, None)

    async def _send(self, forge: Forge, report: Report, now: datetime) -> bool:
        """Send under the intent; whether there is more to send. In doubt (found `sending`) ask the change first."""
        if report.state is reports.State.SENDING:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                is_there = await forge.find(report.change, report.link)
            if is_there:
                await self._confirm(report.id, now)
                return False
        if report.state is reports.State.INTENDED:
            report = await self._means.store.write(lambda tables: _begin(tables, report.id, now=now))
            faults.at("reporting.sending")
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()):
                await forge.send(report)
        except Refused as exc:
            return await self._refused(report, exc, now)
        faults.at("reporting.sent")
        await self._confirm(report.id, now)
        faults.at("reporting.confirmed")
        return False

    async def _confirm(self, id: str, now: datetime) -> None:
        await self._means.store.write(lambda tables: _end(tables, id, reports.Signal.CONFIRM, "", now=now))

    async def _refused(self, report: Report, exc: Refused, now: datetime) -> bool:
        """A vote that is not taken is left out, the text goes all the same; a text that is not taken is the end.

        Whether there is something left to send.
        """
        log.warning("report was refused", extra={"round": report.id, "reason": exc.message})
        if report.labels:
            await self._means.store.write(lambda tables: _without_vote(tables, report.id, exc.message))
            return True
        await self._means.store.write(
            lambda tables: _end(tables, report.id, reports.Signal.REFUSE, exc.message, now=now)
        )
        return False

    async def _put_off(self, id: str, reason: str, now: datetime) -> None:
        report = await self._means.store.write(lambda tables: _count_attempt(tables, id, reason))
        wait = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(report.attempts, 10))
        self._again[id] = now + wait
        log.warning("report was put off", extra={"round": id, "reason": reason, "again": self._again[id].isoformat()})


def intend_all(tables: Tables, configuration: Configuration, ended: Collection[str] | None, *, now: datetime) -> None:
    """Write down the report of every round whose last run is done. `ended`: only look at these; None: at all."""
    live = rounds.State.RUNNING
    found = tables.rounds.where(state=live) if ended is None else tables.rounds.where(state=live, id=sorted(ended))
    for round in found:
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
