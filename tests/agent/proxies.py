"""A wire between agent and server that misbehaves on request: cut, frozen, half open, slow, or not there at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(kw_only=True, eq=False)
class Pair:
    """One connection of an agent, and ours to the server; None for a side that is left alone for ever."""

    agent: asyncio.StreamWriter | None
    server: asyncio.StreamWriter | None = None
    copiers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def writers(self) -> list[asyncio.StreamWriter]:
        return [writer for writer in (self.agent, self.server) if writer is not None]


class Wire:
    """Forwards TCP from `port` to a port of this machine. All of it happens in the loop of whoever opened it.

    `opened` has the moment (of the loop's clock) of each connection that an agent made.
    """

    def __init__(self, target: int, *, host: str = "127.0.0.1") -> None:
        self.target = target
        self.host = host
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece is held back, either way."""
        self.opened: list[float] = []
        self.forwarded = 0
        """Bytes, both ways."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[Pair] = set()
        self._lost: list[asyncio.StreamWriter] = []
        self._listener: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Wire"]:
        await self.mend()
        try:
            yield self
        finally:
            self.thaw()
            self.sever()
            self.cut()
            for writer in self._lost:
                writer.transport.abort()
            for task in list(self._serving):
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    @property
    def count(self) -> int:
        """How many connections there are now."""
        return len(self._pairs)

    # What a test asks for

    def cut(self) -> None:
        """Every connection is reset, on both sides; new ones are taken."""
        for pair in list(self._pairs):
            for writer in pair.writers:
                writer.transport.abort()

    def sever(self) -> None:
        """Nobody listens any more; connections that are there stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def mend(self) -> None:
        """Somebody listens again, on the same port."""
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, self.host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        """Nothing is forwarded, either way: a partition. New connections are taken, and nothing is said on them."""
        self._flowing.clear()

    def thaw(self) -> None:
        """What was held back arrives."""
        self._flowing.set()

    def lose_server(self) -> None:
        """The server's side of every connection is reset, the agent's side hears nothing of it, ever: half open."""
        self._lose(agent=True)

    def lose_agent(self) -> None:
        """The agent's side is reset, and the server hears nothing of it."""
        self._lose(agent=False)

    def _lose(self, *, agent: bool) -> None:
        for pair in list(self._pairs):
            for task in pair.copiers:
                task.cancel()
            kept, gone = (pair.agent, pair.server) if agent else (pair.server, pair.agent)
            if kept is not None:
                self._lost.append(kept)
            if gone is not None:
                gone.transport.abort()
            pair.agent = pair.server = None

    # Forwarding

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(asyncio.get_running_loop().time())
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        pair = Pair(agent=writer)
        self._pairs.add(pair)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._flowing.wait()
            if not self._flowing.is_set():
                return
            # The loop's own callback would tell a cancelled task as an error.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                onward, pair.server = await asyncio.open_connection("127.0.0.1", self.target)
                pair.copiers = [
                    asyncio.create_task(self._copy(reader, pair.server)),
                    asyncio.create_task(self._copy(onward, writer)),
                ]
                await asyncio.wait(pair.copiers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copier in pair.copiers:
                copier.cancel()
            self._pairs.discard(pair)
            for one in pair.writers:
                one.close()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(64 << 10):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                sink.write(data)
                self.forwarded += len(data)
                await sink.drain()
