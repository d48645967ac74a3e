"""How fast one agent takes commands that are journalled, scripts, and its own start."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import uvloop

from bench import secure, victim
from bench.aims import BURST, BURST_RATIO, IDLE_CPU, IDLE_RSS, NOOP_P50, NOOP_P99, SCRIPTS, START
from bench.clerk import Clerk
from bench.figure import Measured, quantile
from bench.pace import Pace
from bench.place import resident
from bench.victim import NOOP
from paddock.agent.settings import HOST_SKILLS
from paddock.hands import trees

T = TypeVar("T")

FEW, MANY = 100, 3000
"""Commands that wait for their answer at any time."""
SIDE_BY_SIDE = 16
ALL = ",".join(HOST_SKILLS)
DCM, DCM_BURST = "dcm-agent 1.2.5, measured before", 221.0
"""Of a program that needs a Python nobody ships any more: recorded on such a machine, not repeated."""
START_LIMIT = 30.0


def commands(pace: Pace) -> dict[str, Measured]:
    """A no-op, one by one and in bursts, on one agent."""

    async def measure(clerk: Clerk) -> dict[str, Measured]:
        await clerk.answers(pace.commands // 4, FEW, NOOP, {})
        spans = []
        for _ in range(pace.commands // 4):
            began = time.perf_counter()
            await clerk.order(NOOP, {})
            spans.append((time.perf_counter() - began) * 1000)
        few, many = [], []
        for _ in range(pace.runs):
            few.append(pace.commands / await clerk.answers(pace.commands, FEW, NOOP, {}))
            many.append(pace.commands / await clerk.answers(pace.commands, MANY, NOOP, {}))
        return {
            NOOP_P50: Measured(values=(quantile(spans, 0.50),)),
            NOOP_P99: Measured(values=(quantile(spans, 0.99),)),
            BURST: Measured(values=tuple(few), peer=DCM, peer_values=(DCM_BURST,)),
            BURST_RATIO: Measured(
                values=tuple(many), peer="itself, 100 unanswered", peer_values=tuple(few), is_ratio=True
            ),
        }

    return _with_agent(lambda clerk, place: measure(clerk))


def scripts(pace: Pace) -> dict[str, Measured]:
    """`true` through an agent, and through ssh."""

    async def measure(clerk: Clerk, place: Path) -> dict[str, Measured]:
        await clerk.tasks(pace.scripts // 4, SIDE_BY_SIDE, "script.run", {"run": "true"})
        rates = [
            pace.scripts / await clerk.tasks(pace.scripts, SIDE_BY_SIDE, "script.run", {"run": "true"})
            for _ in range(pace.runs)
        ]
        peers = await asyncio.to_thread(secure.rates, place, pace.scripts, pace.runs)
        return {SCRIPTS: Measured(values=tuple(rates), peer=secure.NAME, peer_values=tuple(peers))}

    return _with_agent(measure)


def starts(pace: Pace) -> dict[str, Measured]:
    """An agent as its unit starts it, with an identity and all skills of a host, until it is welcome; then at rest."""

    async def measure() -> dict[str, Measured]:
        async with Clerk.open() as clerk:
            with victim.directory() as place:
                spans = [await _start(clerk, place) for _ in range(pace.runs * 2 + 1)]
                with victim.running(clerk, place, skills=ALL) as process:
                    await _welcomed(clerk)
                    await asyncio.sleep(pace.idle)
                    began, before = time.perf_counter(), trees.used(process.pid)
                    await asyncio.sleep(pace.idle)
                    share = (trees.used(process.pid) - before) / (time.perf_counter() - began) * 100
                    size = resident(process.pid)
        return {
            # The first one enrols and makes its ledger.
            START: Measured(values=tuple(spans[1:])),
            IDLE_RSS: Measured(values=(size,)),
            IDLE_CPU: Measured(values=(share,)),
        }

    return uvloop.run(measure())


async def _start(clerk: Clerk, place: Path) -> float:
    began = time.perf_counter()
    with victim.running(clerk, place, skills=ALL):
        await _welcomed(clerk)
        return (time.perf_counter() - began) * 1000


async def _welcomed(clerk: Clerk) -> None:
    async with asyncio.timeout(START_LIMIT):
        await clerk.welcomed.wait()
    clerk.welcomed.clear()


def _with_agent(measure: Callable[[Clerk, Path], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Clerk.open() as clerk:
            with victim.directory() as place, victim.running(clerk, place):
                await _welcomed(clerk)
                return await measure(clerk, place)

    return uvloop.run(run())
