"""Links of WebSocket frames, dialled directly or through a proxy.

Effects: none.
"""

import os
import ssl as tls
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
)

from paddock.core.errors import Refused
from paddock.hands.link import CLOSE_LIMIT, Closed, Unreachable, is_loopback
from paddock.hands.trust import trusting
from paddock.wire.framing import TRANSPORT_LIMIT, Malformed

_VARIABLES = {"ws": ("ws", "http", "all"), "wss": ("wss", "https", "all")}
"""Of which proxy variables (`http_proxy` and so on) the first that is set counts."""


class WebSocketLink:
    """A message is a text frame. A binary frame ends the link."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        """See Link."""
        try:
            await self._connection.send(text)
        except ConnectionClosed as exc:
            raise Closed(f"websocket: {exc}") from exc
        except UnicodeEncodeError as exc:
            raise Malformed("message", "invalid UTF-8") from exc

    async def receive(self) -> str:
        """See Link."""
        try:
            message = await self._connection.recv()
        except ConnectionClosed as exc:
            raise Closed(f"websocket: {exc}") from exc
        if isinstance(message, str):
            return message
        await self._close(1003, "messages are text frames")
        raise Closed("websocket: the other side sent a binary frame")

    async def close(self, reason: str) -> None:
        """See Link."""
        await self._close(1000, reason)

    async def _close(self, code: int, reason: str) -> None:
        # A control frame holds 125 bytes, two of them the code.
        short = reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
        await self._connection.close(code, short)


class _Straight(connect):
    """Follows no redirection: the first words are for the server that was named, and for nobody it points at."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(
    url: str,
    *,
    shown: str,
    ssl: tls.SSLContext | None,
    proxy: str | None,
    proxy_authorities: Path | None = None,
    handshake: timedelta = timedelta(seconds=10),
) -> WebSocketLink:
    """A link to a WebSocket server. `proxy` as in links.connect; `shown` names the server in what is raised.

    `handshake` is for TLS, with the server and with a proxy that speaks it. Unreachable, or Refused for a URL or proxy
    that never works. TimeoutError and OSError are left to the caller.
    """
    through = proxy_for(urlsplit(url)) if proxy is None else proxy or None
    way = f"{shown} through proxy {_bare(through)}" if through else shown
    secure: dict[str, Any] = {"ssl": ssl, "ssl_handshake_timeout": handshake.total_seconds()} if ssl else {}
    if through and through.startswith("https:"):
        secure |= {
            "proxy_ssl": trusting(authorities=proxy_authorities),
            "proxy_ssl_handshake_timeout": handshake.total_seconds(),
        }
    try:
        return WebSocketLink(
            await _Straight(
                url,
                **secure,
                compression=None,
                max_size=TRANSPORT_LIMIT,
                # The protocol pings itself, through proxies and relays as well.
                ping_interval=None,
                open_timeout=None,
                close_timeout=CLOSE_LIMIT.total_seconds(),
                max_queue=4,
                proxy=through,
                user_agent_header="paddock",
            )
        )
    except InvalidStatus as exc:
        raise Unreachable(
            f"{shown}: answered HTTP {exc.response.status_code}",
            retry_after=_retry_after(exc.response.headers.get("Retry-After")),
        ) from exc
    except InvalidProxyStatus as exc:
        raise Unreachable(f"{way}: the proxy answered HTTP {exc.response.status_code}") from exc
    except InvalidProxy as exc:
        raise Refused(f"{way}: not a proxy's URL", hint="use http://, https://, socks5:// or socks5h://") from exc
    except InvalidURI as exc:
        raise Refused(f"{shown}: not a WebSocket URL") from exc
    except ImportError as exc:
        raise Refused(f"{way}: {exc}") from exc
    except (InvalidHandshake, EOFError) as exc:
        raise Unreachable(f"{way}: {exc}") from exc


def proxy_for(parts: SplitResult) -> str | None:
    """The proxy that the environment names for a WebSocket URL; loopback never goes through one.

    `http_proxy` for ws, `https_proxy` for wss, else `all_proxy`; `no_proxy` lists the hosts that are dialled directly.
    """
    host = parts.hostname or ""
    if is_loopback(host) or _is_excepted(host, parts.port):
        return None
    found = next((proxy for name in _VARIABLES[parts.scheme] if (proxy := _variable(f"{name}_proxy"))), None)
    return found if found is None or "://" in found else f"http://{found}"


def _variable(name: str) -> str:
    # In small letters where both are set, as everybody does it.
    return (os.environ.get(name) or os.environ.get(name.upper()) or "").strip()


def _is_excepted(host: str, port: int | None) -> bool:
    entries = [entry.strip().lower().lstrip(".") for entry in _variable("no_proxy").split(",")]
    names = (host, f"{host}:{port}")
    return "*" in entries or any(
        name == entry or name.endswith(f".{entry}") for entry in entries if entry for name in names
    )


def _bare(proxy: str) -> str:
    # Never a password: it ends up in logs.
    scheme, _, place = proxy.partition("://")
    return f"{scheme}://{place.rpartition('@')[2]}"


def _retry_after(value: str | None) -> timedelta | None:
    # The other form of the header is a date by the server's clock, which we do not trust.
    return timedelta(seconds=min(int(value), 3600)) if value and value.isascii() and value.isdigit() else None
