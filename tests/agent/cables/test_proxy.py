"""The way out of an environment: what is on the list and nothing else, within its bounds, told in a log."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from paddock.agent.cables.proxy import HEAD, Bounds, Proxy
from paddock.core.egress import Egress


@dataclass
class House:
    """A server on loopback that keeps what it was asked, and a proxy that may be let to it."""

    port: int
    asked: list[bytes] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def here(self) -> str:
        return f"127.0.0.1:{self.port}"


async def _echo(house: House, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError):
        while got := await reader.read(65536):
            house.asked.append(got)
            if got.startswith((b"GET", b"POST")):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
                break
            writer.write(got.upper())
            await writer.drain()
    writer.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    found = House(port=0)
    server = await asyncio.start_server(lambda r, w: _echo(found, r, w), "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


Dial = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@contextlib.asynccontextmanager
async def proxied(house: House, *entries: str, **bounds: float) -> AsyncIterator[Dial]:
    proxy = Proxy(Egress.read(entries), bounds=Bounds(**bounds), log=house.log.append)  # type: ignore[arg-type]

    async with asyncio.TaskGroup() as serving:

        async def dial() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            ours, theirs = socket.socketpair()
            streams = await asyncio.open_connection(sock=theirs, limit=HEAD)
            serving.create_task(proxy.serve("m", *streams))
            return await asyncio.open_connection(sock=ours)

        async with asyncio.timeout(20):
            yield dial


async def ask(dial: Dial, request: bytes, *, then: bytes = b"") -> bytes:
    """All that comes back."""
    reader, writer = await dial()
    writer.write(request)
    if then:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(then)
    if writer.can_write_eof():
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def connect(place: str) -> bytes:
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode()


async def test_a_tunnel_leads_to_what_is_on_the_list_in_both_directions(house: House) -> None:
    async with proxied(house, house.here) as dial:
        assert await ask(dial, connect(house.here), then=b"hello") == b"HELLO"

    (line,) = house.log
    assert line.startswith(f"m CONNECT {house.here} 200 5 5 ")


async def test_a_whole_url_is_passed_on_in_the_form_of_its_server_and_closed_after_it(house: House) -> None:
    request = (
        f"GET http://{house.here}/path?q=1 HTTP/1.1\r\nHost: elsewhere.example\r\nProxy-Authorization: Basic x\r\n"
        f"Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nX-Kept: yes\r\n\r\n"
    )
    async with proxied(house, house.here) as dial:
        answer = await ask(dial, request.encode())

    assert answer.endswith(b"\r\n\r\nhi")
    (asked,) = house.asked
    head = f"GET /path?q=1 HTTP/1.1\r\nHost: {house.here}\r\nX-Kept: yes\r\nConnection: close\r\n\r\n"
    assert asked == head.encode()


async def test_a_body_is_passed_on_as_it_is(house: House) -> None:
    request = f"POST http://{house.here}/ HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody"
    async with proxied(house, house.here) as dial:
        await ask(dial, request.encode())

    assert b"".join(house.asked).endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("place", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}"])
async def test_what_is_not_on_the_list_is_refused_in_words_and_logged(house: House, place: str) -> None:
    where = place.format(port=house.port)
    wide = (f"0.0.0.0/0:{house.port}", f"[::/0]:{house.port}")
    async with proxied(house, "example.org:443", f"10.0.0.0/8:{house.port}", *wide) as dial:
        tunnel = await ask(dial, connect(where))
        plain = await ask(dial, f"GET http://{where}/ HTTP/1.1\r\n\r\n".encode())

    for answer in (tunnel, plain):
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"is not on the list" in answer
    assert house.asked == []
    assert [line.split()[3] for line in house.log] == ["403", "403"]


async def test_a_name_on_the_list_that_leads_to_this_host_leads_nowhere(house: House) -> None:
    async with proxied(house, f"localhost:{house.port}") as dial:
        answer = await ask(dial, connect(f"localhost:{house.port}"))

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"address of this host or its neighbours" in answer
    assert house.asked == []


async def test_a_name_may_lead_to_an_address_that_is_itself_on_the_list(house: House) -> None:
    async with proxied(house, f"localhost:{house.port}", f"127.0.0.0/8:{house.port}") as dial:
        assert await ask(dial, connect(f"localhost:{house.port}"), then=b"in") == b"IN"


async def test_a_name_that_is_not_on_the_list_is_not_even_looked_up(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []
    loop = asyncio.get_running_loop()

    async def look(host: object, *rest: object, **more: object) -> list[object]:
        looked_up.append(host)
        return []

    monkeypatch.setattr(loop, "getaddrinfo", look)
    async with proxied(house, "*.example.org:443") as dial:
        await ask(dial, connect("secret.attacker.example:443"))
        assert looked_up == []
        await ask(dial, connect("a.example.org:443"))

    assert looked_up == ["a.example.org"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET https://example.org/ HTTP/1.1\r\n\r\n", 400),
        (b"GET http:///x HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT example.org HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT example.org:99999 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT example.org:0 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT a..under.example:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT " + b"a" * 64 + b".under.example:443 HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT [::1:443 HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nA: b\r\n folded: c\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nA: b\nHost: c\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nA: " + b"b" * HEAD + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_request_of_a_proxy_is_refused(house: House, request_: bytes, status: int) -> None:
    async with proxied(house, house.here, "*.under.example:443") as dial:
        reader, writer = await dial()
        writer.write(request_)
        answer = await reader.readline()
        writer.close()

    assert answer.split()[1] == str(status).encode()


async def test_nothing_that_a_guest_says_brings_the_proxy_down(house: House) -> None:
    chance = random.Random(4)
    pieces = [
        b"GET",
        b"CONNECT",
        b" ",
        b"http://",
        b"[",
        b"]",
        b":",
        b"/",
        b"@",
        b"%",
        b"\r\n",
        b"\0",
        b"\xff",
        b"#",
        b"?",
    ]
    pieces += [b"a.under.example", b"..", b"127.0.0.1", b"::1", b"443", b"HTTP/1.1", b"Host:", b"99999999999999", b"\n"]
    async with proxied(house, "*.under.example:443") as dial:
        for _ in range(400):
            head = b" ".join(b"".join(chance.choices(pieces, k=chance.randint(1, 4))) for _ in range(3))
            answer = await ask(dial, head + b" HTTP/1.1\r\n\r\n" if chance.random() < 0.5 else head + b"\r\n\r\n")
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))

    assert len(house.log) == 400
    assert house.asked == []


async def test_who_says_nothing_is_sent_away(house: House) -> None:
    async with proxied(house, house.here, head=0.05) as dial:
        reader, writer = await dial()

        assert (await reader.readline()).split()[1] == b"408"
        writer.close()


async def test_no_more_connections_than_an_environment_may_have(house: House) -> None:
    async with proxied(house, house.here, connections=1) as dial:
        reader, writer = await dial()
        writer.write(connect(house.here))
        assert b"200" in await reader.readline()

        assert b"503" in await ask(dial, connect(house.here))

        writer.close()


async def test_a_tunnel_that_is_idle_ends(house: House) -> None:
    async with proxied(house, house.here, idle=0.05) as dial:
        reader, writer = await dial()
        writer.write(connect(house.here))

        assert b"200" in await reader.read()
        writer.close()

    assert house.log[0].split()[3] == "499"


async def test_no_more_bytes_than_one_connection_and_all_may_move(house: House) -> None:
    async with proxied(house, house.here, bytes_each=1000, bytes_all=1500) as dial:
        reader, writer = await dial()
        writer.write(connect(house.here))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(2000))
        assert await reader.read() == b""
        writer.close()

        assert b"503" in await ask(dial, connect(house.here))

    assert [line.split()[3] for line in house.log] == ["509", "503"]


async def test_a_server_that_is_not_there_is_told_as_such(house: House) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound and not listening
        place = f"127.0.0.1:{bound.getsockname()[1]}"
        async with proxied(house, place) as dial:
            assert b" 502 " in await ask(dial, connect(place))
