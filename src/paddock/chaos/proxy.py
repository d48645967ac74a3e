"""A TCP proxy that loses: it cuts links, leaves them half-open, says old commands again.

Effects: none.
"""

import asyncio
import contextlib
import random
import re
from collections import deque

_CHUNK = 64 * 1024
_REMEMBERED = 4000
_LARGEST = 1 << 20
_ID = re.compile(rb'"id":\s*"([^"]+)"')


class Proxy:
    """Between an agent and its server. `port` is where it listens while it is open."""

    def __init__(self, target: int, *, chance: random.Random) -> None:
        self.port = 0
        self.refuses = False
        """New links are closed at once."""
        self.repeated: list[str] = []
        """The ids of commands that were said again."""
        self._target = target
        self._chance = chance
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._said: deque[bytes] = deque(maxlen=_REMEMBERED)

    async def open(self) -> None:
        """Listen on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Cut everything and stop listening."""
        self.refuses = True
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def cut(self) -> None:
        """End every link with a reset, in whatever message it is; also those that were left half-open."""
        for link in list(self._links):
            link.abort()

    def freeze(self) -> None:
        """Leave every link half-open: both ends stay connected, and nothing that either says arrives any more."""
        for link in self._links:
            link.is_silent = True

    def repeat(self, count: int) -> None:
        """Say some old commands again to the agent, between two messages, as if a server had forgotten its mind."""
        live = [link for link in self._links if not link.is_silent]
        if live and self._said:
            chosen = [self._chance.choice(self._said) for _ in range(count)]
            live[-1].insert(chosen)
            self.repeated += [found.group(1).decode() for one in chosen if (found := _ID.search(one))]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            behind = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link((reader, writer), behind, said=self._said)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One connection and the one behind it."""

    def __init__(
        self,
        front: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        back: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        *,
        said: deque[bytes],
    ) -> None:
        self.is_silent = False
        self._front, self._back = front, back
        self._frames = Frames(said)

    def abort(self) -> None:
        """Reset both ends."""
        for _, writer in (self._front, self._back):
            writer.transport.abort()

    def insert(self, frames: list[bytes]) -> None:
        """Put these between two messages of the server."""
        self._frames.inserted += frames

    async def run(self) -> None:
        """Until either end is over; one that is half-open stays until it is cut or its own end gives up."""
        up = asyncio.ensure_future(self._copy(self._front[0], self._back[1], frames=None))
        down = asyncio.ensure_future(self._copy(self._back[0], self._front[1], frames=self._frames))
        try:
            # Waits for: the end of either direction. A silent link ends when both of its ends have gone.
            while True:
                done, open_ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                if not open_ or (done and not self.is_silent):
                    return
                await asyncio.wait(open_)
        finally:
            for direction in (up, down):
                direction.cancel()
            self.abort()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, frames: "Frames | None"
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.is_silent:
                    continue
                writer.write(data if frames is None else frames.take(data))
                await writer.drain()


class Frames:
    """The WebSocket frames that a server says: finds where one ends, remembers commands, inserts old ones there."""

    def __init__(self, said: deque[bytes]) -> None:
        self.inserted: list[bytes] = []
        self._said = said
        self._rest = b""
        self._is_open = False  # the HTTP answer is over

    def take(self, data: bytes) -> bytes:
        """What goes on: whole frames with inserted ones between, and the beginning of the next."""
        if not self._is_open:
            return self._take_answer(data)
        self._rest += data
        passed = b""
        while (length := _length(self._rest)) is not None and length <= len(self._rest):
            frame, self._rest = self._rest[:length], self._rest[length:]
            passed += frame
            if length <= _LARGEST and b'"seq"' in frame and b'"method"' in frame:
                self._said.append(frame)
            if self.inserted:
                passed += b"".join(self.inserted)
                self.inserted.clear()
        return passed

    def _take_answer(self, data: bytes) -> bytes:
        self._rest += data
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            return b""
        answer, rest = self._rest[: end + 4], self._rest[end + 4 :]
        self._is_open, self._rest = True, b""
        return answer + self.take(rest)


def _length(data: bytes) -> int | None:
    """The length of the first frame, its head included; None while that is not known. A server masks nothing."""
    if len(data) < 2:
        return None
    short = data[1] & 0x7F
    if short < 126:
        return 2 + short
    size = 2 if short == 126 else 8
    if len(data) < 2 + size:
        return None
    return 2 + size + int.from_bytes(data[2 : 2 + size])
