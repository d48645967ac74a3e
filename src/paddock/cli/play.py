"""What the demo shows while it plays: events explained, runs as they go, the report."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paddock.cli import painting
from paddock.cli.event import about
from paddock.cli.root import clean
from paddock.core.errors import PaddockError

if TYPE_CHECKING:
    from paddock.cli.stage import Stage
    from paddock.client import Client
    from paddock.wire.shapes import Event, Report, Round, Run, RunDetail

_LOOK = 0.1
_PAGE = 500


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a right performance has."""

    events: int | None
    """How many are heard; None: it depends."""
    ignored: int | None
    verdicts: Mapping[str, str]
    """Job → verdict."""


REPLAYED = Wanted(events=23, ignored=22, verdicts={"noop": "success", "two-machines": "success"})


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was seen, once it is over."""

    events: "list[Event]"
    round: "Round"
    runs: "list[RunDetail]"
    reports: "list[Report]"
    seconds: float

    def told(self) -> dict[str, object]:
        """The line for programs."""
        return {
            "events": len(self.events),
            "runs": [
                {
                    "change": run.number,
                    "job": run.job,
                    "verdict": run.verdict,
                    "seconds": round(_seconds(run), 3),
                }
                for run in self.runs
            ],
            "reports": [
                {
                    "change": self.round.number,
                    "patchset": self.round.patchset,
                    "message": report.message,
                    "labels": dict(report.labels),
                }
                for report in self.reports
            ],
            "seconds": round(self.seconds, 3),
        }

    def wrongs(self, wanted: Wanted) -> list[str]:
        """What is not as it should be; nothing, if all is well."""
        verdicts = {run.job: run.verdict for run in self.runs}
        ignored = sum(event.state == "ignored" for event in self.events)
        found = []
        if wanted.events is not None and len(self.events) != wanted.events:
            found.append(f"{len(self.events)} events were heard, not {wanted.events}")
        if wanted.ignored is not None and ignored != wanted.ignored:
            found.append(f"{ignored} events were ignored, not {wanted.ignored}")
        if verdicts != dict(wanted.verdicts) or len(self.runs) != len(verdicts):
            found.append(f"verdicts are {verdicts}, not {dict(wanted.verdicts)}")
        if len(self.reports) != 1:
            found.append(f"{len(self.reports)} reports were sent, not 1")
        for report in self.reports:
            lines = [line for line in report.message.splitlines() if line.startswith("- ")]
            if len(lines) != len(wanted.verdicts):
                found.append(f"the report has {len(lines)} result lines, not {len(wanted.verdicts)}")
        return found


def _seconds(run: "RunDetail") -> float:
    start, end = painting.moment(run.started or run.created), painting.moment(run.ended)
    return (end - start).total_seconds() if start and end else 0.0


class Play:
    """Follows one round through the API and tells what it sees, once each, in the order in which it comes."""

    def __init__(
        self, client: "Client", stage: "Stage", say: Callable[..., None], status: Callable[[str], None]
    ) -> None:
        self._client = client
        self._stage = stage
        self._say = say
        self._status = status
        self._events: dict[str, Event] = {}
        self._told: dict[str, str] = {}
        self._cursors: dict[str, str] = {}
        self._jobs: dict[str, str] = {}

    def watch(self, *, began: float, limit: float, wanted: Wanted) -> Outcome:
        """Until a round is over and its report sent. Broken if that takes longer than `limit` seconds."""
        from paddock.client import calls
        from paddock.core.errors import Broken

        while True:
            self._stage.check()
            self._hear()
            found = next((event.round for event in self._events.values() if event.round), "")
            is_heard = wanted.events is None or len(self._events) >= wanted.events
            if found:
                round = self._client.send(calls.round(found))
                self._follow(round)
                is_planned = all(event.state != "heard" for event in self._events.values())
                if round.state == "done" and is_heard and is_planned:
                    return self._conclude(round, began)
                if round.state in ("superseded", "cancelled"):
                    raise Broken(f"round {round.id}: it is {round.state}, {round.reason}")
            if time.monotonic() - began > limit:
                raise Broken(f"demo: not over after {limit:g} s: {self._where(found)}")
            time.sleep(_LOOK)

    def _where(self, round: str) -> str:
        states = ", ".join(f"{self._jobs.get(id, id)} {state}" for id, state in self._told.items())
        return f"{len(self._events)} events heard, {f'round {round}: {states}' if round else 'no round'}"

    def _conclude(self, round: "Round", began: float) -> Outcome:
        from paddock.client import calls
        from paddock.client.sync import Client

        seconds = time.monotonic() - began
        client: Client = self._client
        runs = [client.send(calls.run(run.id)) for run in round.runs]
        reports = [
            report
            for page in client.every(lambda below: calls.reports(below=below))
            for report in page.items
            if report.state == "sent"
        ]
        for run in runs:
            for path in [artifact.path for artifact in run.artifacts]:
                self._say(f"      {run.job}  file  {path}")
        return Outcome(events=list(self._events.values()), round=round, runs=runs, reports=reports, seconds=seconds)

    # ---- what is new ----

    def _hear(self) -> None:
        from paddock.client import calls

        page = self._client.send(calls.events(limit=_PAGE))
        for event in sorted(page.items, key=lambda event: (event.session, event.position)):
            known = self._events.get(event.id)
            self._events[event.id] = event
            if event.state != "heard" and (known is None or known.state == "heard"):
                mark, tone = ("▶", "bold") if event.state == "planned" else ("–", "dim")
                self._say(f"  {mark} {event.type:<17} {about(event):<36} {event.outcome}", tone)
                for why in event.whys if event.state == "planned" else ():
                    self._say(f"      {why.job:<14} {'runs' if why.runs else 'no':<5} {why.reason}  ({why.where})")

    def _follow(self, round: "Round") -> None:
        for run in round.runs:
            self._jobs[run.id] = run.job
            stood = run.verdict or (f"{run.state} {run.phase}" if run.phase else run.state)
            if self._told.get(run.id) != stood:
                self._told[run.id] = stood
                self._say(f"    {run.job:<14} {stood}{_why(run)}", painting.tone(run.verdict or run.state))
            if run.environment or run.verdict:
                self._read(run)
        self._status("   ".join(f"{self._jobs[id]}: {state}" for id, state in self._told.items()))

    def _read(self, run: "Run") -> None:
        from paddock.client import calls

        if not run.environment or self._cursors.get(run.id) == "over":
            return
        try:
            page = self._client.send(calls.lines(run.id, cursor=self._cursors.get(run.id, "")))
        except PaddockError:
            return
        for line in page.items:
            self._say(f"      {run.job}  {line.machine}│ {line.text}", "dim")
        self._cursors[run.id] = "over" if page.ended else page.cursor


def _why(run: Any) -> str:
    if run.verdict:
        return f" in {painting.lasted(run.started or run.created, run.ended)}"
    return f"  {run.environment}" if run.state == "preparing" else ""


def show_report(say: Callable[..., None], outcome: Outcome, *, account: str) -> None:
    """The report, exactly as it goes to the forge."""
    for report in outcome.reports:
        say("")
        say(f"  The report on {outcome.round.number},{outcome.round.patchset}, as {account} posts it:", "bold")
        for line in report.message.splitlines():
            say(f"  │ {clean(line)}")
        labels = ", ".join(f"{name} {value:+d}" for name, value in report.labels.items())
        say(f"  votes: {labels or 'none'}")


def show_pages(say: Callable[..., None], url: str, outcome: Outcome) -> None:
    say("")
    say("  Pages:", "bold")
    for run in outcome.runs:
        say(f"    {run.job:<14} {run.url}")
    say(f"    {'the round':<14} {url}/rounds/{outcome.round.id}")
    say(f"    {'what was heard':<14} {url}/events")
    say(f"    {'API':<14} {url}/docs")
