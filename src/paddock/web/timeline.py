"""Time drawn from left to right: bars of runs on one axis, who held what when."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from paddock.core.environment import Environment
from paddock.core.environment import State as EnvironmentState
from paddock.core.history import Transition
from paddock.core.job import Phase
from paddock.core.run import Run, Span, State
from paddock.web.spelling import brief, words

_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800)
)
_PART = {
    Phase.HELLO.value: "prepare",
    Phase.SOURCES.value: "prepare",
    Phase.BEFORE.value: "prepare",
    Phase.MAIN.value: "run",
    Phase.AFTER.value: "after",
    Phase.COLLECT.value: "collect",
}


@dataclass(frozen=True, kw_only=True)
class Tick:
    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a bar; `x` and `width` in percent of the axis."""

    x: float
    width: float
    kind: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From when to when is shown."""

    start: datetime
    end: datetime

    def at(self, moment: datetime) -> float:
        """Where a moment stands, in percent, kept within the axis."""
        share = (moment - self.start) / (self.end - self.start)
        return round(100 * min(1.0, max(0.0, share)), 3)

    def segment(self, began: datetime, ended: datetime, kind: str, title: str) -> Segment | None:
        """None where nothing of it is within the axis."""
        if ended <= self.start or began >= self.end:
            return None
        x = self.at(began)
        return Segment(x=x, width=max(0.15, round(self.at(ended) - x, 3)), kind=kind, title=title)

    def ticks(self, *, most: int = 8) -> list[Tick]:
        """Round moments, at most `most` of them."""
        span = self.end - self.start
        step = next((step for step in _STEPS if span / step <= most), _STEPS[-1])
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        moment = epoch + step * -(-(self.start - epoch) // step)
        form = "%H:%M" if step < timedelta(days=1) else "%d %b"
        if step < timedelta(minutes=1):
            form = "%H:%M:%S"
        ticks = []
        while moment <= self.end:
            ticks.append(Tick(x=self.at(moment), label=moment.strftime(form)))
            moment += step
        return ticks


def axis_of(runs: Sequence[Run], *, now: datetime) -> Axis:
    """An axis that shows the open runs from their beginning, and a little of what is to come."""
    start = min((run.created for run in runs if not run.is_done), default=now)
    start = min(start, now - timedelta(minutes=2))
    ahead = (now - start) * 0.12
    return Axis(start=start - (now - start) * 0.02, end=now + ahead)


def segments(run: Run, axis: Axis, *, now: datetime) -> list[Segment]:
    """The bar of a run: it waited, prepared, ran, collected; and, while it runs, what its limit leaves."""
    until = run.ended or now
    first = run.spans[0].began if run.spans else until
    found = [axis.segment(run.created, first, "wait", f"waited {brief(first - run.created)}")]
    for span in run.spans:
        ended = span.ended or until
        kind = _PART.get(str(span.phase), "run")
        if run.is_done and kind == "run":
            kind = f"run {run.verdict.value if run.verdict else ''}".strip()
        found.append(axis.segment(span.began, ended, kind, f"{span.phase} {brief(ended - span.began)}"))
    if run.state is State.RUNNING and (main := span_of(run, Phase.MAIN)) and main.ended is None:
        limit = run.spec.limits.main
        found.append(axis.segment(now, main.began + limit, "left", f"limit {brief(limit)}"))
    return [segment for segment in found if segment]


def span_of(run: Run, phase: Phase) -> Span | None:
    return next((span for span in run.spans if str(span.phase) == phase.value), None)


def took(run: Run, *, now: datetime) -> timedelta | None:
    """What the report and the command line say that a run took: from its start to its end, or to now; no waiting."""
    if run.started is None:
        return timedelta() if run.ended else None
    return (run.ended or now) - run.started


def waited(run: Run, *, now: datetime) -> timedelta:
    """From being asked for to its first phase, or until now."""
    return (run.spans[0].began if run.spans else run.ended or now) - run.created


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How long a run did what."""

    wait: timedelta
    prepare: timedelta
    run: timedelta
    collect: timedelta
    total: timedelta


def cost_of(run: Run, *, now: datetime) -> Cost:
    """What a run cost so far. `after` counts as running: it is the job's own."""
    until = run.ended or now
    parts = {"prepare": timedelta(), "run": timedelta(), "after": timedelta(), "collect": timedelta()}
    for span in run.spans:
        parts[_PART.get(str(span.phase), "run")] += (span.ended or until) - span.began
    return Cost(
        wait=waited(run, now=now),
        prepare=parts["prepare"],
        run=parts["run"] + parts["after"],
        collect=parts["collect"],
        total=until - run.created,
    )


def ownership(environment: Environment, history: Sequence[Transition], axis: Axis, *, now: datetime) -> list[Segment]:
    """Which state an environment was in, and whose it was."""
    found = []
    for step, ended in zip(history, [*(each.at for each in history[1:]), now], strict=False):
        if step.after == EnvironmentState.GONE:
            continue
        title = f"{words(step.after)} {brief(ended - step.at)}" + (f", {step.by}" if step.by else "")
        found.append(axis.segment(step.at, ended, step.after, title))
    if not history:
        found.append(
            axis.segment(
                environment.since, now, environment.state.value, f"{words(environment.state.value)} since then"
            )
        )
    return [segment for segment in found if segment]


def day_of(history: Sequence[Transition], *, now: datetime) -> Axis:
    """The axis of an environment's page: its history, at most a day of it."""
    first = history[0].at if history else now - timedelta(hours=1)
    start = max(first, now - timedelta(days=1))
    return Axis(start=min(start, now - timedelta(minutes=2)), end=now)
