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
from urllib.parse import urlsplit

from paddock.agent.settings import WrongUse
from paddock.core.errors import PaddockError, Refused
from paddock.hands import links
from paddock.hands.links import Link, Unreachable
from paddock.wire.backoff import Backoff
from paddock.wire.messages import Code

_log = logging.getLogger(__name__)

_PROXIES = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")

STEADY = timedelta(seconds=5)
"""A session that lasted so long was a good one: the next attempt is a first one again."""


class Unwelcome(Refused):
    """The server does not want this agent, or not now. `retry_after` is when it may ask again, if that was said.

    `code` is the server's word for why; None if it gave none.
    """

    def __init__(
        self, message: str, *, hint: str = "", retry_after: timedelta | None = None, code: Code | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.code = code


class Hopeless(Refused):
    """No later attempt will do better: somebody has to change something, and start the agent again."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the server is and what is trusted there; the context is made once for all links."""

    url: str
    ssl: tls.SSLContext | None = None
    proxy: str | None = None
    """As in links.connect."""
    backoff: Backoff = field(default_factory=Backoff)


def server(
    url: str,
    *,
    authorities: Path | None,
    certificate: Path | None,
    fingerprint: str = "",
    proxy: str | None = None,
    insecure: bool = False,
) -> Server:
    """The server of a URL. Refused for files that hold no certificates, WrongUse for a URL that is never dialled.

    That is one of an unknown kind, and one that would carry a token in clear, unless that is wanted (`insecure`).
    """
    _check(url, proxy=proxy or "", insecure=insecure)
    if url.startswith(("wss:", "tls:")):
        context = links.trusting(authorities=authorities, certificate=certificate, fingerprint=fingerprint)
        return Server(url=url, ssl=context, proxy=proxy)
    return Server(url=url, proxy=proxy)


def _check(url: str, *, proxy: str, insecure: bool) -> None:
    try:
        links.check(url)
    except Refused as exc:
        raise WrongUse(f"--server {exc.message}", hint=exc.hint) from exc
    if links.is_clear(url) and not insecure:
        place = urlsplit(url).netloc.rpartition("@")[2]
        raise WrongUse(
            f"--server ws://{place}: code and token would go there in clear",
            hint=f"wss://{place}/agent, or --insecure where nobody else is on the way",
        )
    if proxy and not proxy.startswith(_PROXIES):
        raise WrongUse("--proxy: not a proxy's URL", hint=f"one of {', '.join(_PROXIES)}")


async def keep(where: Server, speak: Callable[[Link], Awaitable[str]], *, subject: str) -> None:
    """Dial and let `speak` have the link, again and again until cancelled. `speak` gives the reason of the end.

    A server that takes links and drops them at once is not asked faster and faster: only a session that lasted a while
    resets the patience. Each reason is told once, until there is another one or a session that lasted. Raises
    Hopeless if that is what `speak` raises; whatever else goes wrong may heal, and is tried again.
    """
    loop = asyncio.get_running_loop()
    attempt = 0
    told = ""
    while True:
        started = loop.time()
        retry_after: timedelta | None = None
        hint = ""
        level = logging.INFO
        try:
            link = await links.connect(where.url, ssl=where.ssl, proxy=where.proxy)
            reason = await speak(link)
        except (Unreachable, Unwelcome) as exc:
            reason, retry_after, hint = exc.message, exc.retry_after, exc.hint
            level = logging.WARNING if isinstance(exc, Unwelcome) else level
        except Hopeless:
            raise
        except PaddockError as exc:
            reason, hint = exc.message, exc.hint
        attempt += 1
        if loop.time() - started >= STEADY.total_seconds():
            attempt, told = 0, ""
        delay = where.backoff.delay(max(attempt - 1, 0), chance=random.random(), retry_after=retry_after)
        text = "not welcome" if level == logging.WARNING else "link is over"
        again_in = round(delay.total_seconds(), 1)
        about = {"subject": subject, "why": reason, "again_in": again_in} | ({"hint": hint} if hint else {})
        _log.log(level if reason != told else logging.DEBUG, text, extra=about)
        told = reason
        await asyncio.sleep(delay.total_seconds())
