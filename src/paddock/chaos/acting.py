"""Does to server, proxy and victim what was planned, undoes what lasts, heals in the end.

Effects: none that outlive the run.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from paddock.chaos import acts, clock
from paddock.chaos.acts import Act, Planned
from paddock.chaos.proxy import Proxy
from paddock.chaos.room import Room
from paddock.chaos.served import Served
from paddock.core.errors import Broken

_NARROW = 6 << 20
"""Bytes that a disk which is nearly full has left at most: less than the agent keeps free."""
_AT_ONCE = 2
_LOOK = 0.02
_FEW, _PATIENCE = 60, 4.0
_SILENTLY = 0.3
"""How often a partition leaves the links that are open half-open; else they are reset."""


class Acting:
    """`calendar` is the file of the victim's clock. `given` counts commands, `waiting` those that are open."""

    def __init__(
        self,
        room: Room,
        served: Served,
        proxy: Proxy,
        *,
        calendar: Path,
        given: Callable[[], int],
        waiting: Callable[[], int],
        note: Callable[[str], None],
    ) -> None:
        self.done: Counter[str] = Counter()
        self.troubles: list[tuple[float, float]] = []
        """When something was done after which a command may be interrupted, by a steady clock."""
        self.is_narrow = False
        """Nothing new is taken: the disk is full."""
        self.is_over = False
        """Nothing more is to be begun; what was begun ends as planned."""
        self.now = ""
        """What was begun last."""
        self._room, self._served, self._proxy = room, served, proxy
        self._calendar = calendar
        self._given, self._waiting = given, waiting
        self._note = note

    async def act_all(self, plan: Sequence[Planned]) -> None:
        """One after the other as commands are given; the next may begin before one is over.

        Never cancelled in the middle: half a reboot would be no victim of anything.
        """
        at_once = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for one in plan:
                while self._given() < one.after and not self.is_over:  # noqa: ASYNC110 - a plan, not an event
                    await asyncio.sleep(_LOOK)
                await at_once.acquire()
                if self.is_over:
                    break
                group.create_task(self._act(one, at_once))

    async def _act(self, one: Planned, at_once: asyncio.Semaphore) -> None:
        began = time.monotonic()
        self.now = one.act.value
        try:
            was_done = await self._do(one)
            if was_done:
                self.done[one.act.value] += 1
            self._note(f"{one.act.value}: {'over' if was_done else 'found nobody'}")
        except Broken as exc:
            # A word that met a reboot in the middle: it was not done.
            self._note(f"{one.act.value}: {exc.message}")
        finally:
            if one.act in acts.MAY_INTERRUPT:
                self.troubles.append((began, time.monotonic()))
            at_once.release()

    async def _do(self, one: Planned) -> bool:
        """Do it, and undo what lasts; False if there was nobody to do it to."""
        self._note(f"{one.act.value} ({one.length:.1f} s)")
        room, served, proxy = self._room, self._served, self._proxy
        match one.act:
            case Act.KILL_AGENT:
                return bool(await room.say("kill"))
            case Act.RESTART_AGENT:
                await room.say("end")
                return bool(await room.say("start"))
            case Act.KILL_KEEPER:
                return bool(await room.say("keeper", int(one.draw * 1000)))
            case Act.KILL_SERVER:
                await served.kill(off_for=one.length)
            case Act.CUT:
                proxy.cut()
            case Act.HALF_OPEN:
                proxy.freeze()
            case Act.PARTITION:
                proxy.refuses = True
                if one.draw < _SILENTLY:
                    proxy.freeze()
                else:
                    proxy.cut()
                await asyncio.sleep(one.length)
                proxy.refuses = False
            case Act.REPEAT:
                proxy.repeat(1 + int(one.draw * 40))
            case Act.STOP_AGENT:
                await room.say("stop")
                await asyncio.sleep(one.length)
                await room.say("go")
            case Act.STOP_SERVER:
                served.signal(signal.SIGSTOP)
                await asyncio.sleep(one.length)
                served.signal(signal.SIGCONT)
            case Act.PAUSE:
                await room.say("pause")
                await asyncio.sleep(one.length)
                await room.say("resume")
            case Act.FULL_DISK | Act.NARROW_DISK:
                self.is_narrow = True
                await self._until_few_wait()
                room.fill(leave=0 if one.act is Act.FULL_DISK else int(one.draw * _NARROW))
                await asyncio.sleep(one.length)
                room.free()
                self.is_narrow = False
            case Act.CLOCK_AGENT | Act.CLOCK_SERVER:
                file = self._calendar if one.act is Act.CLOCK_AGENT else served.clock
                clock.write(file, (one.draw * 2 - 1) * acts.HOUR)
                await asyncio.sleep(one.length)
                clock.write(file, 0)
            case Act.REBOOT:
                await room.reboot()
        return True

    async def _until_few_wait(self) -> None:
        """All that waits for the victim would be refused at one blow, which is one case and not hundreds."""
        until = time.monotonic() + _PATIENCE
        while self._waiting() > _FEW and time.monotonic() < until:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(_LOOK)

    async def heal(self) -> None:
        """Nothing is wrong any more."""
        self.now = ""
        self._proxy.refuses = False
        self._proxy.cut()
        if not self._room.why_plain:
            self._room.free()
        for file in (self._calendar, self._served.clock):
            clock.write(file, 0)
        self._served.signal(signal.SIGCONT)
        await self._room.say("resume")
        await self._room.say("start")
