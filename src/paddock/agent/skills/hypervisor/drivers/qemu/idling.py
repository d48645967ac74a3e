"""Waits until a machine has nothing to do: its forks would do it again.

Effects: none.
"""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from paddock.hands.trees import Identity

_WINDOW = 0.2
_IDLE = 0.2
"""Of one processor, in a window: a guest that waits takes a hundredth, one whose services look at the clock a tenth."""
_USER, _SYSTEM = 11, 12
"""Fields of /proc/PID/stat behind the name of the process, proc(5): clock ticks."""


async def until_idle(machine: Identity, *, limit: timedelta) -> bool:
    """Whether its process has stood still for a moment within the limit; one that is gone does, too."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit.total_seconds()
    before = _used(machine)
    while loop.time() < end:
        await asyncio.sleep(_WINDOW)
        now = _used(machine)
        if now - before <= _IDLE * _WINDOW:
            return True
        before = now
    return False


def _used(machine: Identity) -> float:
    """Seconds of processor time; zero once it is gone."""
    try:
        fields = Path(f"/proc/{machine.pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / os.sysconf("SC_CLK_TCK")
