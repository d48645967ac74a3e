"""Copies messages between two links, and parses nothing.

Effects: none.
"""

import asyncio
from datetime import timedelta

from paddock.hands.link import Closed, Link
from paddock.wire.framing import Malformed


async def relay(a: Link, b: Link, *, patience: timedelta | None = None) -> None:
    """Copy messages both ways and parse nothing, until either end is over; then both are closed.

    One message at a time is in hand each way, so a side that does not read makes the other wait. It is over too when
    one was not read for as long as the `patience`: who waits for it does not see the other side go.
    """
    reason = "relay: stopped"
    try:
        async with asyncio.TaskGroup() as copiers:
            both = [copiers.create_task(_copy(a, b, patience)), copiers.create_task(_copy(b, a, patience))]
            # Waits for: either direction to end. The other one is then cancelled: a half relay carries no session.
            done, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for copier in pending:
                copier.cancel()
        reason = "; ".join(sorted(copier.result() for copier in done))
    finally:
        await a.close(reason)
        await b.close(reason)


async def _copy(source: Link, sink: Link, patience: timedelta | None) -> str:
    try:
        while True:
            text = await source.receive()
            async with asyncio.timeout(patience.total_seconds() if patience is not None else None):
                await sink.send(text)
    except TimeoutError:
        return "relay: a message was not read"
    except (Closed, Malformed) as exc:
        return str(exc)
