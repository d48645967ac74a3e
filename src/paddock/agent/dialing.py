"""Keeps a link to the server: dials, lets somebody speak, and dials again, for ever.

Effects: none.
"""

import asyncio
import logging
import random
import ssl as tls
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from paddock.agent.rounds import Rounds
from paddock.agent.settings import WrongUse
from paddock.core.errors import Broken, PaddockError, Refused
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


class Watch(Protocol):
    """Is told how the rounds go. Real: standing.Register, channel.Channel."""

    def dials(self, server: str) -> None:
        """A round begins, with this server."""

    def apart(self, why: str) -> None:
        """A round is over: no link, for this reason."""


class Again(Broken):
    """A good session was ended by this side, which has something to say first on the next one: no pause is due."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the server is, by one URL or several, and what is trusted there; the context is made once for all links.

    Several URLs are several ways to the same agents' server, or its stand-ins: one identity is good at all of them.
    """

    urls: tuple[str, ...]
    ssl: tls.SSLContext | None = None
    proxy: str | None = None
    """As in links.connect."""
    authorities: Path | None = None
    """What a proxy that speaks TLS is checked against; the system's authorities if None."""
    limit: timedelta = links.CONNECT_LIMIT
    backoff: Backoff = field(default_factory=Backoff)


def server(
    urls: Sequence[str],
    *,
    authorities: Path | None,
    certificate: Path | None,
    fingerprint: str = "",
    proxy: str | None = None,
    insecure: bool = False,
    limit: timedelta = links.CONNECT_LIMIT,
    backoff: Backoff | None = None,
    option: str = "--server",
) -> Server:
    """The server of some URLs. Refused for files that hold no certificates, WrongUse for a URL that is never dialled.

    That is one of an unknown kind, and one that would carry a token in clear, unless that is wanted (`insecure`). The
    `option` named there is where the URL is from.
    """
    if not urls:
        raise WrongUse("--server: no URL", hint="wss://HOST/agent")
    for url in urls:
        _check(url, option=option, proxy=proxy or "", insecure=insecure)
    is_secret = any(url.startswith(("wss:", "tls:")) for url in urls)
    return Server(
        urls=tuple(dict.fromkeys(urls)),
        ssl=links.trusting(authorities=authorities, certificate=certificate, fingerprint=fingerprint)
        if is_secret
        else None,
        proxy=proxy,
        authorities=authorities,
        limit=limit,
        backoff=backoff or Backoff(),
    )


def _check(url: str, *, option: str, proxy: str, insecure: bool) -> None:
    try:
        links.check(url)
    except Refused as exc:
        raise WrongUse(f"{option} {exc.message}", hint=exc.hint) from exc
    if links.is_clear(url) and not insecure:
        place = urlsplit(url).netloc.rpartition("@")[2]
        raise WrongUse(
            f"--server ws://{place}: code and token would go there in clear",
            hint=f"wss://{place}/agent, or --insecure where nobody else is on the way",
        )
    if proxy and not proxy.startswith(_PROXIES):
        raise WrongUse("--proxy: not a proxy's URL", hint=f"one of {', '.join(_PROXIES)}")


async def keep(
    where: Server, speak: Callable[[Link], Awaitable[str]], *, subject: str, register: Watch | None = None
) -> None:
    """Dial and let `speak` have the link, again and again until cancelled. `speak` gives the reason of the end.

    A server that takes links and drops them at once is not asked faster and faster: only a session that lasted a while
    resets the patience. Each reason is told once, until there is another one or a session that lasted. Raises
    Hopeless if that is what `speak` raises; whatever else goes wrong may heal, and is tried again. The `register` is
    told whom it dials, and why it is without a link.
    """
    loop = asyncio.get_running_loop()
    rounds = Rounds(servers=len(where.urls), backoff=where.backoff)
    told = ""
    while True:
        started = loop.time()
        url = where.urls[rounds.turn]
        retry_after: timedelta | None = None
        hint = ""
        level = logging.INFO
        is_again = False
        if register is not None:
            register.dials(url)
        try:
            reason = await speak(await _dial(where, url))
        except (Unreachable, Unwelcome) as exc:
            reason, retry_after, hint = exc.message, exc.retry_after, exc.hint
            level = logging.WARNING if isinstance(exc, Unwelcome) else level
        except Hopeless:
            raise
        except Again as exc:
            reason, is_again = exc.message, True
        except PaddockError as exc:
            reason, hint = exc.message, exc.hint
        if register is not None:
            register.apart(reason)
        lasted = loop.time() - started
        is_good = is_again or lasted >= STEADY.total_seconds()
        pause = rounds.pause(good=is_good, now=loop.time(), chance=random.random(), retry_after=retry_after)
        if is_again:
            pause = max(where.backoff.least.total_seconds() - lasted, 0)
        if is_good:
            told = ""
        text = "not welcome" if level == logging.WARNING else "link is over"
        about = {"subject": subject, "why": reason, "again_in": round(pause, 1)} | ({"hint": hint} if hint else {})
        _log.log(level if reason != told else logging.DEBUG, text, extra=about)
        told = reason
        await asyncio.sleep(pause)


async def _dial(where: Server, url: str) -> Link:
    return await links.connect(
        url, deadline=where.limit, ssl=where.ssl, proxy=where.proxy, proxy_authorities=where.authorities
    )
