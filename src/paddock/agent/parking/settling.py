"""The second step of a wake: a flush, cards that came unnoticed, services that begin anew.

Effects: idempotent; that it is done is recorded for this boot. No command that changes anything begins before.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.alerts import Alerts
from paddock.agent.parking import cards, record
from paddock.agent.parking.kernel import Kernel
from paddock.agent.parking.record import Record
from paddock.core.errors import PaddockError
from paddock.hands import faults

_log = logging.getLogger(__name__)

SUBJECT = "wake"
_COMES_WITHIN = 15.0
_NAMED_WITHIN = 20.0
"""Until udev has given a card its name: one that is up before keeps another one than its siblings have."""
_LOOK_EVERY = 0.02


@dataclass(frozen=True, kw_only=True)
class Settling:
    """Where, and who is told of what cannot be."""

    rootfs: Path
    state: Path
    kernel: Kernel
    alerts: Alerts

    async def settle(self, woken: Record, boot: str) -> None:
        """Cards are up, and services run. What cannot be is an alert: the machine is there all the same."""
        if woken.settled_in == boot:
            return
        faults.at("settling.begun")
        await asyncio.to_thread(self.kernel.sync)
        faults.at("settling.flushed")
        wrong = await self._join(woken)
        if woken.restart and not woken.settled_in:
            # After a reboot they have begun anew by themselves.
            try:
                await asyncio.to_thread(self.kernel.restart, woken.restart)
            except PaddockError as exc:
                wrong.append(exc.message)
        if wrong:
            msg = f"{woken.environment}/{woken.machine}: {'; '.join(wrong)}"
            await self.alerts.begin(SUBJECT, msg, level="error")
        faults.at("settling.done")
        await asyncio.to_thread(record.save, self.state, woken.settled(boot))

    async def _join(self, woken: Record) -> list[str]:
        """What went wrong with the cards."""
        wanted = dict(woken.cards)
        if any(wanted.values()):
            await asyncio.to_thread(self.kernel.reload)
        there = cards.found(self.rootfs)
        if not wanted.keys() <= there.keys():
            # Cards of a fork were not there when it was frozen, and nobody told the kernel that they came.
            await asyncio.to_thread(self.kernel.rescan)
            there = await self._wait(wanted)
        wrong = []
        for mac, address in wanted.items():
            if mac not in there:
                wrong.append(f"there is no card {mac}")
                continue
            await self._named(there[mac])
            try:
                self.kernel.join(there[mac], address)
            except OSError as exc:
                wrong.append(f"card {mac}: {exc.strerror or exc}")
        return wrong

    async def _wait(self, wanted: dict[str, str]) -> dict[str, int]:
        end = asyncio.get_running_loop().time() + _COMES_WITHIN
        while True:
            there = dict(cards.found(self.rootfs))
            if wanted.keys() <= there.keys() or asyncio.get_running_loop().time() > end:
                return there
            await asyncio.sleep(_LOOK_EVERY)

    async def _named(self, card: int) -> None:
        end = asyncio.get_running_loop().time() + _NAMED_WITHIN
        while True:
            if cards.is_named(self.rootfs, card) or asyncio.get_running_loop().time() > end:
                return
            await asyncio.sleep(_LOOK_EVERY)
