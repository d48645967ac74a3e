"""Work that several wait for and that is done once: it goes on as long as one of them waits.

Effects: none of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from paddock.agent.skills.hypervisor.images.logs import BuildLog, Follower

Act = Callable[["Flight"], Awaitable[str]]


class Flight:
    """One piece of work, its log, and how far it is."""

    def __init__(self, path: Path) -> None:
        self.log = BuildLog(path)
        self.share = 0.0
        self.waiting = 0
        self.task: asyncio.Task[str] | None = None
        self.listeners: list[Callable[[float], None]] = []

    def progress(self, share: float) -> None:
        """How much of it is done, 0 to 1."""
        self.share = share
        for listener in list(self.listeners):
            listener(share)


class Flights:
    """By key."""

    def __init__(self) -> None:
        self._known: dict[str, Flight] = {}
        self._ending: dict[str, asyncio.Task[str]] = {}

    async def join(self, key: str, log: Path, act: Act, follow: Follower, listen: Callable[[float], None]) -> str:
        """What `act` gives, for whoever comes first; the others wait for the same, and follow the same log.

        A waiter that is cancelled leaves. The last one takes the work with it, and returns when that has ended.
        """
        while (ending := self._ending.get(key)) is not None:
            await asyncio.wait({ending})
        flight = self._known.get(key)
        if flight is None:
            flight = self._known[key] = Flight(log)
            flight.task = asyncio.create_task(self._fly(key, flight, act))
        assert flight.task is not None
        flight.waiting += 1
        flight.log.follow(follow)
        flight.listeners.append(listen)
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            flight.log.leave(follow)
            flight.listeners.remove(listen)
            if flight.waiting == 0 and not flight.task.done():
                await self._cancel(key, flight.task)

    async def _cancel(self, key: str, task: "asyncio.Task[str]") -> None:
        """Who comes from now on begins anew, once this one is out of the way."""
        self._known.pop(key, None)
        self._ending[key] = task
        task.cancel()
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():  # cancelled once more: it ends without us
                task.add_done_callback(lambda _: self._ending.pop(key, None))
            else:
                self._ending.pop(key, None)
                if not task.cancelled():
                    task.exception()  # looked at: nobody waits for it

    async def _fly(self, key: str, flight: Flight, act: Act) -> str:
        try:
            return await act(flight)
        finally:
            flight.log.close()
            if self._known.get(key) is flight:
                del self._known[key]

    async def end(self) -> None:
        """Nothing is under way any more."""
        tasks = [flight.task for flight in self._known.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
