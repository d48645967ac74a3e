"""The lowest fence that may act on a machine, shared by its agent and its host's.

Effects: idempotent. The host raises it before it cleans; the machine's agent holds it shared while something begins. So
when the host has raised it, whatever began earlier can be seen, and nothing begins under the fence that is over.
No sync: the file must outlive processes, and none of them outlives the kernel.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

from paddock.core.errors import Broken

_FILE = "fence"
_LOOK_EVERY = 0.005


class Floor:
    """The file in the machine agent's state directory; absent means 0."""

    def __init__(self, state: Path) -> None:
        self._path = state / _FILE

    def read(self) -> int:
        """The fence below which nothing may begin."""
        try:
            return int(self._path.read_text("ascii") or 0)
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as exc:
            raise Broken(f"{self._path}: {exc}") from exc

    @asynccontextmanager
    async def held(self, limit: timedelta = timedelta(seconds=60)) -> AsyncIterator[int]:
        """It does not rise while the block runs; gives it."""
        async with self._locked(fcntl.LOCK_SH, limit):
            yield self.read()

    async def rise(self, fence: int, *, limit: timedelta) -> None:
        """Raise it, once nothing is beginning. Broken if something has held it for the whole `limit`."""
        async with self._locked(fcntl.LOCK_EX, limit) as handle:
            if fence > self.read():
                text = str(fence).encode("ascii")
                os.pwrite(handle, text, 0)  # a counter never gets shorter, so nothing of the old one stays behind
                os.ftruncate(handle, len(text))

    @asynccontextmanager
    async def _locked(self, kind: int, limit: timedelta) -> AsyncIterator[int]:
        handle = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + limit.total_seconds()
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(handle, kind | fcntl.LOCK_NB)
                    break
                if asyncio.get_running_loop().time() > deadline:
                    raise Broken(f"{self._path}: still held")
                await asyncio.sleep(_LOOK_EVERY)
            yield handle
        finally:
            os.close(handle)
