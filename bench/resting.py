"""What Paddock holds in memory while nothing happens, and how long the demo takes from nothing to its report."""

import statistics
import subprocess
import time
from pathlib import Path

from bench.aims import AGENT_RSS, DEMO, SERVER_RSS
from bench.figure import Measured
from bench.pace import Pace
from bench.place import place, resident, start

_CONFIG = """
- environment: {name: pair, machines: [{name: one}, {name: two}], host: local, max: 1, min-ready: 1}
"""
DEV = Path(__file__).parents[1] / "dev"
DEMO_LIMIT = 120.0
"""Seconds after which the demo is given up."""


def memory(pace: Pace) -> dict[str, Measured]:
    """Resident memory a while after the environments became ready."""
    with place() as it:
        start(it, _CONFIG, ready=1, PADDOCK_BUBBLEWRAP="yes")
        time.sleep(pace.idle)
        assert it.server is not None
        machines = [resident(each.pid) for each in it.machines()]
        return {
            SERVER_RSS: Measured(values=(resident(it.server.pid),)),
            AGENT_RSS: Measured(values=(statistics.median(machines),)),
        }


def demo(pace: Pace) -> dict[str, Measured]:
    """The whole command as a person types it, until it has ended with the right verdicts."""
    return {DEMO: Measured(values=tuple(_demonstrate() for _ in range(min(3, pace.runs))))}


def _demonstrate() -> float:
    began = time.perf_counter()
    done = subprocess.run([DEV, "demo", "--once"], capture_output=True, text=True, timeout=DEMO_LIMIT)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"demo: exit code {done.returncode}: {words[-1] if words else ''}")
    return time.perf_counter() - began
