"""What every clock promises, and what the one for tests does on top."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from paddock.adapters.clocks.system import SystemClock
from paddock.ports import Clock
from paddock.testing import FakeClock


@pytest.fixture(params=[FakeClock, SystemClock])
def any_clock(request: pytest.FixtureRequest) -> Clock:
    clock: Clock = request.param()
    return clock


def test_now_is_in_utc(any_clock: Clock) -> None:
    assert any_clock.now().utcoffset() == timedelta(0)


async def test_a_moment_that_is_over_is_not_waited_for(any_clock: Clock) -> None:
    async with asyncio.timeout(1):
        await any_clock.sleep_until(any_clock.now() - timedelta(days=1))


async def test_the_real_clock_sleeps_until_the_moment() -> None:
    clock = SystemClock()
    moment = clock.now() + timedelta(milliseconds=20)
    await clock.sleep_until(moment)
    assert clock.now() >= moment


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 1, 1, tzinfo=UTC))


async def sleeper(clock: FakeClock, seconds: float, woken: list[tuple[float, float]]) -> None:
    began = clock.now()
    await clock.sleep_until(began + timedelta(seconds=seconds))
    woken.append((seconds, (clock.now() - began).total_seconds()))


async def test_a_clock_that_is_advanced_wakes_who_is_due_in_order(clock: FakeClock) -> None:
    woken: list[tuple[float, float]] = []
    async with asyncio.TaskGroup() as group:
        for seconds in (30, 10, 20):
            group.create_task(sleeper(clock, seconds, woken))
        await asyncio.sleep(0)
        assert clock.sleepers == 3
        clock.advance(seconds=25)
        await asyncio.sleep(0)
        assert woken == [(10, 25), (20, 25)]
        assert clock.sleepers == 1
        clock.advance(minutes=1)
    assert clock.sleepers == 0


async def test_time_that_elapses_wakes_each_at_its_own_moment(clock: FakeClock) -> None:
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            await clock.sleep_until(clock.now() + timedelta(seconds=10))
            ticks.append(clock.now().minute * 60 + clock.now().second)

    ticking = asyncio.create_task(tick())
    await clock.elapse(seconds=45)
    assert ticks == [10, 20, 30, 40]
    assert clock.now().second == 45
    ticking.cancel()


async def test_a_sleeper_that_was_cancelled_is_forgotten(clock: FakeClock) -> None:
    woken: list[tuple[float, float]] = []
    asleep = asyncio.create_task(sleeper(clock, 10, woken))
    await asyncio.sleep(0)
    asleep.cancel()
    await asyncio.sleep(0)
    assert clock.sleepers == 0
    clock.advance(seconds=20)
    assert woken == []


def test_a_clock_does_not_go_back(clock: FakeClock) -> None:
    with pytest.raises(ValueError, match="is before"):
        clock.advance(to=clock.now() - timedelta(seconds=1))
