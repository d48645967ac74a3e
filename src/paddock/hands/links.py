"""Links by URL: frames or lines, dialled; what else belongs to links lies beside.

Effects: none.
"""

import asyncio
import ipaddress
import ssl as tls
from datetime import timedelta
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from paddock.core.errors import Refused
from paddock.hands.lines import LineLink, dial_tcp, dial_unix, serve_lines
from paddock.hands.link import Closed, Link, Unreachable
from paddock.hands.relay import relay
from paddock.hands.trust import trusting

__all__ = ["Closed", "LineLink", "Link", "Unreachable", "connect", "relay", "serve_lines", "trusting"]

CONNECT_LIMIT = timedelta(seconds=15)


async def connect(
    url: str, *, deadline: timedelta = CONNECT_LIMIT, ssl: tls.SSLContext | None = None, proxy: str | None = None
) -> Link:
    """Dial `ws://`, `wss://`, `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:PATH`, within `deadline` from now.

    `ssl` is what `wss` and `tls` trust, the system's authorities if absent. `proxy` is the URL of the HTTP or SOCKS
    proxy for WebSockets: what the environment says if None, none if empty. Raises Unreachable, which another attempt
    may mend, or Refused for a URL that never works.
    """
    parts = _parse(url)
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            return await _dial(url, parts, ssl, proxy)
    except TimeoutError as exc:
        raise Unreachable(f"{_shown(parts)}: no answer within {deadline.total_seconds():g} s") from exc
    except OSError as exc:
        raise Unreachable(f"{_shown(parts)}: {exc}") from exc


async def _dial(url: str, parts: SplitResult, ssl: tls.SSLContext | None, proxy: str | None) -> Link:
    match parts.scheme:
        case "ws" | "wss":
            # A machine's agent, which speaks lines alone, stays small.
            from paddock.hands import websocket

            context = (ssl or trusting()) if parts.scheme == "wss" else None
            return await websocket.dial(url, shown=_shown(parts), ssl=context, proxy=proxy)
        case "unix":
            return await dial_unix(Path(parts.path))
        case "tcp" | "tls":
            host, port = _host_and_port(parts)
            if parts.scheme == "tcp" and not _is_loopback(host):
                raise Refused(f"{_shown(parts)}: tcp without TLS is for loopback only", hint="use tls:// or wss://")
            return await dial_tcp(host, port, ssl=(ssl or trusting()) if parts.scheme == "tls" else None)
    raise Refused(f"{_shown(parts)}: not one of ws, wss, tcp, tls, unix")


def _parse(url: str) -> SplitResult:
    if url.startswith("unix:"):
        # A file name is no URL: `?` and `#` stand for themselves.
        return SplitResult("unix", "", url.removeprefix("unix:"), "", "")
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
        raise Refused(f"{_shown(parts)}: needs host and port")
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(parts: SplitResult) -> str:
    # Never the query or a password: a URL ends up in logs.
    place = parts.netloc.rpartition("@")[2] + parts.path
    return f"{parts.scheme}:{place}" if parts.scheme == "unix" else f"{parts.scheme}://{place}"
