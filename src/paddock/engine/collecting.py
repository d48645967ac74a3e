"""Collecting: every announced byte is there, results are read, the run ends.

Effects: idempotent (reads the archive, then one transaction ends the run and gives its lease back)
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from paddock.core import command as commands
from paddock.core import lease as leases
from paddock.core import results
from paddock.core import run as runs
from paddock.core.command import Command
from paddock.core.configuration import Configuration
from paddock.core.errors import Refused
from paddock.core.job import Phase
from paddock.core.phases import CONSOLE, Finish
from paddock.core.results import Case, Outcome, Results
from paddock.core.run import Run, Verdict
from paddock.engine import holding, leasing
from paddock.engine.filing import COLLECT, stream_name
from paddock.engine.junit import LARGEST, MOST_CASES, read
from paddock.engine.means import Means, fail, move, need
from paddock.hands import faults
from paddock.ports import Tables

RESULTS_STEP = 1
"""The step of collecting that fetches the test results; the other fetches artifacts."""


@dataclass(frozen=True, kw_only=True)
class Outstanding:
    """Names of streams that were announced and are not whole yet, by the commands that had ended at that moment."""

    names: tuple[str, ...] = ()
    ended: frozenset[str] = frozenset()

    def covers(self, commands: Sequence[Command]) -> bool:
        """Whether none of these has ended since: what ended later may have announced more."""
        mine = [command for command in commands if command.method != CONSOLE]
        return all(command.is_open or command.id in self.ended for command in mine)


async def outstanding(means: Means, id: str) -> Outstanding:
    """What a run still waits for; nothing before its collecting."""
    run, ended = await means.store.read(lambda tables: _ended(tables, id))
    if run is None or run.phase is not Phase.COLLECT:
        return Outstanding()
    announced = {}
    for command in ended:
        for stream, length in command.outputs.items():
            try:
                announced[stream_name(command, stream)] = length
            except Refused:
                continue  # nobody stores it; finish() lists it by name
    # One listing, not a question for each: a machine may announce ten thousand files.
    there = await means.archive.list(run.archive) if announced else {}
    names = tuple(name for name, length in announced.items() if there.get(name, 0) < length)
    return Outstanding(names=names, ended=frozenset(command.id for command in ended))


def _ended(tables: Tables, id: str) -> tuple[Run | None, list[Command]]:
    ended = [command for command in tables.commands.where(run=id) if not command.is_open]
    # Of a console what has arrived is enough: nothing waits for it.
    return tables.runs.find(id), [command for command in ended if command.method != CONSOLE]


async def finish(means: Means, run: Run, act: Finish, *, now: datetime) -> None:
    """Read the results and end the run. `Conflict` if it moved meanwhile: then it is looked at again."""
    _, ended = await means.store.read(lambda tables: _ended(tables, run.id))
    await _keep_empty_files(means, run, ended)
    found, unread = await _read_results(means, run, ended)
    verdict, reason = _verdict(run, act, found, unread)
    faults.at("collecting.read")
    configuration = means.configuration()
    await means.store.write(lambda tables: end(tables, configuration, run, verdict, reason, found, now=now))
    faults.at("collecting.ended")


AT_ONCE = 64
"""Empty files that are made together: each waits for the disk."""


async def _keep_empty_files(means: Means, run: Run, ended: Sequence[Command]) -> None:
    """A file without bytes has arrived by being announced: no output came that would have made it."""
    empty = {}
    for command in ended:
        if command.method == COLLECT:
            for stream, length in command.outputs.items():
                with contextlib.suppress(Refused):
                    empty[stream_name(command, stream)] = length
    names = [name for name, length in empty.items() if length == 0]
    there = await means.archive.list(run.archive) if names else {}
    missing = [name for name in names if name not in there]
    for first in range(0, len(missing), AT_ONCE):
        await asyncio.gather(*(means.archive.append(name, 0, b"") for name in missing[first : first + AT_ONCE]))


async def _read_results(means: Means, run: Run, ended: Sequence[Command]) -> tuple[Results, list[str]]:
    """The cases of every result file that arrived, with what was refused by name; and which results that concerns."""
    cases: list[Case] = []
    refused = complaints(ended)
    unread = list(refused.results)
    is_collected = any(command.method == COLLECT for command in ended)
    folder = f"{run.archive}/results"
    for name in await means.archive.list(folder) if run.spec.results and is_collected else {}:
        short = name.removeprefix(f"{folder}/")
        try:
            data = await means.archive.read(name, limit=LARGEST + 1)
            # On a thread: a file of the largest size takes seconds, and everybody's heartbeat is on this one.
            found = await asyncio.to_thread(read, data, machine=short.partition("/")[0])
            if len(cases) + len(found) > MOST_CASES:
                raise Refused(f"the run has more than {MOST_CASES} cases with it")
            cases += found
        except Refused as exc:
            unread.append(f"{short}: {exc.message}")
    return Results(id=run.id, cases=tuple(cases), problems=(*unread, *refused.others)), unread


@dataclass(frozen=True, kw_only=True)
class Complaints:
    """What was refused by name: of test results, which decides about the verdict, and of everything else."""

    results: tuple[str, ...]
    others: tuple[str, ...]


def complaints(ended: Sequence[Command]) -> Complaints:
    """What the ended commands of a run could not bring; pages tell with it what a run's problems are about."""
    fetching = [command for command in ended if command.method == COLLECT and command.step == RESULTS_STEP]
    others = [command for command in ended if command.method != COLLECT or command.step != RESULTS_STEP]
    return Complaints(results=tuple(_refusals(fetching)), others=tuple(_refusals(others)))


