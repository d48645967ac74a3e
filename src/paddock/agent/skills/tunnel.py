"""Carries bytes to and from a port of the machine's own loopback, past its network.

Effects: journaled by the ledger; a tunnel that was open when the agent ended is interrupted. What is put is written
once, by its offset.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping

from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work
from paddock.core.errors import Broken, Refused
from paddock.wire import fields
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM
from paddock.wire.messages import Code

_CONNECT_LIMIT = 10.0  # seconds
_BEGIN_LIMIT = 2.0  # seconds that a put waits for its tunnel to begin, which was ordered just before
_ROOM_LIMIT = 15.0  # seconds that a put waits for the other side to read
_FLUSH_LIMIT = 5.0  # seconds for what was put last
_PIECE = 1 << 16


class Tunnel:
    """One connection. `opened` is set once it is there, or will never be."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None
        self.have = 0
        self._turn = asyncio.Lock()
        self._is_last = False
        self._until: asyncio.Timeout | None = None
        self._patience = 0.0

    def open(self, writer: asyncio.StreamWriter, until: asyncio.Timeout, patience: float) -> None:
        self.writer, self._until, self._patience = writer, until, patience
        self.opened.set()

    def close(self) -> None:
        """Nothing is put from here on."""
        self.writer = self._until = None
        self.opened.set()

    async def put(self, offset: int, data: bytes, *, is_last: bool) -> int:
        """How much was written in all. Refused for a gap, and for what follows the last."""
        async with self._turn:
            self._live_on()
            if offset > self.have:
                raise Refused(f"offset {offset}: only {self.have} bytes were put before it")
            fresh = data[self.have - offset :]
            if fresh and self._is_last:
                raise Refused(f"offset {offset}: the last bytes were put before")
            if not await self._has_room() or (writer := self.writer) is None:
                return self.have
            if fresh:
                writer.write(fresh)
                self.have += len(fresh)
            if is_last and not self._is_last:
                self._is_last = True
                writer.write_eof()
            return self.have

    def _live_on(self) -> None:
        if self._until is not None and not self._until.expired():
            self._until.reschedule(asyncio.get_running_loop().time() + self._patience)

    async def _has_room(self) -> bool:
        """Whether the other side takes what it was sent. One that is gone takes nothing: its end is told elsewhere."""
        if self.writer is None:
            return False
        try:
            async with asyncio.timeout(_ROOM_LIMIT):
                await self.writer.drain()
        except (TimeoutError, OSError):
            return False
        return True


def methods(place: Place) -> Mapping[str, Deed]:
    """tunnel.open, tunnel.put."""
    tunnels: dict[str, Tunnel] = {}

    async def begin(call: Call) -> Outcome:
        tunnel = tunnels.setdefault(call.task, Tunnel())
        try:
            return await _carry(call, tunnel)
        finally:
            tunnel.close()
            tunnels.pop(call.task, None)

    async def put(call: Call) -> Mapping[str, JSON]:
        task = call.text("task_id")
        tunnel = tunnels.setdefault(task, Tunnel())
        data = fields.octets(call.params.get("data", ""), "params.data")
        try:
            async with asyncio.timeout(_BEGIN_LIMIT if tunnel.writer is None else None):
                await tunnel.opened.wait()
        except TimeoutError:
            if tunnels.get(task) is tunnel:
                del tunnels[task]
        if tunnel.writer is None:
            raise Refused(f"tunnel {task}: it is not open")
        return {"have": await tunnel.put(call.number("offset"), data, is_last=call.params.get("last") is True)}

    return {"tunnel.open": Work(act=begin, streams=True), "tunnel.put": Read(answer=put)}


async def _carry(call: Call, tunnel: Tunnel) -> Outcome:
    """From the connection to its end."""
    call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = call.directory / "output"
    patience = call.seconds("patience", 180).total_seconds()
    reader, writer = await _connected(call)
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        async with asyncio.timeout(patience) as until:
            tunnel.open(writer, until, patience)
            problem = await _take(call, reader, handle)
    except TimeoutError:
        problem = f"nobody has put anything for {patience:g} s"
    finally:
        tunnel.close()
        os.close(handle)
        await _left(writer)
    streams = {LOG_STREAM: Stream(path=str(path), length=path.stat().st_size)}
    if problem:
        return Outcome(code=Code.FAILED, msg=f"port {call.number('port')}: {problem}", streams=streams)
    return Outcome(result={"received": streams[LOG_STREAM].length, "sent": tunnel.have}, streams=streams)


async def _connected(call: Call) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = call.number("port")
    try:
        async with asyncio.timeout(_CONNECT_LIMIT):
            return await asyncio.open_connection(call.text("host", "127.0.0.1"), port, limit=_PIECE)
    except TimeoutError as exc:
        raise Broken(f"port {port}: nobody answers there") from exc
    except OSError as exc:
        raise Broken(f"port {port}: {os.strerror(exc.errno) if exc.errno else exc}") from exc


async def _take(call: Call, reader: asyncio.StreamReader, handle: int) -> str:
    """What comes, until the other side has sent its last; why that is not all there was, or nothing."""
    left = call.number("output_limit", 1 << 34)
    while True:
        try:
            data = await reader.read(_PIECE)
        except OSError as exc:
            return os.strerror(exc.errno) if exc.errno else str(exc)
        if not data:
            return ""
        written = os.write(handle, data[:left])
        left -= written
        call.grew()
        if written < len(data):
            return "more came than its output_limit" if not left else "its disk is full"


async def _left(writer: asyncio.StreamWriter) -> None:
    """The connection is gone when this returns; what was put last had its time to arrive."""
    writer.close()
    try:
        async with asyncio.timeout(_FLUSH_LIMIT):
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    finally:
        writer.transport.abort()
