"""How soon an event of a Gerrit's stream has become a command that runs on a ready environment."""

import asyncio
import json
import time
from pathlib import Path

from bench.aims import EVENT_P50, EVENT_P99
from bench.figure import Measured, quantile
from bench.pace import Pace
from bench.place import patchset, place, start
from tests.forges.fake_gerrit import USER, FakeGerrit, serving
from tests.story.house import House

ENVIRONMENTS = 4
PATIENCE = 60.0
"""Seconds that one event may take to its report before the bench gives up."""

_CONFIG = """
- gerrit:
    name: live
    ssh: {{host: 127.0.0.1, port: {port}, user: {user}, key: {key}, host-key: "{host_key}"}}
- environment: {{name: single, machines: [{{name: one}}], host: local, max: {count}, min-ready: {count}}}
- job:
    name: stamp
    environment: single
    trusted: true
    env: {{STAMPS: {stamps}}}
    steps: [{{run: 'date +%s%N > "$STAMPS/$PADDOCK_CHANGE"'}}]
- project: {{name: bench, jobs: [stamp], forge: live}}
"""


def latencies(pace: Pace) -> dict[str, Measured]:
    """One event after the other, each when the one before was reported: its cleaning is still under way."""
    with place() as it:
        found = asyncio.run(_hear(it, pace))
    return {
        EVENT_P50: Measured(values=(quantile(found, 0.50),)),
        EVENT_P99: Measured(values=(quantile(found, 0.99),)),
    }


async def _hear(it: House, pace: Pace) -> list[float]:
    stamps = it.directory / "stamps"
    stamps.mkdir()
    async with serving(it.directory) as gerrit:
        config = _CONFIG.format(
            port=gerrit.port,
            user=USER,
            key=gerrit.key,
            host_key=gerrit.host_key,
            count=ENVIRONMENTS,
            stamps=stamps,
        )
        await asyncio.to_thread(start, it, config, ready=ENVIRONMENTS)
        await gerrit.listened()
        found = [await _say(gerrit, stamps, number) for number in range(1, pace.warm_up_events + pace.events + 1)]
    return found[pace.warm_up_events :]


async def _say(gerrit: FakeGerrit, stamps: Path, number: int) -> float:
    """Say one event and wait for its report; milliseconds from the one to the command's own first moment."""
    line = json.dumps(patchset("bench", number))
    gerrit.changes.add(number)
    # Two processes compare moments, so both read the wall clock of this machine.
    said = time.time_ns()
    await gerrit.say(line)
    async with asyncio.timeout(PATIENCE):
        while len(gerrit.reviews) < number:  # noqa: ASYNC110  (what a fake noted; nobody tells of it)
            await asyncio.sleep(0.005)
    return (int((stamps / str(number)).read_text()) - said) / 1e6
