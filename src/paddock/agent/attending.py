"""How an agent is spoken to where it does not dial: on a socket, on a port, on its stdio.

Effects: none.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.agent.dialing import Again, Hopeless
from paddock.agent.settings import WrongUse
from paddock.core.errors import PaddockError, Refused
from paddock.hands import lines, links
from paddock.hands.link import Link
from paddock.wire.backoff import Backoff

if TYPE_CHECKING:
    from paddock.hands.port import Port

_log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Sessions of a port: a host that wakes a machine and one that relays it come right after each other."""
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


async def attend(
    line: str, converse: Converse, *, ready: asyncio.Event, over: Callable[[], None], inherited: int | None = None
) -> None:
    """Let `converse` have whoever speaks on the line, one after the other, for ever; `ready` once they may.

    `inherited` is the descriptor of a link that this process had before it became what it is: it comes first.
    Calls `over` and returns where nobody can come any more: at the end of stdio. Raises Hopeless if `converse` does.
    """
    kind, _, place = line.partition(":")
    match kind:
        case "unix":
            await _serve(Path(place), converse, ready, inherited)
        case "virtio":
            from paddock.hands.port import Port  # for guests alone

            await _keep(Port(Path(place), handle=-1 if inherited is None else inherited), converse, ready)
        case _:
            link = await links.stdio()
            ready.set()
            await _hear(link, converse)
            over()


async def _serve(path: Path, converse: Converse, ready: asyncio.Event, inherited: int | None) -> None:
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
        async with asyncio.TaskGroup() as group:
            if inherited is not None:
                group.create_task(on_link(await lines.adopt(inherited)))
            await asyncio.Event().wait()


async def _keep(port: "Port", converse: Converse, ready: asyncio.Event) -> None:
    """A session each time the other side opens one; a few at once, then one a second, whatever it does."""
    loop = asyncio.get_running_loop()
    least = Backoff().least.total_seconds()
    told = ""
    began: deque[float] = deque(maxlen=_AT_ONCE)
    resumed = port.resume() if port.is_open else None
    ready.set()
    try:
        while True:
            try:
                link = resumed or await port.session()
                resumed = None
            except PaddockError as exc:
                _log.log(
                    logging.DEBUG if exc.message == told else logging.WARNING, "no line", extra={"why": exc.message}
                )
                told = exc.message
                await asyncio.sleep(least)
                continue
            told = ""
            began.append(loop.time())
            pause = await _hear(link, converse)
            is_hasty = len(began) == _AT_ONCE and loop.time() - began[0] < _AT_ONCE * least
            await asyncio.sleep(max(pause, least if is_hasty else 0))
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
