"""Receiving: each forge is listened to, and every line is stored before anything acts on it.

Effects: idempotent (an event's key is forge, session and position: a line that is told again is known)
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from paddock.core.errors import Refused
from paddock.core.event import Event, Heard
from paddock.core.heard import gap
from paddock.engine.means import Means
from paddock.hands import faults
from paddock.ports import Forge, Tables

log = logging.getLogger(__name__)


class Receiving:
    """Listens to one forge until it is cancelled."""

    def __init__(self, means: Means, forge: Forge) -> None:
        self._means = means
        self._forge = forge

    async def listen(self) -> None:
        """Hear until cancelled. Raises what the forge raises when it cannot be heard at all."""
        await self._forge.listen(self.hear)

    async def note_absence(self) -> None:
        """A live stream went on while no server ran: what was not heard then is a gap. Once a start."""
        store, now = self._means.store, self._means.clock.now()
        last = await store.read(lambda tables: tables.events.where(forge=self._forge.name, newest=True, limit=1))
        if last:
            raw = gap(since=last[0].heard.isoformat(), until=now.isoformat(), why="the server was not running")
            session = f"start-{store.epoch}"
            await self.hear([Heard(forge=self._forge.name, session=session, position=0, at=now, raw=raw)])

    async def hear(self, lines: Sequence[Heard]) -> None:
        """Store lines in one transaction; answers when they are durable."""
        events = [self._forge.understand(line) for line in lines]
        faults.at("receiving.heard")
        await self._means.store.write(lambda tables: [add(tables, event) for event in events])
        faults.at("receiving.stored")


def add(tables: Tables, event: Event) -> Event | None:
    """Store an event under the next number; None for one that is known already."""
    known = tables.events.count(forge=event.forge, session=event.session, position=event.position)
    if known:
        return None
    try:
        return tables.events.add(replace(event, id=str(tables.number("event"))))
    except Refused:
        raise AssertionError(
            f"event {event.forge} {event.session} {event.position}: counted as new, but known"
        ) from None
