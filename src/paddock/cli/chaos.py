"""`paddock chaos`: whether this machine keeps what the agent promises, by breaking it."""

import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paddock.cli.connection import json_option
from paddock.cli.extras import server_parts
from paddock.cli.grammar import Noun, verb

if TYPE_CHECKING:
    from paddock.chaos.run import Progress, Result

_EVERY_LINE, _EVERY_PAINT = 10.0, 0.2
"""Seconds between two words of progress: in a file, and on a terminal."""

chaos = Noun(
    "chaos", help="Break a server and an agent on purpose, and count what they did.", example="paddock chaos agent"
)


@verb(chaos, "agent", example="paddock chaos agent\npaddock chaos agent --commands 10000 --seed 7 --keep ./chaos")
@click.option(
    "--commands", type=click.IntRange(20, 1_000_000), default=2000, show_default=True, help="How many are given."
)
@click.option("--seconds", type=click.FloatRange(min=1), metavar="LIMIT", help="Give none after so long.")
@click.option("--seed", type=int, metavar="NUMBER", help="Do the same to it as last time. Default: by chance.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Work in this directory, which is new or empty, and leave it: its disk is the one that is tested.",
)
@json_option
def agent(commands: int, seconds: float | None, seed: int | None, keep: Path | None, as_json: bool) -> int:
    """Whether the agent never loses and never repeats a command here.

    A server and an agent of their own are given thousands of commands while they are killed, stopped, cut off,
    rebooted, run out of disk and told wrong times. Then each command is counted. Exits 0 if every check holds, else 1.
    """
    from paddock.cli import painting

    _check(keep)
    with server_parts("chaos"):
        import paddock.server  # noqa: F401 - what a server needs is asked for before anything is started
        from paddock.chaos import run

    seed = secrets.randbelow(1_000_000) if seed is None else seed
    place = _place(keep)
    wanted = run.Wanted(
        commands=commands,
        seed=seed,
        limit=timedelta(seconds=seconds) if seconds is not None else timedelta.max,
        directory=place,
    )
    result = asyncio.run(run.Run(wanted, tell=_teller(seed)).play())
    if keep is None and result.holds:
        _remove(place)
    if as_json:
        painting.tell(result)
    else:
        _show(result, place if keep is not None or not result.holds else None)
    return 0 if result.holds else 1


def _check(keep: Path | None) -> None:
    from paddock.core.errors import Refused

    if keep is not None and keep.is_dir() and any(keep.iterdir()):
        raise Refused(f"{keep}: is not empty", hint="name a new directory")


def _place(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="paddock-chaos-"))
    keep.mkdir(parents=True, exist_ok=True)
    return keep.resolve()


def _remove(place: Path) -> None:
    import shutil

    shutil.rmtree(place, ignore_errors=True)


def _teller(seed: int) -> "Callable[[Progress], None]":
    """One line that changes on a terminal; elsewhere a line now and then."""
    is_terminal = sys.stderr.isatty()
    told, last, step = 0.0, "", ""
    every = _EVERY_PAINT if is_terminal else _EVERY_LINE

    def tell(progress: "Progress") -> None:
        nonlocal told, last, step
        now = time.monotonic()
        if now - told < every and progress.step == step:
            return
        told, step = now, progress.step
        text = f"seed {seed}  {progress.step}"
        if progress.given:
            text += f"  {progress.given} given  {progress.over} over  {progress.acts} of {progress.planned} acts"
        if progress.now:
            text += f"  {progress.now}"
        if is_terminal:
            click.echo(f"\r\x1b[K{text[:110]}", err=True, nl=progress.step == "counting")
        elif text != last:
            click.echo(text, err=True)
        last = text

    return tell


def _show(result: "Result", place: Path | None) -> None:
    from paddock.cli import painting

    painting.table(
        ("act", "times"),
        [
            *((name, str(count)) for name, count in sorted(result.acts.items())),
            ("commands given again", str(result.given_again)),
            *((name, f"left out: {why}") for name, why in sorted(result.left_out.items())),
        ],
        empty="nothing was done to it",
    )
    painting.print_line("")
    painting.table(("commands", "end"), [(str(n), name) for name, n in sorted(result.states.items())], empty="none")
    painting.print_line("")
    painting.table(
        ("check", "looked at", "against", "says"),
        [(one.name, str(one.looked_at), str(one.against), "OK" if one.holds else "FAIL") for one in result.checks],
        empty="nothing was checked",
    )
    for one in result.checks:
        for case in one.shown:
            painting.print_line(f"  {one.name}: {case}")
    painting.print_line("")
    verdict = "every check holds" if result.holds else "NOT every check holds"
    painting.print_line(f"{verdict}: {result.commands} commands in {result.seconds:.0f} s, seed {result.seed}")
    if result.left_out:
        painting.print_line(f"left out: {', '.join(sorted(result.left_out))}")
    if place is not None:
        painting.print_line(f"logs, server and witness: {place}")
