"""What strangers get of the server's sockets: some bytes, some seconds, and then the end.

uvicorn speaks HTTP and WebSocket; these are its two protocols with the limits that it leaves to a proxy in front.
Effects: none
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from paddock.wire.framing import FIRST_CONTACT, TRANSPORT_LIMIT

HEAD_LIMIT = 64 << 10
"""Bytes of a request up to the end of its headers."""
HEAD_WITHIN = 10.0
"""Seconds from the connection, or from a request's first byte, to the end of its headers."""
BODY_WITHIN = 60.0
"""Seconds from there to the end of its body."""
FRAGMENTS = 4096
"""Frames that one message may come in: empty ones cost the sender nothing and us a place in a list."""
CLOSE_WITHIN = 3.0
"""Seconds that a WebSocket's other side gets to answer our close."""
UNREAD_FOR = 60.0
"""Seconds that bytes of ours may wait for a side that does not read; then the kernel ends the connection."""
WIDEN = "paddock.widen"
"""In a WebSocket's scope, under `extensions`: called once its hello was accepted, it lifts the limit of strangers."""

_STRANGERS_LIMIT = 2 * FIRST_CONTACT.size
# Over the limit of the session itself, so that the refusal can be said in words.


def bound(sock: socket.socket) -> None:
    """Give a listening socket the limit that the connections accepted on it inherit."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_FOR * 1000))


class Requests(HttpToolsProtocol):
    """HTTP in which a request has to arrive within its time, its headers within their size."""

    _deadline: asyncio.TimerHandle | None = None
    _is_in_head = True
    _head = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(HEAD_WITHIN)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_head:
            # Of what came before: this piece may hold the end of the headers and half of a body.
            if self._head > HEAD_LIMIT:
                self.send_400_response(f"The headers are over {HEAD_LIMIT} bytes.")
                return
            self._head += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect(HEAD_WITHIN)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._is_in_head = False
        self._expect(BODY_WITHIN)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_head, self._head = True, 0
        self._expect(None)

    def handle_websocket_upgrade(self) -> None:
        self._expect(None)
        super().handle_websocket_upgrade()

    def _expect(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._cut)

    def _cut(self) -> None:
        """Without a word: whoever does not finish a request in time does not wait for an answer."""
        if not self.transport.is_closing():
            self.transport.abort()


class Frames(WebSocketsSansIOProtocol):
    """WebSockets in which a stranger's messages are small, a message has few fragments, and pongs wait for readers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.max_message_size = _STRANGERS_LIMIT
        self.close_timeout = CLOSE_WITHIN

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if not self.writable.is_set():
            # A polite close would wait for a side that does not read.
            self.transport.abort()

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            widen: Callable[[], None] = self._widen
            scope["extensions"][WIDEN] = widen

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= FRAGMENTS:
            self.conn.fail(1008, f"a message in more than {FRAGMENTS} frames")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            # Whoever does not read gets no pongs heaped up for later.
            self.conn.data_to_send()

    def _widen(self) -> None:
        self.conn.max_message_size = TRANSPORT_LIMIT
