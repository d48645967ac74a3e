"""Receiving: each forge is listened to, and every line is stored before anything acts on it.

Effects: idempotent (an event's key is forge, session and position: a line that is told again is known)
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from paddock.core.event import Event, Heard
from paddock.core.heard import gap
from paddock.engine.means import Means
from paddock.hands import faults
from paddock.ports import Forge, Tables

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Last:
    """How far a session was heard."""

    session: str = ""
    position: int = -1


class Receiving:
    """Listens to one forge until it is cancelled."""

    def __init__(self, means: Means, forge: Forge) -> None:
        self._means = means
        self._forge = forge
        self._last = Last()

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
        self._last = await self._means.store.write(lambda tables: add(tables, events, self._last))
        faults.at("receiving.stored")


def add(tables: Tables, events: Sequence[Event], last: Last) -> Last:
    """Store events under the next numbers, without those that are known already, even if forgotten by now.

    A session's positions rise, so its last one tells; it is asked of the store when a session is first heard from.
    """
    for event in events:
        if last.session != event.session:
            newest = tables.events.where(forge=event.forge, session=event.session, newest=True, limit=1)
            last = Last(session=event.session, position=newest[0].position if newest else -1)
        if event.position > last.position:
            tables.events.add(replace(event, id=str(tables.number("event"))))
            last = replace(last, position=event.position)
    return last
