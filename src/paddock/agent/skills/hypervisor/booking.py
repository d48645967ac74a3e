"""One at a time: machines that build images, where the server books nothing for them.

Effects: none.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paddock.core.errors import Broken
from paddock.core.machine import MIB, Size

_SPARE = 256 * MIB
"""Bytes that stay free for the host itself."""


class Bench:
    """Where builders take turns: the server books what it orders, and this keeps what it did not order small."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def booked(self, size: Size) -> AsyncIterator[None]:
        """A builder of this size may run while the block does. Broken if the host has no memory left for it."""
        async with self._turn:
            available = _available()
            if size.memory + _SPARE > available:
                free = available // MIB
                raise Broken(f"image: its builder wants {size.memory // MIB} MiB, and the host has {free} MiB left")
            yield


def _available() -> int:
    """What the kernel would give to processes without swapping, in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
