"""WebSockets through proxies, and when not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve

from paddock.core.errors import Refused
from paddock.hands.links import Unreachable, connect
from paddock.hands.websocket import proxy_for

SHORT = timedelta(seconds=5)
NOWHERE = "ws://server.example:8080/agent"
"""Nobody but a proxy knows where that is."""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no", "ws", "wss", "socks"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[int]:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as serving:
        yield int(next(iter(serving.sockets)).getsockname()[1])


class Proxy:
    """Lets everybody through to one port, by CONNECT or SOCKS 5, and remembers what was asked for."""

    def __init__(self, port: int, *, status: str = "200 go ahead") -> None:
        self.target = port
        self.status = status
        self.asked: list[str] = []
        self.headers = ""
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Proxy"]:
        listening = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listening.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        ahead = await (self._socks(reader, writer) if first == b"\x05" else self._connect(reader, writer))
        if not ahead:
            writer.close()
            return
        there, onward = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._copy(reader, onward), self._copy(there, writer), return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (b"C" + await reader.readuntil(b"\r\n\r\n")).decode()
        line, _, self.headers = head.partition("\r\n")
        self.asked.append(line)
        writer.write(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        return self.status.startswith("200")

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\x05\x00")
        kind = (await reader.readexactly(4))[3]
        name = await reader.readexactly((await reader.readexactly(1))[0] if kind == 3 else 4)
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"{name.decode('latin-1')}:{port}")
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        return True

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def proxied(*, status: str = "200 go ahead") -> AsyncIterator[Proxy]:
    async with server() as port, Proxy(port, status=status).open() as proxy:
        yield proxy


async def echoed(url: str, *, proxy: str | None = None) -> str:
    link = await connect(url, deadline=SHORT, proxy=proxy)
    try:
        await link.send("hello")
        return await link.receive()
    finally:
        await link.close("done")


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
async def test_the_environment_names_the_proxy(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    async with proxied() as proxy:
        monkeypatch.setenv(variable, f"http://me:s3cret@127.0.0.1:{proxy.port}")
        assert await echoed(NOWHERE) == "hello"
    assert proxy.asked == ["CONNECT server.example:8080 HTTP/1.1"]
    assert "Proxy-Authorization: Basic" in proxy.headers


async def test_a_socks_proxy_resolves_the_name_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied() as proxy:
        monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{proxy.port}")
        assert await echoed(NOWHERE) == "hello"
    assert proxy.asked == ["server.example:8080"]


async def test_loopback_goes_through_a_proxy_only_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied() as proxy:
        own = f"http://127.0.0.1:{proxy.port}"
        monkeypatch.setenv("http_proxy", own)
        assert await echoed(f"ws://127.0.0.1:{proxy.target}/agent") == "hello"
        assert proxy.asked == []
        assert await echoed(f"ws://127.0.0.1:{proxy.target}/agent", proxy=own) == "hello"
    assert proxy.asked == [f"CONNECT 127.0.0.1:{proxy.target} HTTP/1.1"]


async def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxied(status="403 no") as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:s3cret@127.0.0.1:{proxy.port}")
        with pytest.raises(Unreachable, match=rf"through proxy http://127\.0\.0\.1:{proxy.port}: .*403") as found:
            await echoed(NOWHERE)
    assert "s3cret" not in found.value.message


async def test_a_url_of_no_proxy_is_refused() -> None:
    with pytest.raises(Refused, match="not a proxy's URL"):
        await echoed(NOWHERE, proxy="gopher://127.0.0.1:70")


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("ws://a.example/agent", "http://plain:1"),
        ("wss://a.example/agent", "http://secure:2"),
        ("wss://b.inside.example/agent", None),
        ("wss://inside.example:8443/agent", None),
        ("ws://localhost/agent", None),
        ("ws://127.3.4.5/agent", None),
        ("ws://[::1]:80/agent", None),
    ],
)
def test_who_goes_through_which_proxy(monkeypatch: pytest.MonkeyPatch, url: str, through: str | None) -> None:
    monkeypatch.setenv("http_proxy", "plain:1")
    monkeypatch.setenv("https_proxy", "http://secure:2")
    monkeypatch.setenv("all_proxy", "http://all:3")
    monkeypatch.setenv("no_proxy", "inside.example,other")
    assert proxy_for(urlsplit(url)) == through


def test_without_variables_there_is_no_proxy() -> None:
    assert proxy_for(urlsplit("wss://a.example/agent")) is None


def test_a_star_takes_everybody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "http://all:3")
    monkeypatch.setenv("no_proxy", "*")
    assert proxy_for(urlsplit("wss://a.example/agent")) is None


@pytest.mark.slow
async def test_who_speaks_lines_alone_does_not_load_websockets(tmp_path: Path) -> None:
    import sys

    program = "import sys, paddock.agent.agent, paddock.hands.links; print('websockets' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said == b"False\n"
