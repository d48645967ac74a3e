"""`./dev bench [NAME]`: measure, then print a table, or one JSON object a line."""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import cloning, forking, hearing, lending, logs, machine, ordering, resting, restoring, wires
from bench.aims import (
    AGENT,
    AGENT_RSS,
    AIMS,
    BURST,
    BURST_RATIO,
    CLEANED,
    CLONE,
    CLONE_1,
    CLONE_BTRFS,
    CLONE_XFS,
    DEMO,
    EVENT_P50,
    EVENT_P99,
    FORK_COLD,
    FORK_MEMORY,
    FORK_P50,
    FORK_P95,
    GEARD_1,
    GEARD_50,
    IDLE_CPU,
    IDLE_RSS,
    LOG_RATE,
    MACHINES,
    MAIN,
    NOOP_P50,
    NOOP_P99,
    OUTPUT,
    PAIRS_1,
    PAIRS_32,
    PAIRS_50,
    SCRIPTS,
    SERVER_RSS,
    START,
    SWITCH_DELAY,
    SWITCH_RATE,
    SWITCH_RSS,
    TAIL_P95,
    TURNAROUND,
    VIRSH,
)
from bench.figure import Figure, Measured, figure, missing
from bench.pace import QUICK, WHOLE, Pace
from bench.page import page, section, sections, table


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is measured together: keys of one bench, and how."""

    bench: str
    keys: tuple[str, ...]
    measure: Callable[[Pace], Mapping[str, Measured]]


def _main(measure: Callable[[Pace], Mapping[str, Measured]], *keys: str) -> Part:
    return Part(bench=MAIN, keys=keys, measure=measure)


def _agent(measure: Callable[[Pace], Mapping[str, Measured]], *keys: str) -> Part:
    return Part(bench=AGENT, keys=keys, measure=measure)


def _machines(measure: Callable[[Pace], Mapping[str, Measured]], *keys: str) -> Part:
    return Part(bench=MACHINES, keys=keys, measure=measure)


PARTS: Mapping[str, Part] = {
    "events": _main(hearing.latencies, EVENT_P50, EVENT_P99),
    "leases": _main(lending.pairs, PAIRS_32, PAIRS_1, PAIRS_50, GEARD_1, GEARD_50),
    "cleaning": _main(lending.cleaned, CLEANED),
    "tail": _main(logs.tail, TAIL_P95),
    "logs": _main(logs.rate, LOG_RATE),
    "memory": _main(resting.memory, SERVER_RSS, AGENT_RSS),
    "demo": _main(resting.demo, DEMO),
    "commands": _agent(ordering.commands, NOOP_P50, NOOP_P99, BURST, BURST_RATIO),
    "scripts": _agent(ordering.scripts, SCRIPTS),
    "output": _agent(logs.output, OUTPUT),
    "starts": _agent(ordering.starts, START, IDLE_RSS, IDLE_CPU),
    "forks": _machines(forking.forks, FORK_P50, FORK_P95, FORK_COLD),
    "restores": _machines(restoring.restores, VIRSH),
    "forks-at-once": _machines(forking.many, FORK_MEMORY),
    "turns": _machines(forking.turns, TURNAROUND),
    "clones": _machines(cloning.overlays, CLONE, CLONE_1),
    "clones-btrfs": _machines(cloning.snapshots, CLONE_BTRFS),
    "clones-xfs": _machines(cloning.references, CLONE_XFS),
    "switch": _machines(wires.switched, SWITCH_RATE, SWITCH_DELAY, SWITCH_RSS),
}
"""By name."""

NAMES: Mapping[str, Sequence[str]] = {
    **{bench: tuple(name for name, part in PARTS.items() if part.bench == bench) for bench in (MAIN, AGENT, MACHINES)},
    **{name: (name,) for name in PARTS},
}
"""What can be asked for → the parts that it consists of."""


def take(name: str, pace: Pace) -> Iterator[Figure]:
    """Measure one part after the other; a part that breaks costs its own rows only."""
    for each in NAMES[name]:
        part = PARTS[each]
        aims = AIMS[part.bench]
        print(f"bench: {each}", file=sys.stderr, flush=True)
        try:
            measured = part.measure(pace)
        except Exception as exc:
            traceback.print_exc()
            words = (str(exc).splitlines() or [type(exc).__name__])[0]
            yield from (missing(aims[key], words) for key in part.keys)
            continue
        yield from (figure(aims[key], measured[key]) for key in part.keys)


def main(arguments: Sequence[str]) -> int:
    """0 if everything was measured, 1 if something could not be. Whether a target was met is for the reader."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.write and chosen.name not in AIMS:
        parser.error(f"--write goes with a whole bench: {', '.join(AIMS)}")
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
        taken = section(figures, command=command, machine=machine.describe(), day=day, load=load)
        known = chosen.write.read_text() if chosen.write.exists() else ""
        chosen.write.write_text(page({**sections(known), chosen.name: taken}))
    return 1 if any(each.value is None for each in figures) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure, beside the peers, on this machine.")
    parser.add_argument("name", nargs="?", default=MAIN, choices=list(NAMES), help="what to measure (default: main)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--quick", action="store_true", help="a few seconds each: to see that it works")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write its section of a page, too")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
