"""How answers look: tables that fit, states with a colour beside their word, JSON."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from paddock.cli.root import clean as clean
from paddock.core.report import spell
from paddock.wire.shapes import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDEST = 100

_TONES = {
    "green": "success ready complete passed online sent granted ok running-agent",
    "red": "failure failed impossible lost timed_out missing",
    "magenta": "error broken quarantined lease_lost gap revoked expired",
    "cyan": """leasing preparing running collecting reporting building leased held cleaning dirty sending draining
    accepted queued planned waits""",
}
_STYLES = {state: tone for tone, states in _TONES.items() for state in states.split()}
STATES = frozenset({"state", "verdict", "runs"})
"""Columns whose words are painted."""
KEPT = frozenset({"id", "state", "verdict", "image"})
"""Columns that do not shrink: an id that is cut is none."""


def console(*, err: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    # What is piped is as wide as what fits a page; a terminal may be narrower, and is not used beyond that.
    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or WIDEST)
    made = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)
    if made.width > WIDEST:
        made.width = WIDEST
    return made


def paint(word: str) -> "Text":
    """A state or a verdict: its word, in its colour."""
    from rich.text import Text

    return Text(clean(word), style=_STYLES.get(word, ""), no_wrap=True, overflow="ellipsis")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Rows under their names, in at most 100 columns; `empty` says what to do next where there are none."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", collapse_padding=True)
    for name in columns:
        drawn.add_column(name.upper(), no_wrap=name in KEPT, min_width=4)
    count = 0
    for row in rows:
        count += 1
        drawn.add_row(
            *(
                paint(cell)
                if name in STATES
                else Text(clean(cell).replace("\n", " ").replace("\t", " "), no_wrap=True, overflow="ellipsis")
                for name, cell in zip(columns, row, strict=True)
            )
        )
    if count:
        out = console()
        with out.capture() as drawing:
            out.print(drawn)
        # Rich fills lines up; whoever copies one does not want that.
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in drawing.get().splitlines()))
    else:
        print_line(empty)


def fields(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """One thing: its title, then name and value a line; what is empty is left out."""
    from rich.text import Text

    out = console()
    out.print(Text(clean(title), style="bold"), soft_wrap=True)
    shown = [(name, value) for name, value in pairs if value]
    broad = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        style = _STYLES.get(value, "") if name in STATES else ""
        out.print(Text.assemble(f"  {name:<{broad}}  ", (clean(value), style)), soft_wrap=True)


def print_line(text: str) -> None:
    sys.stdout.write(clean(text) + "\n")


def tell(shape: object) -> None:
    """One JSON object on a line of its own. Escaped to ASCII, so that nothing in it steers a terminal."""
    sys.stdout.write(json.dumps(plain(shape)).replace("\x7f", "\\u007f") + "\n")


def tell_all(shapes: Iterable[object]) -> None:
    for shape in shapes:
        tell(shape)


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def ago(text: str | None, *, now: datetime | None = None) -> str:
    """`4m 10s ago`; empty where it has not happened."""
    at = moment(text)
    return "" if at is None else f"{spell((now or datetime.now(UTC)) - at)} ago"


def left(text: str | None, *, now: datetime | None = None) -> str:
    """`in 4m 10s`, or `over`."""
    at = moment(text)
    if at is None:
        return ""
    rest = at - (now or datetime.now(UTC))
    return f"in {spell(rest)}" if rest > timedelta() else "over"


def lasted(start: str | None, end: str | None, *, now: datetime | None = None) -> str:
    """`3m 11s` between two moments, `0.4s` where it is short; up to now where the second has not come."""
    began = moment(start)
    if began is None:
        return ""
    span = (moment(end) or now or datetime.now(UTC)) - began
    return spell(span) if span >= timedelta(seconds=10) else f"{max(0.0, span.total_seconds()):.1f}s"


def tone(state: str) -> str:
    """The colour of a state or a verdict; empty for the calm ones."""
    return _STYLES.get(state, "")


def stroke(mark: tuple[str, str], text: str) -> None:
    """A sign in its colour, and a line beside it that is never folded."""
    from rich.text import Text

    console().print(Text.assemble(mark, clean(text)), soft_wrap=True)
