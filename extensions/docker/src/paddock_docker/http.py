"""HTTP over a unix socket: one request a connection, both bodies streamed, each wait with its limit.

Effects: none of its own.
"""

import asyncio
import socket as sockets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from paddock.core.errors import Broken

_PIECE = 64 << 10
_HEADERS = 200
CONNECT_LIMIT = timedelta(seconds=10)
ANSWER_LIMIT = timedelta(minutes=2)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request. `source` is a body of unknown length."""

    method: str
    target: str
    body: bytes = b""
    source: AsyncIterator[bytes] | None = None
    kind: str = "application/json"


class Line:
    """A connection. Not asyncio's streams: those forget what has arrived once they cannot send any more."""

    def __init__(self, connected: sockets.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    async def piece(self, most: int = _PIECE, *, silence: timedelta | None = None) -> bytes:
        """What has arrived; nothing at the end. Broken if nothing arrives for so long."""
        if not self._buffer:
            try:
                async with asyncio.timeout(silence.total_seconds() if silence is not None else None):
                    self._buffer = await self._loop.sock_recv(self._socket, _PIECE)
            except TimeoutError:
                seconds = silence.total_seconds() if silence is not None else 0
                raise Broken(f"Docker Engine: says nothing for {seconds:g} s") from None
        found, self._buffer = self._buffer[:most], self._buffer[most:]
        return found

    async def line(self, *, silence: timedelta | None = None) -> bytes:
        """Up to the end of a line. ValueError for one that is too long, EOFError at the end."""
        found = b""
        while b"\n" not in found:
            piece = await self.piece(silence=silence)
            found += piece
            if not piece:
                raise EOFError("it ended within a line")
            if len(found) > 2 * _PIECE:
                raise ValueError("a line does not end")
        line, _, rest = found.partition(b"\n")
        self._buffer = rest + self._buffer
        return line.rstrip(b"\r")


@dataclass(frozen=True, kw_only=True)
class Response:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]
    line: Line = field(repr=False)

    async def pieces(self, *, silence: timedelta | None = None) -> AsyncIterator[bytes]:
        """The body as it comes. Broken if nothing comes for so long, or if it is cut off."""
        is_chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        try:
            async for piece in self._chunks(silence) if is_chunked else self._rest(silence):
                yield piece
        except (OSError, EOFError, ValueError) as exc:
            raise Broken(f"Docker Engine: its answer was cut off: {exc}") from exc

    async def whole(self, *, most: int = 64 << 20, silence: timedelta = ANSWER_LIMIT) -> bytes:
        """The body. Broken if it has more bytes than that."""
        found = bytearray()
        async for piece in self.pieces(silence=silence):
            found += piece
            if len(found) > most:
                raise Broken(f"Docker Engine: its answer has more than {most} bytes")
        return bytes(found)

    async def _chunks(self, silence: timedelta | None) -> AsyncIterator[bytes]:
        while size := int((await self.line.line(silence=silence)).split(b";")[0], 16):
            async for piece in self._counted(size, silence):
                yield piece
            await self.line.line(silence=silence)

    async def _rest(self, silence: timedelta | None) -> AsyncIterator[bytes]:
        if self.status in (204, 304):
            return
        if (length := self.headers.get("content-length")) is not None:
            async for piece in self._counted(int(length), silence):
                yield piece
            return
        while piece := await self.line.piece(silence=silence):
            yield piece

    async def _counted(self, size: int, silence: timedelta | None) -> AsyncIterator[bytes]:
        while size:
            piece = await self.line.piece(min(size, _PIECE), silence=silence)
            if not piece:
                raise EOFError(f"{size} bytes are missing")
            size -= len(piece)
            yield piece


@asynccontextmanager
async def asked(socket: Path, request: Request, *, limit: timedelta = ANSWER_LIMIT) -> AsyncIterator[Response]:
    """The answer, once its head is here; the connection is closed with the block. Broken if nobody answers."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as connected:
        connected.setblocking(False)  # noqa: FBT003 - its own form
        try:
            async with asyncio.timeout(CONNECT_LIMIT.total_seconds()):
                await asyncio.get_running_loop().sock_connect(connected, str(socket))
        except (OSError, ValueError, TimeoutError) as exc:
            why = getattr(exc, "strerror", None) or str(exc) or "takes no connection"
            raise Broken(f"{socket}: no Docker Engine answers: {why}", hint="start it, or set DOCKER_HOST") from exc
        line = Line(connected)
        await _send(line, request)
        yield await _head(line, limit)


async def _send(line: Line, request: Request) -> None:
    length = f"Content-Length: {len(request.body)}" if request.source is None else "Transfer-Encoding: chunked"
    lines = (f"{request.method} {request.target} HTTP/1.1", "Host: docker", "Connection: close")
    head = "\r\n".join((*lines, f"Content-Type: {request.kind}", length, "", ""))
    # An Engine that does not want the rest says so and stops reading: what it says is the answer.
    with suppress(ConnectionError):
        await line.send(head.encode("ascii") + request.body)
        if request.source is not None:
            async for piece in request.source:
                await line.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await line.send(b"0\r\n\r\n")


async def _head(line: Line, limit: timedelta) -> Response:
    try:
        async with asyncio.timeout(limit.total_seconds()):
            status = int((await line.line()).split()[1])
            headers: dict[str, str] = {}
            for _ in range(_HEADERS):
                name, sign, value = (await line.line()).decode("latin-1").partition(":")
                if not sign:
                    return Response(status=status, headers=headers, line=line)
                headers[name.strip().lower()] = value.strip()
    except TimeoutError:
        raise Broken(f"Docker Engine: does not answer within {limit.total_seconds():g} s") from None
    except (OSError, EOFError, ValueError, IndexError) as exc:
        raise Broken(f"Docker Engine: its answer is no HTTP: {exc}") from exc
    raise Broken(f"Docker Engine: its answer has more than {_HEADERS} headers")
