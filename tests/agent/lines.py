"""The small server for agents on lines of TCP, and a hypervisor's serial port between a guest and its host."""

import asyncio
import contextlib
import os
import pty
import ssl
import tty
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from paddock.hands.lines import LineLink
from paddock.hands.link import Closed
from tests.agent.desk import Desk


class Line:
    """A line as the desk wants its connections: iterated, sent to, aborted."""

    def __init__(self, link: LineLink) -> None:
        self._link = link
        self.transport = link._writer.transport

    async def send(self, text: str) -> None:
        with contextlib.suppress(Closed):
            await self._link.send(text)

    async def __aiter__(self) -> AsyncIterator[str]:
        with contextlib.suppress(Closed):
            while True:
                yield await self._link.receive()


class LineDesk(Desk):
    """A teeth server, as it were: agents dial it and speak lines."""

    @contextlib.asynccontextmanager
    async def open(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["LineDesk"]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line: Any = Line(LineLink(reader, writer))
            await self._serve(line)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        self._scheme = "tls" if tls else "tcp"
        try:
            yield self
        finally:
            server.close()
            await self.drop_all()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"


class Hypervisor:
    """The guest has a device, the host a socket; while no host is connected, what the guest says waits in the port.

    As with QEMU, the guest does not see the host go and come again.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._master, guest = pty.openpty()
        tty.setraw(self._master)
        self.device = Path(os.ttyname(guest))
        self._guest = guest
        os.set_blocking(self._master, False)
        self.hosts = 0
        """How often somebody connected."""
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def guest_end(self) -> int:
        """A descriptor on which the guest hears and says what it does, while nobody else serves it."""
        return self._master

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Hypervisor"]:
        server = await asyncio.start_unix_server(self._serve, self.socket)
        try:
            yield self
        finally:
            server.close()
            self.drop()
            await asyncio.sleep(0)
            os.close(self._master)
            os.close(self._guest)

    def drop(self) -> None:
        """Cut the host off, wherever it is in a message."""
        for writer in self._writers:
            writer.transport.abort()

    def inject(self, data: bytes) -> None:
        """Bytes to the guest, of nobody in particular."""
        os.write(self._master, data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hosts += 1
        self._writers.append(writer)
        loop = asyncio.get_running_loop()

        def up() -> None:
            with contextlib.suppress(OSError):
                writer.write(os.read(self._master, 65536))

        loop.add_reader(self._master, up)
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await self._down(data)
        finally:
            self._writers.remove(writer)
            if not self._writers:
                loop.remove_reader(self._master)
            writer.close()

    async def _down(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.001)
