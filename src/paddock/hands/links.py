"""Links carry messages as text: WebSocket frames or lines, dialled, served, relayed.

Effects: none. A link keeps nothing: what was not acknowledged by a message is sent again on the next link.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl as tls
import stat
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from paddock.core.errors import Broken, PaddockError, Refused
from paddock.wire.framing import SESSION_OPENING, TRANSPORT_LIMIT, Lines, Malformed

CLOSE_LIMIT = timedelta(seconds=5)
"""How long a close waits for the other side before the connection is cut."""
CONNECT_LIMIT = timedelta(seconds=15)
_CHUNK = 256 << 10
_LONGEST_SOCKET_PATH = 107
"""Bytes that sockaddr_un holds beside its NUL."""


class Closed(Broken):
    """The link is over, from this side or the other."""


class Unreachable(Broken):
    """No link came about. `retry_after` is what the server asked for, if it did."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Link(Protocol):
    """Carries messages both ways, in order. One task receives; any number send. Here: WebSocketLink, LineLink."""

    async def send(self, text: str) -> None:
        """Put one message on the way; waits while the other side does not read. Raises Closed."""

    async def receive(self) -> str:
        """The next message. Raises Closed at the end. Bytes that are no UTF-8 come as surrogates: wire refuses them."""

    async def close(self, reason: str) -> None:
        """End it. Idempotent; waits a few seconds at most; never raises."""


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


