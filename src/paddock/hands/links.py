"""Links by URL: frames or lines, dialled; what else belongs to links lies beside.

Effects: none.
"""

import asyncio
import ssl as tls
from datetime import timedelta
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from paddock.core.errors import Refused
from paddock.hands import deferring
from paddock.hands.lines import LineLink, dial_tcp, dial_unix, serve_lines, stdio
from paddock.hands.link import Closed, Link, Unreachable, is_loopback
from paddock.hands.relay import relay
from paddock.hands.trust import trusting

__all__ = [
    "Closed",
    "LineLink",
    "Link",
    "Unreachable",
    "check",
    "connect",
    "is_clear",
    "relay",
    "serve_lines",
    "stdio",
    "trusting",
]

CONNECT_LIMIT = timedelta(seconds=15)

_FILES = ("unix", "serial")
_NEIGHBOURS = {"http": "ws", "https": "wss"}


async def connect(
    url: str,
    *,
    deadline: timedelta = CONNECT_LIMIT,
    ssl: tls.SSLContext | None = None,
    proxy: str | None = None,
    proxy_authorities: Path | None = None,
) -> Link:
    """Dial `ws://`, `wss://`, `tcp://HOST:PORT`, `tls://HOST:PORT`, `unix:PATH` or `serial:PATH`, within `deadline`.

    Two thirds of that are for a TLS handshake. `serial` is a socket at which a serial line ends, like a machine's
    channel at its hypervisor: the link begins its session. `ssl` is what `wss` and `tls` trust, the system's
    authorities if absent. `proxy` is the URL of the HTTP or SOCKS proxy for WebSockets: what the environment says if
    None, none if empty; `proxy_authorities` is what one that speaks TLS is checked against. Raises Unreachable, which
    another attempt may mend, or Refused for a URL that never works.
    """
    parts = _parse(url)
    _check(parts)
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            match parts.scheme:
                case "ws" | "wss":
                    # A machine's agent, which speaks lines alone, stays small; who speaks frames, as small as can be.
                    deferring.defer(*deferring.HEAVY)
                    from paddock.hands import websocket

                    return await websocket.dial(
                        url,
                        shown=_shown(parts),
                        ssl=(ssl or trusting()) if parts.scheme == "wss" else None,
                        proxy=proxy,
                        proxy_authorities=proxy_authorities,
                        handshake=deadline * 2 / 3,
                    )
                case _:
                    return await _dial_lines(parts, ssl, deadline * 2 / 3)
    except TimeoutError as exc:
        raise Unreachable(f"{_shown(parts)}: no answer within {deadline.total_seconds():g} s") from exc
    except OSError as exc:
        raise Unreachable(f"{_shown(parts)}: {exc}") from exc


async def _dial_lines(parts: SplitResult, ssl: tls.SSLContext | None, handshake: timedelta) -> Link:
    match parts.scheme:
        case "unix":
            return await dial_unix(Path(parts.path))
        case "serial":
            link = await dial_unix(Path(parts.path), serial=True)
            await link.begin()
            return link
        case "tcp" | "tls":
            host, port = _host_and_port(parts)
            context = (ssl or trusting()) if parts.scheme == "tls" else None
            return await dial_tcp(host, port, ssl=context, handshake=handshake)
    raise AssertionError(f"{parts.scheme}: was checked")


def check(url: str) -> None:
    """Refuse a URL that `connect` could never dial, without dialling it."""
    _check(_parse(url))


def is_clear(url: str) -> bool:
    """Whether others on the way could read what is said there: no TLS, and not this machine alone."""
    parts = _parse(url)
    return parts.scheme in ("ws", "http", "tcp") and not is_loopback(parts.hostname or "")


def _check(parts: SplitResult) -> None:
    match parts.scheme:
        case "ws" | "wss":
            if not _is_placed(parts):
                raise Refused(f"{_shown(parts)}: not a WebSocket URL", hint=f"{parts.scheme}://HOST/agent")
        case "tcp" | "tls":
            host, _ = _host_and_port(parts)
            if parts.scheme == "tcp" and not is_loopback(host):
                raise Refused(f"{_shown(parts)}: tcp without TLS is for loopback only", hint="use tls:// or wss://")
        case "unix" | "serial":
            if not parts.path:
                raise Refused(f"{parts.scheme}: needs a path", hint=f"{parts.scheme}:/run/agent.socket")
        case other:
            raise Refused(
                f"{_shown(parts) if other else 'link'}: not one of ws, wss, tcp, tls, unix",
                hint=f"{_NEIGHBOURS.get(other, 'wss')}://{parts.netloc.rpartition('@')[2] or 'HOST'}/agent",
            )


def _is_placed(parts: SplitResult) -> bool:
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _parse(url: str) -> SplitResult:
    scheme, colon, place = url.partition(":")
    if colon and scheme in _FILES:
        # A file name is no URL: `?` and `#` stand for themselves.
        return SplitResult(scheme, "", place, "", "")
    try:
        return urlsplit(url)
    except ValueError as exc:
        raise Refused(f"link: {exc}") from exc


def _host_and_port(parts: SplitResult) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise Refused(f"{_shown(parts)}: {exc}") from exc
    if not host or not port:
        raise Refused(f"{_shown(parts)}: needs host and port", hint=f"{parts.scheme}://HOST:PORT")
    return host, port


def _shown(parts: SplitResult) -> str:
    # Never the query or a password: a URL ends up in logs.
    place = parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}:{place}" if parts.scheme in _FILES else f"{parts.scheme}://{place}"
