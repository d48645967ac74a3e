"""Waits until a machine has nothing to do: its forks would do it again.

Effects: none.
"""

import asyncio
from datetime import timedelta

from paddock.hands import trees
from paddock.hands.trees import Identity

_WINDOW = 0.2
_IDLE = 0.2
"""Of one processor, in a window: a guest that waits takes a hundredth, one whose services look at the clock a tenth."""


async def until_idle(machine: Identity, *, limit: timedelta) -> bool:
    """Whether its process has stood still for a moment within the limit; one that is gone does, too."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit.total_seconds()
    before = trees.used(machine.pid)
    while loop.time() < end:
        await asyncio.sleep(_WINDOW)
        now = trees.used(machine.pid)
        if now - before <= _IDLE * _WINDOW:
            return True
        before = now
    return False