def _refusals(ended: Sequence[Command]) -> list[str]:
    """What the agents would not send, and what we would not store."""
    said = []
    for command in ended:
        refused = command.result.get("refused")
        for one in refused if isinstance(refused, list) else []:
            if isinstance(one, Mapping):
                said.append(f"{command.machine}/{one.get('path', '?')}: {one.get('why', 'refused')}")
        for stream in command.outputs:
            try:
                stream_name(command, stream)
            except Refused as exc:
                said.append(f"{command.machine}: {exc.message}")
    return sorted(set(said))


def _verdict(run: Run, act: Finish, found: Results, unread: Sequence[str]) -> tuple[Verdict, str]:
    """A run is not successful until proven: the results that its job promises have to be there, and to be good."""
    if act.verdict is not Verdict.SUCCESS or not run.spec.results:
        return act.verdict, act.reason
    if not found.cases:
        why = f": {unread[0]}" if unread else ""
        return Verdict.FAILURE, f"no test results were found in {', '.join(run.spec.results)}{why}"
    counted = results.count(found.cases)
    bad = counted[Outcome.FAILED] + counted[Outcome.ERROR]
    if bad:
        return Verdict.FAILURE, f"{bad} of {len(found.cases)} tests did not pass"
    if unread:
        return Verdict.FAILURE, f"test results could not be read: {unread[0]}"
    return act.verdict, act.reason


def end(
    tables: Tables,
    configuration: Configuration,
    run: Run,
    verdict: Verdict,
    reason: str,
    found: Results,
    *,
    now: datetime,
) -> None:
    """One transaction: the run is done, what it had is dirty or held, no answer to its open commands is taken."""
    done = runs.finish(run, verdict, reason=reason, now=now)
    move(tables, "runs", run, done, runs.Signal.FINISH, now=now)
    if found.cases or found.problems:
        tables.results.add(found)
    for command in tables.commands.where(run=run.id, state=sorted(commands.OPEN)):
        fail(tables, command, "stale", "its run is done", now=now)
    lease = need(tables.leases, run.lease, "lease")
    if lease.state is leases.State.GRANTED:
        holding.wish(tables, configuration, done)
        leasing.end(tables, lease, leases.Signal.RELEASE, now=now, by=f"run {run.id}")
