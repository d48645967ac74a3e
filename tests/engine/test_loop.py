"""Stages under way: woken by what is written and by the clock, and by nothing that is forgotten."""

import asyncio
from collections.abc import Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from paddock.core.agent import Agent, Kind
from paddock.core.errors import Broken, Conflict
from paddock.engine.loop import RETRY, Bell, earliest, keep
from paddock.ports import Touched
from paddock.testing import EPOCH, FakeClock, MemoryStore, settle


def told(id: str) -> Touched:
    return Touched(noun="agents", id=id, row=Agent(id=id, name=id, kind=Kind.HOST))


class Noting:
    """A stage that notes what it is told, and does in each step what the test says."""

    name = "noting"

    def __init__(self, *outcomes: datetime | BaseException | None) -> None:
        self.outcomes = list(outcomes)
        self.noted: list[str] = []
        self.steps: list[datetime] = []

    def wakes(self, touched: Touched) -> bool:
        self.noted.append(touched.id)
        return touched.id.startswith("a")

    async def step(self, now: datetime) -> datetime | None:
        self.steps.append(now)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@asynccontextmanager
async def kept(stage: Any, store: MemoryStore, clock: FakeClock) -> Any:
    task = asyncio.ensure_future(keep(stage, store, clock))
    await settle()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def write(store: MemoryStore, *ids: str) -> None:
    await store.write(lambda tables: [tables.agents.add(Agent(id=id, name=id, kind=Kind.HOST)) for id in ids])
    await settle()


async def test_a_stage_steps_once_at_its_start_and_then_when_something_concerns_it() -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting()
    async with kept(stage, store, clock):
        assert len(stage.steps) == 1
        await write(store, "b1")
        assert len(stage.steps) == 1
        await write(store, "a1")
        assert len(stage.steps) == 2


async def test_a_stage_is_told_every_row_of_a_write_even_after_the_first_woke_it() -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting()
    async with kept(stage, store, clock):
        await write(store, "a1", "a2", "b1")
    assert stage.noted == ["a1", "a2", "b1"]


async def test_a_stage_is_told_what_is_written_while_its_bell_has_rung_already() -> None:
    stage = Noting()
    bell = Bell(stage.wakes)
    bell.tell([told("a1")])
    bell.tell([told("a2")])
    assert stage.noted == ["a1", "a2"]


async def test_what_is_written_during_a_step_leads_to_another() -> None:
    store, clock = MemoryStore(), FakeClock()

    class Writing(Noting):
        async def step(self, now: datetime) -> datetime | None:
            if not self.steps:
                await store.write(lambda tables: tables.agents.add(Agent(id="a1", name="a", kind=Kind.HOST)))
            return await super().step(now)

    stage = Writing()
    async with kept(stage, store, clock):
        assert len(stage.steps) == 2


async def test_a_stage_looks_again_at_its_moment() -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting(EPOCH + timedelta(minutes=5))
    async with kept(stage, store, clock):
        await clock.elapse(minutes=4)
        assert len(stage.steps) == 1
        await clock.elapse(minutes=1)
        assert stage.steps == [EPOCH, EPOCH + timedelta(minutes=5)]


async def test_a_step_that_raises_is_tried_again_a_little_later() -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting(RuntimeError("a defect"))
    async with kept(stage, store, clock) as task:
        assert len(stage.steps) == 1
        await clock.elapse(seconds=RETRY.total_seconds())
        assert len(stage.steps) == 2
        assert not task.done()


async def test_a_store_that_is_broken_is_said_in_its_own_words_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting(Broken("store: no space left"))
    async with kept(stage, store, clock):
        await clock.elapse(seconds=RETRY.total_seconds())
        assert len(stage.steps) == 2
    said = caplog.records[0]
    assert (said.exc_info, said.__dict__["reason"]) == (None, "store: no space left")


async def test_a_step_that_met_a_conflict_is_tried_again_at_once() -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting(Conflict("somebody was quicker"))
    async with kept(stage, store, clock):
        assert stage.steps == [EPOCH, EPOCH]


async def test_a_stage_that_was_ended_listens_no_more() -> None:
    store, clock, stage = MemoryStore(), FakeClock(), Noting()
    async with kept(stage, store, clock):
        pass
    await write(store, "a1")
    assert stage.noted == []


def test_the_earliest_of_moments_leaves_out_those_that_are_not_set() -> None:
    moments: Sequence[datetime | None] = (None, EPOCH + timedelta(seconds=2), EPOCH)
    assert earliest(*moments) == EPOCH
    assert earliest(None) is None
    assert earliest() is None
