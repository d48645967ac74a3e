"""What happens, told to browsers as it happens: topics that were touched, logs that grew.

Effects: none. A listener holds a set of topics, never a queue of events, and one piece of a log, never a backlog: it
reads from store and archive what it is behind. Whoever does not take what was sent within a deadline is dropped.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.event import Event
from paddock.core.round import Round
from paddock.core.run import Run
from paddock.ports import Archive, Store, Touched

PIECE = 64 * 1024
BEAT = 15.0
"""Seconds of silence after which a comment is sent, so that a dead connection is noticed."""
PATIENCE = 30.0
"""Seconds that a listener may take to accept what was sent."""
SILENCE = 1.0
"""Seconds of silence of a log after which is asked whether it has ended."""
AT_MOST = 500
"""Listeners of one server; the next one is told to come back later."""


class Bell:
    """Rings for one listener; rings while nobody waits are not lost and are not counted."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, limit: float) -> bool:
        """Whether it rang within `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Tail:
    """Knows which logs grew. The server calls `grew` wherever output became durable."""

    def __init__(self) -> None:
        self._bells: dict[str, set[Bell]] = {}

    def grew(self, name: str, length: int) -> None:
        """The archive's file `name` is `length` bytes long by now. On the event loop's thread."""
        for bell in self._bells.get(name, ()):
            bell.ring()

    @contextmanager
    def listening(self, names: Sequence[str]) -> Iterator[Bell]:
        """A bell that rings when one of `names` grew."""
        bell = Bell()
        for name in names:
            self._bells.setdefault(name, set()).add(bell)
        try:
            yield bell
        finally:
            for name in names:
                self._bells[name].discard(bell)
                if not self._bells[name]:
                    del self._bells[name]


class Feed:
    """Knows which topics were touched by committed transactions."""

    def __init__(self, store: Store) -> None:
        self.writes = 0
        """Rows written since the server started, for /metrics."""
        self._bells: dict[str, set[tuple[Bell, set[str]]]] = {}
        self.stop = store.subscribe(self._touched)

    def _touched(self, touched: Sequence[Touched]) -> None:
        self.writes += len(touched)
        if not self._bells:
            return
        for one in touched:
            for topic in topics_of(one):
                for bell, heard in self._bells.get(topic, ()):
                    heard.add(topic)
                    bell.ring()

    @contextmanager
    def listening(self, topics: Sequence[str], *, bell: Bell | None = None) -> Iterator[tuple[Bell, set[str]]]:
        """A bell that rings when one of `topics` was touched, and the set in which they gather.

        `bell`: one that rings for something else too.
        """
        pair = (bell or Bell(), _Topics())
        for topic in topics:
            self._bells.setdefault(topic, set()).add(pair)
        try:
            yield pair
        finally:
            for topic in topics:
                self._bells[topic].discard(pair)
                if not self._bells[topic]:
                    del self._bells[topic]


class _Topics(set[str]):
    """A set that is told apart by identity, as a listener is."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


_OF_NOW = frozenset({"runs", "leases", "environments", "hosts", "rounds", "alerts"})


def topics_of(touched: Touched) -> list[str]:
    """The topics that a written row belongs to."""
    topics = [f"{touched.noun.removesuffix('s')}:{touched.id}", touched.noun]
    if touched.noun in _OF_NOW:
        topics.append("now")
    match touched.row:
        case Alert(agent=agent):
            topics.append(f"agent:{agent}")
        case Command() as command:
            topics.append(f"agent:{command.agent}")
            if command.run:
                topics.append(f"run:{command.run}")
        case Run() as run:
            topics += [f"round:{run.round}", f"change:{run.forge}/{run.number}"]
        case Round() as round:
            topics.append(f"change:{round.forge}/{round.number}")
        case Event() as event if event.number:
            topics.append(f"change:{event.forge}/{event.number}")
    if touched.noun == "reports":
        topics.append(f"round:{touched.id}")
    if touched.noun == "results":
        topics.append(f"run:{touched.id}")
    return topics


def message(data: object, *, event: str = "", id: str = "") -> bytes:
    """One server-sent event."""
    head = (f"event: {event}\n" if event else "") + (f"id: {id}\n" if id else "")
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def touches(feed: Feed, topics: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """Events `touched {"topics": [...]}`, several commits in one where they come quickly."""
    with feed.listening(topics) as (bell, heard):
        yield b"retry: 2000\n\n"
        while True:
            if not await bell.wait(BEAT):
                yield b": still here\n\n"
                continue
            told = sorted(heard)
            heard.clear()
            yield message({"topics": told}, event="touched")
            # Commits of one moment become one event; a browser that follows draws a few times a second at most.
            await asyncio.sleep(0.1)


async def grown(
    tail: Tail, archive: Archive, name: str, *, has_ended: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """Events `grew {"length"}` whenever a log grew, several at once as one, then `end {"length"}`."""
    with tail.listening([name]) as bell:
        yield b"retry: 1000\n\n"
        told, quiet = -1, 0.0
        while True:
            length = await archive.length(name) or 0
            if length != told:
                told, quiet = length, 0.0
                yield message({"length": length}, event="grew")
                # A viewer draws a few times a second; whatever came meanwhile is one more event.
                await asyncio.sleep(0.05)
                continue
            # Waits for: growth of the log, or a while in which its command may have ended.
            if await bell.wait(SILENCE):
                continue
            if await has_ended() and told == (await archive.length(name) or 0):
                yield message({"length": told}, event="end")
                return
            quiet += SILENCE
            if quiet >= BEAT:
                quiet = 0.0
                yield b": still here\n\n"


async def appended(
    tail: Tail, archive: Archive, name: str, *, offset: int, has_ended: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[bytes, None]:
    """Events `output {"offset", "data"}` (base64 of the bytes from `offset` on), then `end {"length"}`.

    `has_ended` says whether nothing more can be appended; it is asked when the log is silent.
    """
    with tail.listening([name]) as bell:
        yield b"retry: 1000\n\n"
        quiet = 0.0
        while True:
            length = await archive.length(name) or 0
            if offset < length:
                quiet = 0.0
                data = await archive.read(name, offset, min(PIECE, length - offset))
                yield message(
                    {"offset": offset, "data": base64.b64encode(data).decode("ascii")},
                    event="output",
                    id=str(offset + len(data)),
                )
                offset += len(data)
                continue
            # Waits for: growth of the log, or a while in which its command may have ended.
            if await bell.wait(SILENCE):
                continue
            if await has_ended() and offset >= (await archive.length(name) or 0):
                yield message({"length": offset}, event="end")
                return
            quiet += SILENCE
            if quiet >= BEAT:
                quiet = 0.0
                yield b": still here\n\n"
