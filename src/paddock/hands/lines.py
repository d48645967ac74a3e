"""Links of lines: dialled over a unix socket or TCP, or served on a unix socket.

Effects: none.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import ssl as tls
import stat
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands.link import CLOSE_LIMIT, Closed
from paddock.wire.framing import SESSION_OPENING, TRANSPORT_LIMIT, Lines, Malformed

BEGAN_ANEW = "line: the other side began a new session"

_CHUNK = 256 << 10
_LOOKS_EVERY = 0.005
_SIOCOUTQ = 0x5411
_LONGEST_SOCKET_PATH = 107
"""Bytes that sockaddr_un holds beside its NUL."""


class LineLink:
    r"""A message is a line ended by `\n`.

    On a serial line (`serial=True`) begin() opens a session, or it is `joined` in the middle of one; once messages
    came, another opening by the other side raises Closed, and receiving goes on with the new session.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        limit: int = TRANSPORT_LIMIT,
        serial: bool = False,
        joined: bool = False,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._lines = Lines(limit=limit, serial=serial, joined=joined)
        self._ready: deque[bytes] = deque()
        self._is_heard = False
        self._is_closed = False

    async def begin(self) -> None:
        """Open a session on a serial line: whatever the other side has half read is thrown away there."""
        await self._write(SESSION_OPENING.encode())

    async def send(self, text: str) -> None:
        """See Link."""
        await self._write(line_of(text))

    async def receive(self) -> str:
        """See Link. A line over the limit raises Malformed."""
        while True:
            while not self._ready:
                await self._read()
            line = self._ready.popleft()
            if line:
                self._is_heard = True
                return line.decode("utf-8", "surrogateescape")
            if self._is_heard:
                self._is_heard = False
                raise Closed(BEGAN_ANEW)
            # Openings with nothing between them are one: both sides may say it, and say it again.

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

    def detach(self) -> int:
        """A descriptor of this end that stays when the link is closed; -1 where it is the process's stdio."""
        connection = self._writer.get_extra_info("socket")
        return -1 if connection is None else os.dup(connection.fileno())

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


def line_of(text: str) -> bytes:
    """A message as it stands on a line. Malformed for what no line can hold."""
    try:
        line = text.encode()
    except UnicodeEncodeError as exc:
        raise Malformed("message", "invalid UTF-8") from exc
    if b"\n" in line:
        raise Malformed("message", "a raw newline")
    return line + b"\n"


async def dial_unix(path: Path, *, serial: bool = False, joined: bool = False) -> LineLink:
    """A link to whoever serves the socket; `joined`: in the middle of a session. OSError if nobody serves it."""
    with reachable(path) as address:
        reader, writer = await asyncio.open_unix_connection(address, limit=_CHUNK)
    return LineLink(reader, writer, serial=serial, joined=joined)


async def adopt(handle: int) -> LineLink:
    """A link on a connected socket that somebody else had before."""
    connection = socket.socket(fileno=handle)
    connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_CHUNK)
    return LineLink(reader, writer)


async def put(path: Path, data: bytes) -> None:
    """Write bytes to whoever serves the socket, and leave once they were read. OSError if nobody does.

    Who serves a machine's console forgets what it has not read of somebody who is gone.
    """
    with reachable(path) as address:
        _, writer = await asyncio.open_unix_connection(address, limit=_CHUNK)
    try:
        writer.write(data)
        await writer.drain()
        while _unread(writer.get_extra_info("socket").fileno()):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(_LOOKS_EVERY)
    finally:
        writer.close()


def _unread(handle: int) -> int:
    """Bytes, and what the kernel adds, that the other end of a unix socket has not read (unix(7), SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(handle, _SIOCOUTQ, bytes(4)))[0])


async def dial_tcp(host: str, port: int, *, ssl: tls.SSLContext | None, handshake: timedelta) -> LineLink:
    """A link to a host's port, with TLS if `ssl` is given. OSError if it does not come about."""
    secure: dict[str, Any] = {"ssl": ssl, "ssl_handshake_timeout": handshake.total_seconds()} if ssl else {}
    reader, writer = await asyncio.open_connection(host, port, limit=_CHUNK, **secure)
    return LineLink(reader, writer)


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


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
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
        with reachable(path) as address:
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


async def stdio() -> LineLink:
    """A link to whoever started this process: messages in on descriptor 0, out on descriptor 1."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_CHUNK)
    coming = asyncio.StreamReaderProtocol(reader)
    # Copies: closing the link must not free 0 and 1 for whatever is opened next.
    await loop.connect_read_pipe(lambda: coming, os.fdopen(os.dup(0), "rb", buffering=0))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(os.dup(1), "wb", buffering=0)
    )
    return LineLink(reader, asyncio.StreamWriter(transport, protocol, None, loop))
