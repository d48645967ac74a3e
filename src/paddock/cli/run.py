"""`paddock run`: runs of jobs, their logs, and what may be done to one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.lines import REASON
from paddock.cli.naming import run_of
from paddock.core.run import State

if TYPE_CHECKING:
    from paddock.client import Client
    from paddock.wire.shapes import Line, Run, RunDetail

run = Noun("run", help="Runs: attempts of jobs.", example="paddock run list\npaddock run log -f 189221/two-machines")
_WAIT = 20.0
_CONSOLE = "console-"
"""How the logs begin that hold what a machine said on its serial line."""
_STATE = click.Choice([str(state) for state in State])


@verb(run, "list", example="paddock run list\npaddock run list --in running --json")
@click.option("--in", "condition", type=_STATE, metavar="STATE", help="In one state: queued, running, done...")
@click.option("--job", default="", help="Of one job.")
@click.option("--project", default="", help="For one project.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=30, show_default=True, help="At most so many.")
@asks
def list_(client: "Client", condition: str | None, job: str, project: str, limit: int, as_json: bool) -> None:
    """Runs, newest first."""
    from paddock.cli import painting
    from paddock.client import calls

    rows = every(
        client,
        lambda below: calls.runs(below=below, state=condition or "", job=job, project=project, limit=min(limit, 500)),
        limit,
    )
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("id", "change", "job", "state", "verdict", "phase", "took", "asked"),
        [
            (
                row.id,
                _change(row),
                f"{row.job} #{row.attempt}" if row.attempt > 1 else row.job,
                row.state,
                row.verdict or "",
                row.phase or "" if row.state != "done" else "",
                painting.lasted(row.started, row.ended),
                painting.ago(row.created),
            )
            for row in rows
        ],
        empty="no runs yet; what was heard: paddock event list",
    )


def _change(row: "Run") -> str:
    return f"{row.project} {row.number},{row.patchset}" if row.number else row.project


def _left(row: "RunDetail") -> str:
    """How long what a failed run had is still held; empty: it is not."""
    from paddock.cli import painting

    return painting.left(row.held_until)


@verb(run, "show", example="paddock run show 7f3a\npaddock run show 189221/two-machines")
@click.argument("id")
@asks
def show(client: "Client", id: str, as_json: bool) -> None:
    """One run: how it went, its logs, tests and files."""
    from paddock.cli import painting

    row: RunDetail = run_of(client, id)
    if as_json:
        return painting.tell(row)
    painting.fields(
        f"run {row.id}  {row.job}  attempt {row.attempt}",
        [
            ("change", _change(row)),
            ("state", row.state),
            ("verdict", row.verdict or ""),
            ("reason", row.reason),
            ("environment", f"{row.environment}, held, ends {left}" if (left := _left(row)) else row.environment),
            ("lease", row.lease),
            ("round", row.round),
            ("took", painting.lasted(row.started, row.ended)),
            ("phases", "  ".join(f"{span.phase} {painting.lasted(span.began, span.ended)}" for span in row.spans)),
            ("page", row.url),
        ],
    )
    if row.logs:
        painting.print_line("")
        painting.table(
            ("log", "step", "machine", "bytes"),
            [(log.name, log.title, log.machine, f"{log.length:,}") for log in row.logs],
            empty="",
        )
    if row.cases:
        painting.print_line("")
        painting.table(
            ("test", "state", "seconds", "message"),
            [(f"{case.suite}: {case.name}", case.outcome, f"{case.seconds:.2f}", case.message) for case in row.cases],
            empty="",
        )
    if row.artifacts:
        painting.print_line("")
        painting.table(
            ("file", "bytes"), [(artifact.path, f"{artifact.size:,}") for artifact in row.artifacts], empty=""
        )
    for problem in row.problems:
        painting.print_line(f"! {problem}")


@verb(
    run,
    "log",
    example="paddock run log 7f3a\npaddock run log -f --machine one 189221/two-machines\n"
    "paddock run log --no-console 7f3a",
)
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run is done.")
@click.option("--machine", default="", help="Of one machine.")
@click.option("-n", "--last", type=click.IntRange(1, 5000), default=None, help="Begin with about the last N lines.")
@click.option("--console/--no-console", default=True, help="With what machines said on their serial lines.")
@asks
def log(client: "Client", id: str, follow: bool, machine: str, last: int | None, console: bool, as_json: bool) -> None:
    """What the machines of a run printed, in the order of time; their serial lines beside it, as `console`."""
    import sys

    from paddock.cli import painting

    row = run_of(client, id)
    _check_machine(row, machine)
    several = len({each.machine for each in row.logs}) != 1 and not machine
    for line in lines(client, row.id, machine=machine, follow=follow, last=last):
        is_said = line.stream.startswith(_CONSOLE)
        if is_said and not console:
            continue
        if as_json:
            painting.tell(line)
        else:
            time, source = (line.at or "")[11:19], f"{line.machine} console" if is_said else line.machine
            painting.print_line(f"{time} {source}| {line.text}" if several or is_said else line.text)
        if follow:
            sys.stdout.flush()


def _check_machine(row: Any, machine: str) -> None:
    from paddock.core.errors import Missing

    known = sorted({each.machine for each in row.logs})
    if machine and machine not in known and row.state == "done":
        raise Missing(f"run {row.id}: no machine {machine}", hint=f"its machines: {', '.join(known) or 'none'}")


def lines(
    client: "Client", id: str, *, machine: str = "", follow: bool = False, last: int | None = None
) -> "Iterator[Line]":
    """The lines of a run; followed, they go on until it is done, also past a server's restart."""
    import time

    from paddock.client import Unreachable, calls
    from paddock.client.waiting import PAUSE, SILENCE

    cursor, heard = "end" if last else "", time.monotonic()
    while True:
        wait = _WAIT if follow and cursor != "end" else 0.0
        try:
            page = client.send(
                calls.lines(
                    id, machine=machine, cursor=cursor, limit=last or 1000 if cursor == "end" else 1000, wait=wait
                )
            )
        except Unreachable:
            if not follow or time.monotonic() - heard > SILENCE:
                raise
            time.sleep(PAUSE)
            continue
        heard = time.monotonic()
        yield from page.items
        cursor = page.cursor
        if page.ended or not (page.items or follow):
            return


@verb(run, "retry", example="paddock run retry 7f3a")
@click.argument("id")
@asks
def retry(client: "Client", id: str, as_json: bool) -> None:
    """Run a job once more for the same change."""
    from paddock.client import calls

    _answer(client.send(calls.retry(run_of(client, id).id)), as_json=as_json)


@verb(run, "cancel", example="paddock run cancel 7f3a --reason 'wrong branch'")
@click.argument("id")
@click.option("--reason", type=REASON, default="", help="Why; the report on the change says it.")
@asks
def cancel(client: "Client", id: str, reason: str, as_json: bool) -> None:
    """End a run now; what it has to clean up and to collect, it still does."""
    from paddock.client import calls

    _answer(client.send(calls.cancel_run(run_of(client, id).id, reason=reason)), as_json=as_json)


def _answer(row: "Run", *, as_json: bool) -> None:
    from paddock.cli import painting

    if as_json:
        painting.tell(row)
        return
    ending = f", ending as {row.ending}" if row.ending and row.state != "done" else ""
    painting.print_line(f"run {row.id}  {row.job}  attempt {row.attempt}: {row.verdict or row.state}{ending}")
    painting.print_line(f"  {row.url}")
