"""The small server for agents on lines of TCP."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
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
