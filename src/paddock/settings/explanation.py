"""Why each job runs for an event, or does not, as `paddock explain` tells it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from paddock.core import heard
from paddock.core.configuration import Configuration
from paddock.core.errors import Missing, Refused
from paddock.core.event import Event, Heard, Why
from paddock.core.trigger import EVERY_JOB, decide, recheck_of
from paddock.settings.problems import suggest

COMMENT_MAX = 60


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What an event would start now, were no other round live."""

    headline: str
    """`comment-added  openstack/nova 912345,3  "recheck"  by anna`."""
    outcome: str
    whys: tuple[Why, ...]
    event: Event

    @property
    def runs(self) -> bool:
        """Whether any job would run."""
        return any(why.runs for why in self.whys)


def explain(raw: str, configuration: Configuration, *, forge: str = "") -> Explanation:
    """Explain one event, given as a line of a forge's stream (or the same JSON over several lines).

    `forge` names the forge that it came from; `Refused` if it is not named and there are several, `Missing` if there is
    no such forge.
    """
    event = heard.understand(
        Heard(
            forge=_choose_forge(forge, configuration),
            session="explain",
            position=0,
            at=datetime(1970, 1, 1, tzinfo=UTC),
            raw=raw,
        )
    )
    plan = decide(event, configuration, [])
    return Explanation(headline=_headline(event, configuration), outcome=plan.outcome, whys=plan.whys, event=event)


def spell(explanation: Explanation) -> list[str]:
    """The lines for a terminal: the event, then one line a job with the reason and the line that decided."""
    if not explanation.whys:
        return [explanation.headline, f"  {explanation.outcome}"]
    names = ["every job" if why.job == EVERY_JOB else why.job for why in explanation.whys]
    broad = max(len(name) for name in names)
    reasons = list(_reasons(explanation.whys))
    wide = max(len(reason) for reason in reasons)
    lines = [explanation.headline]
    for why, name, reason in zip(explanation.whys, names, reasons, strict=True):
        where = f"({why.where})" if why.where else ""
        lines.append(f"  {name:<{broad}}  {'runs' if why.runs else 'no':<4}  {reason:<{wide}}  {where}".rstrip())
    return lines


def _reasons(whys: Sequence[Why]) -> Iterator[str]:
    """Each reason once; `same` where the job above has it too."""
    before: Why | None = None
    for why in whys:
        is_same = before is not None and (before.runs, before.reason) == (why.runs, why.reason)
        yield "same" if is_same else why.reason
        before = why


def _choose_forge(name: str, configuration: Configuration) -> str:
    forges = list(configuration.forges)
    if name:
        if name not in forges:
            raise Missing(f"forge {name}: not configured{suggest(name, forges)}")
        return name
    if len(forges) > 1:
        raise Refused(f"event: there are several forges: {', '.join(forges)}", hint="say which: --forge NAME")
    # Without a forge nothing can be heard, but an event can still be read and explained.
    return forges[0] if forges else "none"


def _headline(event: Event, configuration: Configuration) -> str:
    parts = [event.type or "unknown"]
    if event.change is not None:
        parts.append(event.change.title)
    elif event.project:
        parts.append(event.project)
    if event.comment:
        parts.append(f'"{_gist(event, configuration)}"')
    if event.author:
        parts.append(f"by {event.author}")
    return "  ".join(parts)


def _gist(event: Event, configuration: Configuration) -> str:
    """The line of a comment that asks for a run, or else its first line below the header."""
    lines = [line.strip() for line in event.comment.splitlines() if line.strip()]
    forge = configuration.forges.get(event.forge)
    asking = [line for line in lines if forge and recheck_of(line, forge.recheck)]
    gist = next(iter(asking), next(iter(lines[1:]), next(iter(lines), "")))
    return gist if len(gist) <= COMMENT_MAX else f"{gist[:COMMENT_MAX]}..."
