"""Figures as people read them: a table in the terminal, and the page docs/benchmarks.md."""

from collections.abc import Mapping, Sequence
from datetime import date

from bench.aims import AIMS
from bench.figure import TITLES, Figure

_ORDER = list(AIMS)
_HEAD = """# Benchmarks

Everything runs on one machine at once: server, agents, whoever asks, and the peer. A peer's figure is taken in the same
go, right after ours; one that says "measured" was recorded, as its program does not run any more. geard keeps its locks
in memory; each transition of ours is on disk before it is answered. Nothing in geard or gear is changed: what holds it
back with one client is the delayed acknowledgement of TCP, which every user of it meets.
"""


def table(figures: Sequence[Figure]) -> str:
    """Columns as wide as they need to be."""
    rows = [TITLES, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def section(figures: Sequence[Figure], *, command: str, machine: str, day: date, load: float) -> str:
    """What one bench has to say, written by the command that it names."""
    rows = [TITLES, tuple("---" for _ in TITLES), *(_marked(figure) for figure in figures)]
    cells = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    meanings = "\n".join(f"- `{figure.aim.key}`: {figure.aim.caption}." for figure in figures)
    return f"""Taken on {day.isoformat()} with

```
{command}
```

on {machine}; load before it: {load:.1f} for each core. Medians of one go; the ranges are those of its repeated runs.

{cells}

{meanings}
"""


def page(taken: Mapping[str, str]) -> str:
    """The whole page, from the sections of all benches by name."""
    told = "\n".join(f"## {name}\n\n{taken[name]}" for name in sorted(taken, key=_ORDER.index))
    return f"{_HEAD}\n{told}"


def sections(written: str) -> dict[str, str]:
    """What a page says already, by bench; a bench that is not measured anew keeps its section."""
    found = {}
    for part in f"\n{written}".split("\n## ")[1:]:
        name, _, text = part.partition("\n")
        if name in _ORDER:
            found[name] = text.strip() + "\n"
    return found


def _marked(figure: Figure) -> tuple[str, ...]:
    key, *rest = figure.cells()
    return (f"`{key}`", *rest)
