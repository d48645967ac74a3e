"""Tails a file or a unit's journal until it is cancelled or a bound is reached.

Effects: none; being cancelled is how it usually ends, so the result with its cursor is there then too.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from paddock.agent import paths
from paddock.agent.entry import Outcome
from paddock.agent.skills.logs import journal
from paddock.agent.skills.logs.following import EMPTY_LOOKS, Followed
from paddock.agent.skills.logs.sink import Sink
from paddock.agent.skills.skill import Call, Place

T = TypeVar("T")

_LOOK_EVERY = 0.25
_PIECE = 64 << 10


async def tail(place: Place, call: Call) -> Outcome:
    """What was followed, as output, and the cursor for the next one."""
    if call.text("unit"):
        words = journal.command(
            call.text("unit"),
            lines=call.number("lines"),
            cursor=call.text("cursor"),
            follow=_follows(call),
        )
        return await _follow_journal(call, words)
    followed = await _aside(lambda: Followed(lambda: _open(place, call.text("path"))))
    try:
        await _aside(lambda: _begin(followed, call))
        return await _follow_file(call, followed)
    finally:
        followed.close()


async def _aside(act: Callable[[], T]) -> T:
    """Beside the loop. A thread cannot be ended: cancelled, this waits for it, lest its file is closed under it."""
    job = asyncio.ensure_future(asyncio.to_thread(act))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait({job})
        raise


def _follows(call: Call) -> bool:
    return call.params.get("follow") is not False


def _open(place: Place, named: str) -> tuple[Path, int]:
    """On a machine through no link at all; elsewhere to where the name leads now."""
    wanted = place.resolve(named)
    path = wanted if place.machine else Path(os.path.realpath(wanted))
    return path, paths.open_file(path)


def _begin(followed: Followed, call: Call) -> None:
    if call.text("cursor"):
        followed.go_on(call.text("cursor"))
    elif call.params.get("offset") is not None:
        followed.go_to(call.number("offset"))
    else:
        followed.go_to_last_lines(call.number("lines"))


async def _until_over(call: Call, follow: Callable[[], Awaitable[str]]) -> str:
    """Why it ended."""
    seconds = call.params.get("seconds")
    try:
        async with asyncio.timeout(seconds if isinstance(seconds, int | float) else None):
            return await follow()
    except TimeoutError:
        return "time"
    except asyncio.CancelledError:
        return "cancelled"


async def _follow_file(call: Call, followed: Followed) -> Outcome:
    sink = Sink(call)
    try:
        if sink.cursor:
            # This process is not the one that began.
            await _aside(lambda: followed.go_on(sink.cursor))
        sink.cursor = followed.cursor

        async def follow() -> str:
            empty = 0
            while sink.room > 0:
                data = await _aside(lambda: followed.read(min(_PIECE, sink.room)))
                empty = 0 if data else empty + 1
                if data:
                    await sink.take(data, followed.cursor)
                elif not _follows(call) and empty >= EMPTY_LOOKS:
                    return "end"
                elif _follows(call):
                    await asyncio.sleep(_LOOK_EVERY)
            return "limit"

        ended = await _until_over(call, follow)
        return sink.outcome(ended, rotations=followed.rotations, truncations=followed.truncations, gap=followed.has_gap)
    finally:
        sink.close()


async def _follow_journal(call: Call, words: list[str]) -> Outcome:
    sink = Sink(call)
    try:
        if sink.cursor:
            words = journal.command(call.text("unit"), lines=0, cursor=sink.cursor, follow=_follows(call))
        sink.cursor = sink.cursor or call.text("cursor")

        async def follow() -> str:
            async with journal.entries(words) as entries:
                async for line, cursor in entries:
                    if len(line) > sink.room:
                        return "limit"
                    await sink.take(line, cursor)
            return "end"

        return sink.outcome(await _until_over(call, follow))
    finally:
        sink.close()
