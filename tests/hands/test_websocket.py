"""WebSockets through proxies, and when not."""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from paddock.core.errors import Refused
from paddock.hands.links import Unreachable, connect, trusting
from paddock.hands.websocket import proxy_for
from tests.certificates import Authority

SHORT = timedelta(seconds=5)
NOWHERE = "ws://server.example:8080/agent"
"""Nobody but a proxy knows where that is."""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http", "https", "all", "no", "ws", "wss", "socks"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@contextlib.asynccontextmanager
async def server(tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, ssl=tls) as serving:
        yield int(next(iter(serving.sockets)).getsockname()[1])


class Proxy:
    """Lets everybody through to one port, by CONNECT or SOCKS 5, and remembers what was asked for."""

    def __init__(
        self,
        port: int,
        *,
        status: str = "200 go ahead",
        tls: ssl.SSLContext | None = None,
        member: tuple[str, str] | None = None,
    ) -> None:
        self.target = port
        self.tls = tls
        self.member = member
        """Name and password of the only one who may."""
        self.status = status
        self.asked: list[str] = []
        self.headers = ""
        self.port = 0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Proxy"]:
        listening = await asyncio.start_server(self._take, "127.0.0.1", 0, ssl=self.tls)
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
        wanted = base64.b64encode(":".join(self.member).encode()).decode() if self.member else ""
        status = self.status if wanted in self.headers else "407 who are you"
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        return status.startswith("200")

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        ways = await reader.readexactly((await reader.readexactly(1))[0])
        if self.member is None:
            writer.write(b"\x05\x00")
        elif b"\x02" not in ways:
            writer.write(b"\x05\xff")
            return False
        elif not await self._is_member(reader, writer):
            return False
        kind = (await reader.readexactly(4))[3]
        name = await reader.readexactly((await reader.readexactly(1))[0] if kind == 3 else 4)
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.asked.append(f"{name.decode('latin-1')}:{port}")
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        return True

    async def _is_member(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"\x05\x02")
        await reader.readexactly(1)
        shown = [(await reader.readexactly((await reader.readexactly(1))[0])).decode() for _ in range(2)]
        is_member = tuple(shown) == self.member
        writer.write(b"\x01\x00" if is_member else b"\x01\x01")
        return is_member

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


MEMBER = ("me@home", "p:ss/w?rd")
QUOTED = "me%40home:p%3Ass%2Fw%3Frd"


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
async def test_a_proxy_is_told_name_and_password(scheme: str) -> None:
    async with server() as port, Proxy(port, member=MEMBER).open() as proxy:
        way = f"{scheme}://{QUOTED}@127.0.0.1:{proxy.port}"
        assert await echoed("ws://127.0.0.1:8080/agent", proxy=way) == "hello"


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_proxy_that_takes_no_strangers_is_tried_again_later(scheme: str) -> None:
    async with server() as port, Proxy(port, member=MEMBER).open() as proxy:
        with pytest.raises(Unreachable) as found:
            await echoed(NOWHERE, proxy=f"{scheme}://me:wrong@127.0.0.1:{proxy.port}")
    assert "wrong" not in found.value.message


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


@pytest.mark.parametrize("inner", ["ws", "wss"])
async def test_a_proxy_may_speak_tls_itself(authority: Authority, inner: str) -> None:
    inside = authority.serving("server.example") if inner == "wss" else None
    async with server(inside) as port, Proxy(port, tls=authority.serving("127.0.0.1"), member=MEMBER).open() as proxy:
        link = await connect(
            f"{inner}://server.example/agent",
            deadline=SHORT,
            ssl=trusting(authorities=authority.path) if inside else None,
            proxy=f"https://{QUOTED}@127.0.0.1:{proxy.port}",
            proxy_authorities=authority.path,
        )
        await link.send("hello")
        assert await link.receive() == "hello"
        await link.close("done")


async def test_a_proxys_certificate_is_verified_too(authority: Authority) -> None:
    async with server() as port, Proxy(port, tls=authority.serving("other.example")).open() as proxy:
        with pytest.raises(Unreachable, match=r"not valid for '127\.0\.0\.1'"):
            await connect(
                NOWHERE,
                deadline=SHORT,
                proxy=f"https://127.0.0.1:{proxy.port}",
                proxy_authorities=authority.path,
            )
    assert proxy.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_a_proxy_that_hangs_is_given_up(scheme: str) -> None:
    released = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.close()

    listening = await asyncio.start_server(take, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        with pytest.raises(Unreachable):
            await connect(NOWHERE, deadline=timedelta(seconds=0.3), proxy=f"{scheme}://127.0.0.1:{port}")
    finally:
        released.set()
        listening.close()


async def test_a_redirection_is_not_followed() -> None:
    """The first words hold a token: they are for the server that was named."""
    led: list[str] = []

    def lead(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(HTTPStatus.FOUND, "there")
        response.headers["Location"] = f"ws://127.0.0.1:{elsewhere}/agent"
        return response

    async def note(connection: ServerConnection) -> None:
        led.append("somebody")

    async with serve(note, "127.0.0.1", 0) as other:
        elsewhere = next(iter(other.sockets)).getsockname()[1]
        async with serve(note, "127.0.0.1", 0, process_request=lead) as first:
            port = next(iter(first.sockets)).getsockname()[1]
            with pytest.raises(Unreachable, match="answered HTTP 302"):
                await connect(f"ws://127.0.0.1:{port}/agent", deadline=SHORT)
    assert led == []


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
