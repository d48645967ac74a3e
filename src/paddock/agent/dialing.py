"""Keeps a link to the server: dials, lets somebody speak, and dials again, for ever.

Effects: none.
"""

import asyncio
import logging
import random
import ssl as tls
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from paddock.core.errors import PaddockError, Refused
from paddock.hands import links
from paddock.hands.links import Link, Unreachable
from paddock.wire.backoff import Backoff

_log = logging.getLogger(__name__)

STEADY = timedelta(seconds=5)
"""A session that lasted so long was a good one: the next attempt is a first one again."""


class Unwelcome(Refused):
    """The server does not want this agent, or not now. `retry_after` is when it may ask again, if that was said."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the server is and what is trusted there; the context is made once for all links."""

    url: str
    ssl: tls.SSLContext | None = None
    proxy: str | None = None
    """As in links.connect."""
    backoff: Backoff = field(default_factory=Backoff)


def server(
    url: str, *, authorities: Path | None, certificate: Path | None, fingerprint: str = "", proxy: str | None = None
) -> Server:
    """The server of a URL. Refused for files that hold no certificates."""
    if url.startswith(("wss:", "tls:")):
        context = links.trusting(authorities=authorities, certificate=certificate, fingerprint=fingerprint)
        return Server(url=url, ssl=context, proxy=proxy)
    return Server(url=url, proxy=proxy)


async def keep(where: Server, speak: Callable[[Link], Awaitable[str]], *, subject: str) -> None:
    """Dial and let `speak` have the link, again and again until cancelled. `speak` gives the reason of the end.

    A server that takes links and drops them at once is not asked faster and faster: only a session that lasted a while
    resets the patience.
    """
    loop = asyncio.get_running_loop()
    attempt = 0
    while True:
        started = loop.time()
        retry_after: timedelta | None = None
        level = logging.INFO
        try:
            link = await links.connect(where.url, ssl=where.ssl, proxy=where.proxy)
            reason = await speak(link)
        except (Unreachable, Unwelcome) as exc:
            reason, retry_after = exc.message, exc.retry_after
            level = logging.WARNING if isinstance(exc, Unwelcome) else level
        except PaddockError as exc:
            reason = exc.message
        attempt = 0 if loop.time() - started >= STEADY.total_seconds() else attempt + 1
        delay = where.backoff.delay(max(attempt - 1, 0), chance=random.random(), retry_after=retry_after)
        text = "not welcome" if level == logging.WARNING else "link is over"
        again_in = round(delay.total_seconds(), 1)
        _log.log(level, text, extra={"subject": subject, "why": reason, "again_in": again_in})
        await asyncio.sleep(delay.total_seconds())
