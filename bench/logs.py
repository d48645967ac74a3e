"""How soon a line is seen by those who follow it, and how much output goes through one server."""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.aims import LOG_RATE, OUTPUT, TAIL_P95
from bench.figure import Measured, quantile
from bench.following import Plan
from bench.pace import Pace
from bench.place import patchset, place, port, start
from tests.story.house import House

FOLLOWERS = 20
MACHINES = ("one", "two", "three", "four")
LINE_SECONDS = 0.02

_TICK = """
- environment: {{name: single, machines: [{{name: one}}], host: local, max: 1, min-ready: 1}}
- job:
    name: tick
    environment: single
    trusted: true
    env: {{GO: {go}}}
    steps:
      - interpreter: python3
        run: |
          import os, time
          while not os.path.exists(os.environ["GO"]):
              time.sleep(0.01)
          for number in range({lines}):
              print(time.time_ns(), "line", number, flush=True)
              time.sleep({seconds})
- project: {{name: bench, jobs: [tick]}}
"""

_FLOOD = """
- environment: {{name: several, machines: [{machines}], host: local, max: 1, min-ready: 1}}
- job:
    name: flood
    environment: several
    trusted: true
    sizes: {{log: 4GiB}}
    env: {{GO: {go}}}
    steps:
      - interpreter: python3
        run: |
          import os, time
          block = (b"what a build prints while it compiles".ljust(99, b".") + b"\\n") * 640
          while not os.path.exists(os.environ["GO"]):
              time.sleep(0.01)
          for _ in range({blocks}):
              os.write(1, block)
- project: {{name: bench, jobs: [flood]}}
"""
BLOCK = 64_000
"""Bytes of one write of the flood."""
PATIENCE = 120.0
"""Seconds that one flood may take."""


def tail(pace: Pace) -> dict[str, Measured]:
    """One machine prints, everybody follows; the age of a line is taken by each follower."""
    with place() as it:
        go = it.directory / "go"
        it.tell(patchset("bench", 1))
        start(it, _TICK.format(go=go, lines=pace.lines, seconds=LINE_SECONDS), ready=0)
        _running(it, "1", 1)
        ages = _followed(it, go)
    expected = pace.lines * FOLLOWERS
    if len(ages) != expected:
        raise RuntimeError(f"{len(ages)} lines were seen, not {expected}")
    return {TAIL_P95: Measured(values=(quantile(ages, 0.95),))}


def _followed(it: House, go: Path) -> list[float]:
    plan = Plan(port=port(it), path="/runs/1/log/main-1-one/live", followers=FOLLOWERS)
    argv = [sys.executable, "-m", "bench.following", json.dumps(asdict(plan))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as followers:
        assert followers.stdout is not None
        if followers.stdout.readline().strip() != "ready":
            raise RuntimeError("the followers ended before they followed")
        go.touch()
        ages: list[float] = json.loads(followers.stdout.read())["ages"]
        return ages


def rate(pace: Pace) -> dict[str, Measured]:
    """All machines of an environment print as fast as they can."""
    return {LOG_RATE: Measured(values=_rates(pace, MACHINES))}


def output(pace: Pace) -> dict[str, Measured]:
    """The same of one machine: one script, one agent."""
    return {OUTPUT: Measured(values=_rates(pace, MACHINES[:1]))}


def _rates(pace: Pace, names: tuple[str, ...]) -> tuple[float, ...]:
    """MB (10⁶ bytes) a second until all is in the archive, in each run."""
    blocks = max(1, pace.flood // BLOCK)
    with place() as it:
        go = it.directory / "go"
        it.tell(patchset("bench", 1))
        machines = ", ".join(f"{{name: {name}}}" for name in names)
        start(it, _FLOOD.format(go=go, machines=machines, blocks=blocks), ready=0)
        values = []
        for number in range(1, pace.runs + 1):
            go.unlink(missing_ok=True)
            if number > 1:
                it.post(f"runs/{number - 1}/retry")
            _running(it, str(number), len(names))
            values.append(_flooded(it, go, str(number), blocks * BLOCK * len(names)))
    return tuple(values)


def _running(it: House, id: str, machines: int) -> None:
    """Wait until the run's step runs on all its machines."""

    def runs() -> bool:
        if not any(run["id"] == id for run in it.get("runs")["items"]):
            return False
        commands = it.get(f"runs/{id}")["commands"]
        started = [each for each in commands if each["method"] == "script.run" and each["state"] == "running"]
        return len(started) == machines

    it.until(runs, f"run {id} runs on {machines} machines", limit=120)


def _flooded(it: House, go: Path, id: str, total: int) -> float:
    """Let go, and look at the files: a server that is asked for lengths would be measured answering."""
    wanted = _stored(it) + total
    began = time.perf_counter()
    go.touch()
    while _stored(it) < wanted:
        if time.perf_counter() - began > PATIENCE:
            raise RuntimeError(f"run {id}: {wanted - _stored(it)} of {total} bytes were missing after {PATIENCE:.0f} s")
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    run = it.until(lambda: _done(it, id), f"run {id} is done") or {}
    if run["verdict"] != "success":
        raise RuntimeError(f"run {id}: {run['verdict']}: {run['reason']}")
    return total / seconds / 1e6


def _done(it: House, id: str) -> dict[str, Any] | None:
    run: dict[str, Any] = it.get(f"runs/{id}")
    return run if run["state"] == "done" else None


def _stored(it: House) -> int:
    """Bytes of all logs of runs in the archive. The server acknowledges after the sync, 1 MiB a machine is ahead."""
    return sum(file.stat().st_size for file in (it.state / "archive").glob("review/**/*.log"))
