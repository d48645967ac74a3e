"""How an agent is spoken to where it does not dial: on a socket, on a port, on its stdio.

Effects: none.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.agent.dialing import Again, Hopeless
from paddock.agent.settings import WrongUse
from paddock.core.errors import PaddockError, Refused
from paddock.hands import links
from paddock.hands.link import Link
from paddock.wire.backoff import Backoff

if TYPE_CHECKING:
    from paddock.hands.port import Port

_log = logging.getLogger(__name__)

_KINDS = "--line tls://HOST:PORT, tcp://HOST:PORT, virtio:DEVICE, stdio: or unix:PATH"

Converse = Callable[[Link], Awaitable[str]]


def check(line: str) -> None:
    """Raise WrongUse for a line that is none of ours."""
    kind, _, place = line.partition(":")
    if kind not in ("unix", "virtio", "stdio") or (not place) != (kind == "stdio"):
        raise WrongUse(f"--line {line}: not a line", hint=_KINDS)
    if kind == "virtio":
        from paddock.hands.port import Port

        try:
            Port(Path(place)).check()
        except Refused as exc:
            raise WrongUse(f"--line {exc.message}", hint=exc.hint) from exc


async def attend(line: str, converse: Converse, *, ready: asyncio.Event, over: Callable[[], None]) -> None:
    """Let `converse` have whoever speaks on the line, one after the other, for ever; `ready` once they may.

    Calls `over` and returns where nobody can come any more: at the end of stdio. Raises Hopeless if `converse` does.
    """
    kind, _, place = line.partition(":")
    match kind:
        case "unix":
            await _serve(Path(place), converse, ready)
        case "virtio":
            from paddock.hands.port import Port  # for guests alone

            await _keep(Port(Path(place)), converse, ready)
        case _:
            link = await links.stdio()
            ready.set()
            await _hear(link, converse)
            over()


async def _serve(path: Path, converse: Converse, ready: asyncio.Event) -> None:
    """The newest link is the live one: whoever dials again has lost the one before."""
    live: asyncio.Task[None] | None = None

    async def on_link(link: Link) -> None:
        nonlocal live
        before, live = live, asyncio.current_task()
        if before is not None and not before.done():
            before.cancel()
            await asyncio.wait({before})
        await _hear(link, converse)

    async with links.serve_lines(path, on_link):
        ready.set()
        await asyncio.Event().wait()


async def _keep(port: "Port", converse: Converse, ready: asyncio.Event) -> None:
    """A session each time the other side opens one; never more than one a second, whatever it does."""
    loop = asyncio.get_running_loop()
    least = Backoff().least.total_seconds()
    told = ""
    ready.set()
    try:
        while True:
            try:
                link = await port.session()
            except PaddockError as exc:
                _log.log(
                    logging.DEBUG if exc.message == told else logging.WARNING, "no line", extra={"why": exc.message}
                )
                told = exc.message
                await asyncio.sleep(least)
                continue
            told = ""
            began = loop.time()
            pause = await _hear(link, converse)
            await asyncio.sleep(max(pause, least - (loop.time() - began)))
    finally:
        port.close()


async def _hear(link: Link, converse: Converse) -> float:
    """One session; gives for how long the other side wants to be left alone."""
    try:
        reason = await converse(link)
        _log.info("link is over", extra={"subject": "line", "why": reason})
    except Hopeless:
        raise
    except Again as exc:
        _log.info("link is over", extra={"subject": "line", "why": exc.message})
    except PaddockError as exc:
        _log.warning("not welcome", extra={"why": exc.message})
        after = getattr(exc, "retry_after", None)
        return after.total_seconds() if after is not None else 0.0
    return 0.0
