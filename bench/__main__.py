"""`./dev bench [NAME]`: measure, then print a table, or one JSON object a line."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import hearing, lending, logs, machine, resting
from bench.aims import (
    AGENT_RSS,
    AIMS,
    CLEANED,
    DEMO,
    EVENT_P50,
    EVENT_P99,
    GEARD_1,
    GEARD_50,
    LOG_RATE,
    MAIN,
    PAIRS_1,
    PAIRS_32,
    PAIRS_50,
    SERVER_RSS,
    TAIL_P95,
)
from bench.figure import Figure, Measured, figure, missing
from bench.pace import QUICK, WHOLE, Pace
from bench.page import page, table

Part = tuple[tuple[str, ...], Callable[[Pace], Mapping[str, Measured]]]

PARTS: Mapping[str, Part] = {
    "events": ((EVENT_P50, EVENT_P99), hearing.latencies),
    "leases": ((PAIRS_32, PAIRS_1, PAIRS_50, GEARD_1, GEARD_50), lending.pairs),
    "cleaning": ((CLEANED,), lending.cleaned),
    "tail": ((TAIL_P95,), logs.tail),
    "logs": ((LOG_RATE,), logs.rate),
    "memory": ((SERVER_RSS, AGENT_RSS), resting.memory),
    "demo": ((DEMO,), resting.demo),
}
"""Name of a part → the keys that it measures, and how."""

NAMES: Mapping[str, Sequence[str]] = {MAIN: tuple(PARTS), **{name: (name,) for name in PARTS}}
"""What can be asked for → the parts that it consists of."""


def take(name: str, pace: Pace) -> Iterator[Figure]:
    """Measure one part after the other; a part that breaks costs its own rows only."""
    for part in NAMES[name]:
        keys, measure = PARTS[part]
        print(f"bench: {part}", file=sys.stderr, flush=True)
        try:
            measured = measure(pace)
        except Exception as exc:
            traceback.print_exc()
            words = (str(exc).splitlines() or [type(exc).__name__])[0]
            yield from (missing(AIMS[key], words) for key in keys)
            continue
        yield from (figure(AIMS[key], measured[key]) for key in keys)


def main(arguments: Sequence[str]) -> int:
    """0 if everything was measured, 1 if something could not be. Whether a target was met is for the reader."""
    chosen = _parser().parse_args(arguments)
    load = machine.load()
    if load > machine.BUSY:
        print(f"bench: this machine is busy ({load:.1f} for each core): figures will be worse", file=sys.stderr)
    figures = []
    for each in take(chosen.name, QUICK if chosen.quick else WHOLE):
        figures.append(each)
        if chosen.json:
            print(json.dumps(each.object()), flush=True)
    if not chosen.json:
        print(table(figures))
    if chosen.write:
        command = f"./dev bench {' '.join(arguments)}"
        day = datetime.now(UTC).date()
        chosen.write.write_text(page(figures, command=command, machine=machine.describe(), day=day, load=load))
    return 1 if any(each.value is None for each in figures) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure, beside the peers, on this machine.")
    parser.add_argument("name", nargs="?", default=MAIN, choices=list(NAMES), help="what to measure (default: main)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: to see that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page, too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
