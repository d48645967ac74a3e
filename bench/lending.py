"""How fast environments change hands: over HTTP beside geard, and with a host's agent cleaning in between."""

import json
import subprocess
import sys
from dataclasses import asdict

from bench import gearman
from bench.aims import CLEANED, GEARD_1, GEARD_50, PAIRS_1, PAIRS_32, PAIRS_50
from bench.borrowing import Plan
from bench.figure import Measured
from bench.pace import Pace
from bench.place import place, port, start, token
from tests.story.house import House

_POOL = """
- environment: {{name: slot, machines: [{{name: one}}], host: local, max: {count}, min-ready: {count}, reset: {reset}}}
"""


def pairs(pace: Pace) -> dict[str, Measured]:
    """Reservations (`reset: none`), ours and geard's one after the other: the machine is as busy for both."""
    with place() as it:
        start(it, _POOL.format(count=50, reset="none"), ready=50)
        of_32 = _borrow(it, 32, pace)
        ours_1, theirs_1 = _borrow(it, 1, pace), _lock(1, pace)
        ours_50, theirs_50 = _borrow(it, 50, pace), _lock(50, pace)
    return {
        PAIRS_32: Measured(values=of_32),
        PAIRS_1: Measured(values=ours_1, peer=gearman.NAME, peer_values=theirs_1),
        PAIRS_50: Measured(values=ours_50, peer=gearman.NAME, peer_values=theirs_50),
        GEARD_1: Measured(values=ours_1, peer=gearman.NAME, peer_values=theirs_1, is_ratio=True),
        GEARD_50: Measured(values=ours_50, peer=gearman.NAME, peer_values=theirs_50, is_ratio=True),
    }


def cleaned(pace: Pace) -> dict[str, Measured]:
    """The same requests where each release is followed by a real cleaning."""
    with place() as it:
        start(it, _POOL.format(count=32, reset="clean"), ready=32, PADDOCK_BUBBLEWRAP="yes")
        return {CLEANED: Measured(values=_borrow(it, 32, pace))}


def _borrow(it: House, clients: int, pace: Pace) -> tuple[float, ...]:
    plan = Plan(
        port=port(it),
        token=token(it),
        pool="slot",
        clients=clients,
        warm_up=pace.warm_up,
        seconds=pace.seconds,
        runs=pace.runs,
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.borrowing", json.dumps(asdict(plan))], stdout=subprocess.PIPE, check=True
    )
    return tuple(json.loads(done.stdout)["rates"])


def _lock(clients: int, pace: Pace) -> tuple[float, ...]:
    return tuple(gearman.pairs_per_second(clients, seconds=pace.seconds, runs=pace.runs))
