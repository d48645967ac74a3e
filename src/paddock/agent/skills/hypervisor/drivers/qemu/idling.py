"""Waits until a machine has nothing to do: its forks would do it again.

Effects: none.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from paddock.hands import trees
from paddock.hands.trees import Identity

_WINDOW = 0.2
_IDLE = 0.2
"""Of one processor, in a window: a guest that waits takes a hundredth, one whose services look at the clock a tenth."""


async def until_idle(machine: Identity, *, limit: timedelta) -> bool:
    """Whether its process has stood still for a moment within the limit; one that is gone does, too."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit.total_seconds()
    before = _wanted(machine.pid)
    while loop.time() < end:
        await asyncio.sleep(_WINDOW)
        now = _wanted(machine.pid)
        if now - before <= _IDLE * _WINDOW:
            return True
        before = now
    return False


def _wanted(pid: int) -> float:
    """Seconds for which it ran, or waited for a processor: on a busy host one that has much to do runs little, too."""
    waited = 0
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # The second field, in nanoseconds: Documentation/scheduler/sched-stats.rst of the kernel.
            waited += int((thread / "schedstat").read_bytes().split()[1])
    return trees.used(pid) + waited / 1e9
