"""One stage after the other, for ever: woken by what was written, or by the clock.

Effects: none
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from paddock.core.errors import Broken, Conflict
from paddock.ports import Clock, Store, Touched

log = logging.getLogger(__name__)

RETRY = timedelta(seconds=1)
"""After a step that raised: long enough not to spin, short enough not to be waited for."""


class Stage(Protocol):
    """One duty. A step looks at every row it is for, and says when to look again without being woken."""

    @property
    def name(self) -> str: ...

    def wakes(self, touched: Touched) -> bool:
        """Whether this write gives the stage something to do. Called once for every row that is written: be quick.

        A stage may note what it was told; it is told between its own steps' waits, too.
        """

    async def step(self, now: datetime) -> datetime | None: ...


class Bell:
    """Rings when something was written that its stage has to look at, or when somebody rings it."""

    def __init__(self, wakes: Callable[[Touched], bool]) -> None:
        self._wakes = wakes
        self._rung = asyncio.Event()

    def tell(self, touched: Sequence[Touched]) -> None:
        # Every row, rung or not: a stage may note in `wakes` which of its rows it has to look at.
        if sum(self._wakes(one) for one in touched):
            self._rung.set()

    def ring(self) -> None:
        self._rung.set()

    async def wait(self, clock: Clock, until: datetime | None) -> None:
        """Return once it rang or the moment came."""
        if until is None:
            await self._rung.wait()
        else:
            await _first(self._rung, clock, until)
        self._rung.clear()


async def _first(rung: asyncio.Event, clock: Clock, until: datetime) -> None:
    """Wait for: the bell; the clock."""
    waits = {asyncio.ensure_future(rung.wait()), asyncio.ensure_future(clock.sleep_until(until))}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def keep(stage: Stage, store: Store, clock: Clock, bell: Bell | None = None) -> None:
    """Run a stage until cancelled. A step that raises is logged and tried again: the rows are where they were."""
    bell = bell or Bell(stage.wakes)
    stop = store.subscribe(bell.tell)
    try:
        while True:
            again = await _step(stage, clock)
            await bell.wait(clock, again)
    finally:
        stop()


async def _step(stage: Stage, clock: Clock) -> datetime | None:
    now = clock.now()
    try:
        return await stage.step(now)
    except Conflict:
        return now
    except Broken as exc:
        # A disk or a database, not a defect of the stage: its words say more than where they were met.
        log.error("stage was put off", extra={"stage": stage.name, "reason": exc.message})
        return now + RETRY
    except Exception:
        log.exception("stage did not finish its step", extra={"stage": stage.name})
        return now + RETRY


def earliest(*moments: datetime | None) -> datetime | None:
    """The first of those that are set."""
    set_ones = [moment for moment in moments if moment is not None]
    return min(set_ones) if set_ones else None
