"""Reads what one page or answer needs out of the store in one consistent look."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paddock.core import command, environment, results
from paddock.core.access import Identity, Role
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.errors import Missing
from paddock.core.event import Event
from paddock.core.job import Job, Phase
from paddock.core.lease import Lease
from paddock.core.report import Report
from paddock.core.results import Results
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.engine.ordering import holds
from paddock.ports import Archive, R, Rows, Tables
from paddock.web.logs import Stream
from paddock.web.telling import stream_of

_STREAM = re.compile(r"(?P<phase>[a-z]+)-(?P<step>\d{1,6})-(?P<machine>.+)")
_ORDER = [phase.value for phase in Phase]


def need(rows: Rows[R], id: str, noun: str) -> R:
    """The row; `Missing` where there is none."""
    row = rows.find(id)
    if row is None:
        raise Missing(f"{noun} {id}: there is none")
    return row


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """A run and everything around it."""

    run: Run
    round: Round | None
    event: Event | None
    lease: Lease | None
    environment: Environment | None
    commands: Sequence[Command]
    results: Results | None
    siblings: Sequence[Run]
    """All runs of its round, itself included."""
    earlier: Sequence[Run]
    """Ended runs of the same job before it, newest first."""
    earlier_results: Mapping[str, Results]


def whole_run(tables: Tables, id: str, *, history: int = 0) -> WholeRun:
    run = need(tables.runs, id, "run")
    round = tables.rounds.find(run.round)
    earlier = (
        tables.runs.where(job=run.job, project=run.project, state="done", newest=True, below=run.id, limit=history)
        if history
        else []
    )
    found = {each.id: tables.results.find(each.id) for each in earlier}
    return WholeRun(
        run=run,
        round=round,
        event=tables.events.find(round.event) if round else None,
        lease=tables.leases.find(run.lease) if run.lease else None,
        environment=tables.environments.find(run.environment) if run.environment else None,
        commands=tables.commands.where(run=run.id),
        results=tables.results.find(run.id),
        siblings=tables.runs.where(round=run.round),
        earlier=earlier,
        earlier_results={id: result for id, result in found.items() if result},
    )


CONSOLE = "console"
"""Stands where a log of a run has its phase: what a machine said on its serial line meanwhile."""


def _title(job: Job, phase: str, step: int) -> str:
    if phase == CONSOLE:
        return "serial line"
    try:
        steps = job.steps_of(Phase(phase))
    except ValueError:
        return ""
    return steps[step - 1].name if 0 < step <= len(steps) else phase


async def streams_of(archive: Archive, run: Run, commands: Sequence[Command]) -> list[Stream]:
    """The logs of a run in the order of its steps; one that has not printed anything yet is there, empty."""
    there = await archive.list(f"{run.archive}/logs") if run.archive else {}
    lengths = {
        name.rpartition("/")[2].removesuffix(".log"): length for name, length in there.items() if name.endswith(".log")
    }
    by_stream = {stream_of(row): row for row in commands if stream_of(row)}
    found = []
    for name in {*lengths, *by_stream}:
        if parts := _STREAM.fullmatch(name):
            found.append(_stream(run, name, parts, lengths.get(name, 0), by_stream.get(name)))
    # Machines in the order in which the environment has them: commands are ordered in it.
    machines = list(dict.fromkeys(row.machine for row in commands))
    order = {machine: place for place, machine in enumerate(machines)}
    return sorted(
        found,
        key=lambda stream: (_place(stream.phase), stream.step, order.get(stream.machine, len(order)), stream.machine),
    )


def _stream(run: Run, name: str, parts: re.Match[str], length: int, row: Command | None) -> Stream:
    phase, step = parts["phase"], int(parts["step"])
    return Stream(
        name=name,
        phase=phase,
        step=step,
        title=_title(run.spec, phase, step),
        machine=parts["machine"],
        archive=f"{run.archive}/logs/{name}.log",
        length=length,
        ended=run.is_done or (row is not None and not row.is_open and length >= sum(row.outputs.values())),
        state=_state(row),
        exit=row.exit if row else None,
        began=(row.started or row.sent) if row else None,
        until=row.ended if row else None,
    )


def _state(row: Command | None) -> str:
    """How the step went, in one word: a program that said no did not succeed, though the command is complete."""
    if row is None or row.method == "machine.console":
        return ""  # it is neither good nor bad, and ends by being ended
    return "failure" if row.state is command.State.COMPLETE and row.exit else row.state.value


def _place(phase: str) -> int:
    return _ORDER.index(phase) if phase in _ORDER else len(_ORDER)


@dataclass(frozen=True, kw_only=True)
class WholeRound:
    round: Round
    runs: Sequence[Run]
    report: Report | None
    event: Event | None


def whole_round(tables: Tables, id: str) -> WholeRound:
    return _round(tables, need(tables.rounds, id, "round"))


def _round(tables: Tables, round: Round) -> WholeRound:
    return WholeRound(
        round=round,
        runs=tables.runs.where(round=round.id),
        report=tables.reports.find(round.id),
        event=tables.events.find(round.event),
    )


@dataclass(frozen=True, kw_only=True)
class WholeChange:
    forge: str
    number: int
    project: str
    subject: str
    url: str
    branch: str
    owner: str
    rounds: Sequence[WholeRound]
    events: Sequence[Event]


def whole_change(tables: Tables, forge: str, number: int) -> WholeChange:
    """What is known of a change, newest first; `Missing` where it was never heard of."""
    rounds = tables.rounds.where(forge=forge, number=number, newest=True, limit=100)
    events = tables.events.where(forge=forge, number=number, newest=True, limit=500)
    if not number or not (rounds or events):
        raise Missing(f"change {forge}/{number}: it was never heard of")
    heard = [row.change for row in events] + [row.change for row in rounds]
    change = next((each for each in heard if each), None)
    return WholeChange(
        forge=forge,
        number=number,
        project=rounds[0].project if rounds else events[0].project,
        subject=change.subject if change else "",
        url=change.url if change else "",
        branch=change.branch if change else "",
        owner=change.owner if change else "",
        rounds=[_round(tables, round) for round in rounds],
        events=events,
    )


def sorted_cases(found: Results | None) -> list[results.Case]:
    """Failed first, then errors, skipped, passed; within that as they were written."""
    order = [results.Outcome.FAILED, results.Outcome.ERROR, results.Outcome.SKIPPED, results.Outcome.PASSED]
    return sorted(found.cases if found else (), key=lambda case: order.index(case.outcome))


def may_press(tables: Tables, row: Environment, identity: Identity, *, is_looking: bool = False) -> bool:
    """Whether they may use the buttons of its machines, or look at their screens; as the engine decides it."""
    if row.spec is None or row.state in (environment.State.SAVED, environment.State.GONE):
        return False
    is_free = row.state is environment.State.READY
    return holds(tables, row, identity) or (identity.role is Role.OPERATOR and (is_looking or not is_free))
