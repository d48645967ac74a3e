"""Verdict, vote and text that goes back to the forge: one for a round, sent exactly once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from paddock.core.event import Change
from paddock.core.run import Run, Verdict
from paddock.core.table import Table


class State(StrEnum):
    INTENDED = "intended"
    SENDING = "sending"
    SENT = "sent"
    REFUSED = "refused"
    """The forge will never take it, and said why."""


class Signal(StrEnum):
    SEND = "send"
    CONFIRM = "confirm"
    REFUSE = "refuse"


LIFECYCLE = Table(
    name="report",
    initial=State.INTENDED,
    final=frozenset({State.SENT, State.REFUSED}),
    steps={
        (State.INTENDED, Signal.SEND): State.SENDING,
        (State.SENDING, Signal.CONFIRM): State.SENT,
        (State.SENDING, Signal.REFUSE): State.REFUSED,
    },
)


class Vote(StrEnum):
    """How a forge is told: `none` never votes, `plus-one-only` never votes against, `full` does both."""

    NONE = "none"
    PLUS_ONE_ONLY = "plus-one-only"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is said on a change about a round. Its id is the round's."""

    id: str
    forge: str
    change: Change
    message: str
    labels: Mapping[str, int] = field(default_factory=dict)
    link: str = ""
    """`<public-url>/rounds/<id>`, the message's last line: what `Forge.find` looks for."""
    state: State = State.INTENDED
    created: datetime | None = None
    sent: datetime | None = None
    attempts: int = 0
    reason: str = ""
    """Why it could not be sent yet, in the forge's words."""
    version: int = 0


_WORD = {
    Verdict.SUCCESS: "SUCCESS",
    Verdict.FAILURE: "FAILURE",
    Verdict.ERROR: "ERROR",
    Verdict.TIMED_OUT: "TIMED_OUT",
    Verdict.CANCELLED: "CANCELLED",
    Verdict.SUPERSEDED: "SUPERSEDED",
    Verdict.LEASE_LOST: "LEASE_LOST",
}


def compose(
    round: str,
    change: Change,
    runs: Sequence[Run],
    *,
    public_url: str,
    vote: Vote,
    label: str,
    contact: str,
    now: datetime,
) -> Report:
    """Write the report of a round from its runs' last attempts, in the order in which the jobs were planned."""
    runs = last_attempts(runs)
    link = f"{public_url}/rounds/{round}"
    results = _within(LONGEST, [_line(run, public_url) for run in runs])
    reasons = _within(LONGEST - sum(len(line) + 1 for line in results), _reasons(runs))
    message = "\n".join([_headline(runs), "", *results, *reasons, "", *_contact(contact), link])
    return Report(
        id=round,
        forge=change.forge,
        change=change,
        message=message,
        labels=_labels(runs, vote, label),
        link=link,
        created=now,
    )


LONGEST = 15_000
"""Characters of all result lines together: Gerrit takes messages of 16 KiB, headline, contact and link included."""


def _within(limit: int, lines: Sequence[str]) -> list[str]:
    """As many lines as fit, then how many there are beyond them; the round's page has them all."""
    kept: list[str] = []
    for line in lines:
        limit -= len(line) + 1
        if limit < 0:
            return [*kept, f"... and {len(lines) - len(kept)} more, on the page below"]
        kept.append(line)
    return kept


def last_attempts(runs: Sequence[Run]) -> list[Run]:
    """The runs that count: of each job the last attempt, in the order of first appearance."""
    last: dict[str, Run] = {}
    for run in runs:
        if run.job not in last or run.attempt > last[run.job].attempt:
            last[run.job] = run
    return list(last.values())


def _headline(runs: Sequence[Run]) -> str:
    verdicts = {run.verdict for run in runs if run.voting}
    if verdicts <= {Verdict.SUCCESS}:
        return "Build succeeded."
    if verdicts & {Verdict.FAILURE, Verdict.TIMED_OUT}:
        return "Build failed."
    if verdicts <= {Verdict.SUCCESS, Verdict.CANCELLED}:
        return "Build was cancelled."
    return "Build did not finish: the trouble was ours, not the change's."


LONGEST_REASON = 300


def _reasons(runs: Sequence[Run]) -> list[str]:
    """Why each run that did not succeed did not, a line each; apart from the result lines, which tools parse."""
    said = [f"{run.job}: {run.reason}" for run in runs if run.verdict is not Verdict.SUCCESS and run.reason]
    return ["", *(" ".join(line.split())[:LONGEST_REASON] for line in said)] if said else []


def _line(run: Run, public_url: str) -> str:
    """`- job url : SUCCESS in 3m 11s (non-voting)`: the order of Zuul's result lines, which tools parse. Waiting
    does not count."""
    verdict = _WORD[run.verdict or Verdict.ERROR]
    ended = run.ended or run.created
    took = ended - (run.started or ended)
    suffix = "" if run.voting else " (non-voting)"
    return f"- {run.job} {public_url}/runs/{run.id}/ : {verdict} in {spell(took)}{suffix}"


def spell(duration: timedelta) -> str:
    """`12s`, `3m 11s`, `1h 02m 03s`, as Zuul spells durations."""
    seconds = max(0, int(duration.total_seconds()))
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    if hours:
        return f"{hours}h {minutes:02}m {seconds:02}s"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"


def _contact(contact: str) -> list[str]:
    return [f"Contact: {contact}"] if contact else []


def _labels(runs: Sequence[Run], vote: Vote, label: str) -> dict[str, int]:
    """What the vote policy makes of the voting runs: an infrastructure fault never votes against a change."""
    verdicts = {run.verdict for run in runs if run.voting}
    if vote is Vote.NONE or not verdicts:
        return {}
    if verdicts == {Verdict.SUCCESS}:
        return {label: 1}
    if vote is Vote.FULL and verdicts & {Verdict.FAILURE, Verdict.TIMED_OUT}:
        return {label: -1}
    return {}
