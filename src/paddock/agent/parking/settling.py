"""The second step of a wake: files that show who it is, cards, services that begin anew.

Effects: idempotent; journaled by the wake that was heard until who it is is recorded, and for each boot by that record.
No command begins before.
"""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.alerts import Alerts
from paddock.agent.ledger import Ledger
from paddock.agent.parking import cards, dress, heard, record
from paddock.agent.parking.kernel import Kernel
from paddock.agent.parking.record import Record
from paddock.core.errors import PaddockError
from paddock.hands import faults
from paddock.wire.specs import Wake

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
    ledger: Ledger
    kernel: Kernel
    alerts: Alerts

    async def settle(self, woken: Record, wake: Wake | None, boot: str) -> None:
        """Files, cards and services are what they are to be; `wake`: where its files are not written yet.

        What cannot be is an alert: the machine is there all the same. Files are tried again when the agent begins anew.
        """
        if woken.settled_in == boot:
            return
        faults.at("settling.begun")
        unwritten = await self._show(woken, wake) if wake is not None else []
        wrong = [*unwritten, *await self._join(woken)]
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
        if not unwritten:
            await asyncio.to_thread(record.save, self.state, woken.settled(boot))

    async def _show(self, woken: Record, wake: Wake) -> list[str]:
        """What tells it from others is on its disk, the record last; else what went wrong."""
        try:
            await asyncio.to_thread(dress.dress, self.rootfs, wake)
            await self.ledger.stamp()
            faults.at("settling.stamped")
            await asyncio.to_thread(self.kernel.sync)
            faults.at("settling.flushed")
            await asyncio.to_thread(record.save, self.state, woken)
            faults.at("settling.recorded")
        except OSError as exc:
            return [f"{exc.filename or self.rootfs}: {exc.strerror or exc}"]
        except PaddockError as exc:
            return [exc.message]
        heard.forget(self.rootfs)
        return []

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
