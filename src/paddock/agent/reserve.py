"""Room on the disk that is kept for what was accepted, and the alert when it is short.

Effects: none of its own; the alert has a journal.
"""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from paddock.agent.alerts import Alerts

SUBJECT = "disk of the agent"
_LOOK = 60.0  # seconds
_LOOK_AGAIN = 5.0
"""While it is short."""


class Reserve:
    """Of one agent's state. Below `least` bytes nothing new is taken; the alert ends a quarter above them."""

    def __init__(self, place: Path, *, least: int) -> None:
        self._place = place
        self._least = least
        self._missed = asyncio.Event()

    def lack(self) -> str:
        """Why nothing new can be taken; empty if something can. Whoever asks in vain wakes `watch`."""
        free = self._free()
        if free >= self._least:
            return ""
        self._missed.set()
        return f"{self._place}: {free >> 10} KiB free, {self._least >> 10} KiB are kept for what was accepted"

    async def watch(self, alerts: Alerts) -> None:
        """Begin the alert when the room is short, end it when there is enough again. For ever."""
        while True:
            self._missed.clear()
            await self._look(alerts)
            if alerts.find(SUBJECT) is not None:
                await asyncio.sleep(_LOOK_AGAIN)
                continue
            with suppress(TimeoutError):
                # Waits for: a command that is refused, or the next look.
                async with asyncio.timeout(_LOOK):
                    await self._missed.wait()

    async def _look(self, alerts: Alerts) -> None:
        free = self._free()
        if free < self._least:
            msg = f"{self._place}: {free >> 10} KiB free: nothing new is taken below {self._least >> 10} KiB"
            await alerts.begin(SUBJECT, msg, level="error", free=free, least=self._least)
            await alerts.save()  # what found no room before may find some now
        elif free >= self._least + self._least // 4:
            await alerts.end(SUBJECT, f"{self._place}: {free >> 10} KiB free")

    def _free(self) -> int:
        """Bytes that this user may still write there."""
        disk = os.statvfs(self._place)
        return disk.f_bavail * disk.f_frsize
