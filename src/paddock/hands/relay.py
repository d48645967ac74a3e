"""Copies messages between two links, and parses nothing.

Effects: none.
"""

import asyncio

from paddock.hands.link import Closed, Link
from paddock.wire.framing import Malformed


async def relay(a: Link, b: Link) -> None:
    """Copy messages both ways and parse nothing, until either end is over; then both are closed.

    One message at a time is in hand each way, so a side that does not read makes the other wait.
    """
    reason = "relay: stopped"
    try:
        async with asyncio.TaskGroup() as copiers:
            both = [copiers.create_task(_copy(a, b)), copiers.create_task(_copy(b, a))]
            # Waits for: either direction to end. The other one is then cancelled: a half relay carries no session.
            done, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for copier in pending:
                copier.cancel()
        reason = "; ".join(sorted(copier.result() for copier in done))
    finally:
        await a.close(reason)
        await b.close(reason)


async def _copy(source: Link, sink: Link) -> str:
    try:
        while True:
            await sink.send(await source.receive())
    except (Closed, Malformed) as exc:
        return str(exc)
