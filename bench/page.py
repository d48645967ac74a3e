"""Figures as people read them: a table in the terminal, and the page docs/benchmarks.md."""

from collections.abc import Sequence
from datetime import date

from bench.figure import TITLES, Figure


def table(figures: Sequence[Figure]) -> str:
    """Columns as wide as they need to be."""
    rows = [TITLES, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(TITLES))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def page(figures: Sequence[Figure], *, command: str, machine: str, day: date, load: float) -> str:
    """The whole page, written by the command that it names."""
    rows = [TITLES, tuple("---" for _ in TITLES), *(_marked(figure) for figure in figures)]
    cells = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    meanings = "\n".join(f"- `{figure.aim.key}`: {figure.aim.caption}." for figure in figures)
    return f"""# Benchmarks

Taken on {day.isoformat()} with

```
{command}
```

on {machine}; load before it: {load:.1f} for each core. Medians of one go; the ranges are those of its repeated runs.
Everything runs on this one machine at once: server, agents, whoever asks, and the peer.

{cells}

## What the keys mean

{meanings}

A peer's figure is taken in the same go, on the same machine, right after ours. geard keeps its locks in memory; each
transition of ours is on disk before it is answered. Nothing in geard or gear is changed: what holds it back with one
client is the delayed acknowledgement of TCP, which every user of it meets.
"""


def _marked(figure: Figure) -> tuple[str, ...]:
    key, *rest = figure.cells()
    return (f"`{key}`", *rest)