class LineLink:
    r"""A message is a line ended by `\n`.

    On a serial line (`serial=True`) begin() opens a session; another opening by the other side raises Closed once, and
    receiving goes on with the new session.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        limit: int = TRANSPORT_LIMIT,
        serial: bool = False,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._lines = Lines(limit=limit, serial=serial)
        self._ready: deque[bytes] = deque()
        self._is_begun = not serial
        self._is_closed = False

    async def begin(self) -> None:
        """Open a session on a serial line: whatever the other side has half read is thrown away there."""
        await self._write(SESSION_OPENING.encode())

    async def send(self, text: str) -> None:
        """See Link."""
        try:
            line = text.encode()
        except UnicodeEncodeError as exc:
            raise Malformed("message", "invalid UTF-8") from exc
        if b"\n" in line:
            raise Malformed("message", "a raw newline")
        await self._write(line + b"\n")

    async def receive(self) -> str:
        """See Link. A line over the limit raises Malformed."""
        while True:
            while not self._ready:
                await self._read()
            line = self._ready.popleft()
            if line:
                return line.decode("utf-8", "surrogateescape")
            if self._is_begun:
                raise Closed("line: the other side began a new session")
            self._is_begun = True

    async def close(self, reason: str) -> None:
        """See Link. Lines have no place for the reason."""
        if self._is_closed:
            return
        self._is_closed = True
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_LIMIT.total_seconds()):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            # The other side does not read what is left: cut.
            self._writer.transport.abort()

    async def _read(self) -> None:
        self._ready.extend(self._lines.feed(b""))
        if self._is_closed:
            raise Closed("line: closed by this side")
        try:
            data = await self._reader.read(_CHUNK)
        except OSError as exc:
            raise Closed(f"line: {exc}") from exc
        if not data:
            raise Closed("line: the other side closed it")
        self._ready.extend(self._lines.feed(data))

    async def _write(self, data: bytes) -> None:
        if self._is_closed:
            raise Closed("line: closed by this side")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as exc:
            raise Closed(f"line: {exc}") from exc


def trusting(*, authorities: Path | None = None, certificate: Path | None = None) -> tls.SSLContext:
    """A TLS context that verifies certificate and host name.

    Against the system's authorities, a file of authorities, or one pinned certificate (nothing else is then trusted).
    """
    given = authorities or certificate
    try:
        context = tls.create_default_context(cafile=given)
    except (OSError, tls.SSLError) as exc:
        raise Refused(f"{given}: {exc}") from exc
    context.minimum_version = tls.TLSVersion.TLSv1_2
    if certificate is not None:
        # The certificate itself is the anchor, though it signed nothing.
        context.verify_flags |= tls.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    return context


async def connect(url: str, *, deadline: timedelta = CONNECT_LIMIT, ssl: tls.SSLContext | None = None) -> Link:
    """Dial `ws://`, `wss://`, `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:PATH`, within `deadline` from now.

    `ssl` is what `wss` and `tls` trust, the system's authorities if absent. Raises Unreachable, which another attempt
    may mend, or Refused for a URL that never works.
    """
    parts = _parse(url)
    try:
        async with asyncio.timeout(deadline.total_seconds()):
            return await _dial(url, parts, ssl)
    except TimeoutError as exc:
        raise Unreachable(f"{_shown(parts)}: no answer within {deadline.total_seconds():g} s") from exc
    except InvalidStatus as exc:
        response = exc.response
        raise Unreachable(
            f"{_shown(parts)}: answered HTTP {response.status_code}",
            retry_after=_retry_after(response.headers.get("Retry-After")),
        ) from exc
    except InvalidURI as exc:
        raise Refused(f"{_shown(parts)}: not a WebSocket URL") from exc
    except (OSError, InvalidHandshake, EOFError) as exc:
        raise Unreachable(f"{_shown(parts)}: {exc}") from exc


@contextlib.asynccontextmanager
async def serve_lines(path: Path, on_link: Callable[[LineLink], Awaitable[None]]) -> AsyncIterator[None]:
    """Serve lines on a unix socket (mode 0600) while the block runs; each link is closed when its `on_link` returns.

    A socket left behind by a dead process is replaced, one that answers is Refused. At the end of the block the links
    are cancelled and the socket is removed.
    """
    listener = _listen(path)
    try:
        async with asyncio.TaskGroup() as serving:
            accepting = serving.create_task(_accept(listener, on_link))
            try:
                yield
            finally:
                accepting.cancel()
    except BaseExceptionGroup as group:
        # The caller sees no task group here: what its block raised comes out of the block as it was.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        listener.close()
        _remove(path)


async def relay(a: Link, b: Link) -> None:
    """Copy messages both ways and parse nothing, until either end is over; then both are closed.

    One message at a time is in hand each way, so a side that does not read makes the other wait.
    """
    reason = "relay: stopped"
    try:
        async with asyncio.TaskGroup() as copiers:
            both = [copiers.create_task(_copy(a, b)), copiers.create_task(_copy(b, a))]
            # Waits for: either direction to end. The other one is then cancelled: a half relay carries no session.
            done, pending = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for copier in pending:
                copier.cancel()
        reason = "; ".join(sorted(copier.result() for copier in done))
    finally:
        await a.close(reason)
        await b.close(reason)


async def _copy(source: Link, sink: Link) -> str:
    try:
        while True:
            await sink.send(await source.receive())
    except (Closed, Malformed) as exc:
        return str(exc)


async def _dial(url: str, parts: SplitResult, ssl: tls.SSLContext | None) -> Link:
    match parts.scheme:
        case "ws" | "wss":
            connection = await dial(
                url,
                ssl=(ssl or trusting()) if parts.scheme == "wss" else None,
                compression=None,
                max_size=TRANSPORT_LIMIT,
                # The protocol pings itself, through proxies and relays as well.
                ping_interval=None,
                open_timeout=None,
                close_timeout=CLOSE_LIMIT.total_seconds(),
                max_queue=4,
                proxy=None,
                user_agent_header="paddock",
            )
            return WebSocketLink(connection)
        case "unix":
            with _reachable(Path(parts.path)) as address:
                reader, writer = await asyncio.open_unix_connection(address, limit=_CHUNK)
            return LineLink(reader, writer)
        case "tcp" | "tls":
            host, port = _host_and_port(parts)
            if parts.scheme == "tcp" and not _is_loopback(host):
                raise Refused(f"{_shown(parts)}: tcp without TLS is for loopback only", hint="use tls:// or wss://")
            context = (ssl or trusting()) if parts.scheme == "tls" else None
            reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=_CHUNK)
            return LineLink(reader, writer)
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


def _retry_after(value: str | None) -> timedelta | None:
    # The other form of the header is a date by the server's clock, which we do not trust.
    return timedelta(seconds=min(int(value), 3600)) if value and value.isascii() and value.isdigit() else None


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """An address for the socket's path, whatever its length: a long one is reached through its open directory."""
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        yield os.fspath(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        address = f"/proc/self/fd/{directory}/{path.name}"
        if len(os.fsencode(address)) > _LONGEST_SOCKET_PATH:
            raise Refused(f"{path}: the file name is too long for a socket")
        yield address
    finally:
        os.close(directory)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # Before the bind: on Linux the file gets the descriptor's mode, so that it never stands open to others.
        os.fchmod(listener.fileno(), 0o600)
        with _reachable(path) as address:
            _remove_dead(path, address)
            listener.bind(address)
        listener.listen(128)
    except OSError as exc:
        listener.close()
        raise Broken(f"{path}: {exc}") from exc
    except PaddockError:
        listener.close()
        raise
    return listener


def _remove_dead(path: Path, address: str) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Refused(f"{path}: is there and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
        try:
            caller.connect(address)
        except ConnectionRefusedError:
            _remove(path)
            return
        except BlockingIOError:
            # Its queue is full: it lives.
            pass
    raise Refused(f"{path}: somebody else serves it")


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


async def _accept(listener: socket.socket, on_link: Callable[[LineLink], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as served:
        while True:
            connection, _ = await loop.sock_accept(listener)
            served.create_task(_serve(connection, on_link))


async def _serve(connection: socket.socket, on_link: Callable[[LineLink], Awaitable[None]]) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_CHUNK)
    link = LineLink(reader, writer)
    try:
        await on_link(link)
    except (Closed, Malformed):
        # The one link is over; what it means is its owner's business, the others go on.
        pass
    finally:
        await link.close("served")
