"""Gives the commands, some of them again, and knows what it was told of their ends.

Effects: none of its own; what an order does is the agent's.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddock.chaos.orders import Kind, Order
from paddock.chaos.served import Served
from paddock.core.errors import Refused

_AT_ONCE = 6
_LOOK = 0.3
_AGAIN = 3.0
_OVER = ("complete", "failed")
_SAME = ("state", "code", "exit", "outputs")


@dataclass(kw_only=True)
class Given:
    """One order, when it was given and when it was seen to be over, by a steady clock; and its end as first told."""

    order: Order
    given: float
    ended: float | None = None
    is_known: bool = False
    """Whether the server has said that it has it."""
    end: Mapping[str, Any] | None = None
    changes: list[str] = field(default_factory=list)
    """How later answers differed from the first end that was told: there may be none."""

    def hear(self, row: Mapping[str, Any]) -> None:
        """What the server says of it now."""
        self.is_known = True
        if row["state"] not in _OVER:
            if self.end is not None:
                self.changes.append(f"was {_told(self.end)}, is {row['state']}")
        elif self.end is None:
            self.end = dict(row)
            self.ended = self.ended or time.monotonic()
        elif any(row[name] != self.end[name] for name in _SAME):
            self.changes.append(f"was {_told(self.end)}, is {_told(row)}")


def _told(row: Mapping[str, Any]) -> str:
    return f"{row['state']} {row['code']} exit {row['exit']} outputs {dict(row['outputs'])}"


class Giving:
    """Keeps up to `most` orders open at the server."""

    def __init__(self, served: Served, *, most: int, chance: random.Random) -> None:
        self.given: dict[str, Given] = {}
        self.repeated = 0
        """How many orders were given again."""
        self.refused: list[str] = []
        """What was not taken although it should have been."""
        self._served = served
        self._most = most
        self._chance = chance
        self._open: set[str] = set()
        self._room = asyncio.Event()
        self._posting = asyncio.Semaphore(_AT_ONCE)

    @property
    def over(self) -> int:
        """How many are over, as far as was looked."""
        return len(self.given) - len(self._open)

    async def give(self, order: Order, group: asyncio.TaskGroup) -> None:
        """Give it as soon as there is room."""
        while len(self._open) >= self._most:
            self._room.clear()
            await self._room.wait()
        self.given[order.id] = Given(order=order, given=time.monotonic())
        self._open.add(order.id)
        await self._posting.acquire()
        group.create_task(self._post(order, group))

    async def _post(self, order: Order, group: asyncio.TaskGroup) -> None:
        try:
            await self._order(order)
        finally:
            self._posting.release()
        if order.kind is Kind.CANCELLED:
            group.create_task(self._cancel(order))

    async def _cancel(self, order: Order) -> None:
        """As a person would: again, as long as it goes on. A cancel that a dying agent has heard is nobody's."""
        await asyncio.sleep(self._chance.uniform(0.1, 2))
        while order.id in self._open:
            await self._served.cancel(order.id)
            await asyncio.sleep(_AGAIN)

    async def _order(self, order: Order) -> None:
        try:
            row = await self._served.order(order.method, order.params, id=order.id)
        except Refused as exc:
            self.refused.append(f"{order.id}: {exc.message}")
            self._close(order.id)
            return
        self.given[order.id].hear(row)
        if row["state"] in _OVER:
            self._close(order.id)

    async def repeat(self) -> None:
        """Give old and new ones again, for ever; what is answered must be what was answered before."""
        while True:
            await asyncio.sleep(self._chance.uniform(0.02, 0.2))
            if self.given:
                ids = list(self.given)
                # Some of the very first ones, which were pruned long ago, as well as what is just under way.
                chosen = self._chance.choice((ids[:50], ids[-50:], ids))
                self.repeated += 1
                await self._order(self.given[self._chance.choice(chosen)].order)

    async def follow(self) -> None:
        """See who is over, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK)

    async def look(self) -> None:
        """One look: what the server knows and does not have open is over. How it ended is asked of all at the end."""
        known = {id for id in self._open if self.given[id].is_known}
        open_ = {row["id"] async for row in self._served.commands("queued", "sent", "accepted", "running")}
        for id in known - open_:
            self._close(id)

    async def settle(self, *, limit: float) -> list[str]:
        """Wait until all are over, at most so many seconds; gives those that are not."""
        until = time.monotonic() + limit
        while self._open and time.monotonic() < until:
            await self.look()
            await asyncio.sleep(_LOOK)
        return sorted(self._open)

    async def hear_all(self) -> set[str]:
        """What the server says of all in the end; gives the ids that it does not know."""
        unknown = set(self.given)
        async for row in self._served.commands():
            if row["id"] in self.given:
                self.given[row["id"]].hear(row)
                unknown.discard(row["id"])
        return unknown

    def _close(self, id: str) -> None:
        self._open.discard(id)
        self.given[id].ended = self.given[id].ended or time.monotonic()
        self._room.set()
