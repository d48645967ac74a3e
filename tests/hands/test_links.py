"""Links: every transport carries messages, waits for slow readers, and says how it ended."""

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from paddock.core.errors import Broken, Refused
from paddock.hands import lines
from paddock.hands.links import Closed, LineLink, Link, Unreachable, connect, relay, serve_lines, trusting
from paddock.wire.framing import TRANSPORT_LIMIT, Malformed

SHORT = timedelta(seconds=5)


async def echo(link: Link) -> None:
    with contextlib.suppress(Closed):
        while True:
            await link.send(await link.receive())


async def echo_frames(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


def port_of(server: Server | asyncio.Server) -> int:
    return next(iter(server.sockets)).getsockname()[1]


@contextlib.asynccontextmanager
async def line_server(
    on_link: Callable[[LineLink], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = LineLink(reader, writer)
        await on_link(link)
        await link.close("served")

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    try:
        yield port_of(server)
    finally:
        server.close()
        await asyncio.sleep(0)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "here.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@contextlib.asynccontextmanager
async def serving(kind: str, directory: Path, tls: ssl.SSLContext) -> AsyncIterator[str]:
    """An echo server of this kind, and its URL."""
    if kind == "unix":
        async with serve_lines(directory / "s", echo):
            yield f"unix:{directory / 's'}"
    elif kind in ("tcp", "tls"):
        async with line_server(echo, tls if kind == "tls" else None) as port:
            yield f"{kind}://127.0.0.1:{port}"
    else:
        context = tls if kind == "wss" else None
        async with serve(echo_frames, "127.0.0.1", 0, ssl=context, max_size=TRANSPORT_LIMIT) as server:
            yield f"{kind}://127.0.0.1:{port_of(server)}/agent"


@pytest.mark.parametrize("kind", ["ws", "wss", "tcp", "tls", "unix"])
async def test_every_transport_carries_messages_of_a_mebibyte_in_order(
    kind: str, tmp_path: Path, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    async with serving(kind, tmp_path, server_tls) as url:
        trust = trusting(certificate=certificate) if kind in ("wss", "tls") else None
        link = await connect(url, deadline=SHORT, ssl=trust)
        for text in ('{"a":"é😀"}', "x" * (1 << 20), "last"):
            await link.send(text)
            assert await link.receive() == text
        await link.close("done")
        await link.close("again")
        with pytest.raises(Closed):
            await link.receive()
        with pytest.raises(Closed):
            await link.send("x")


@pytest.mark.parametrize("kind", ["wss", "tls"])
async def test_a_certificate_nobody_vouches_for_is_not_spoken_to(
    kind: str, tmp_path: Path, server_tls: ssl.SSLContext
) -> None:
    async with serving(kind, tmp_path, server_tls) as url:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await connect(url, deadline=SHORT)


async def test_a_pinned_certificate_still_has_to_be_the_hosts(
    tmp_path: Path, server_tls: ssl.SSLContext, certificate: Path
) -> None:
    async with serving("tls", tmp_path, server_tls) as url:
        with pytest.raises(Unreachable, match="Hostname mismatch"):
            await connect(url.replace("127.0.0.1", "localhost"), deadline=SHORT, ssl=trusting(certificate=certificate))


def test_a_missing_certificate_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"none\.pem"):
        trusting(certificate=tmp_path / "none.pem")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("tcp://192.0.2.1:80", "loopback only"),
        ("tcp://example.org:80", "loopback only"),
        ("tcp://127.0.0.1", "needs host and port"),
        ("tls://127.0.0.1:99999", "Port out of range"),
        ("ftp://127.0.0.1:21", "not one of ws, wss, tcp, tls, unix"),
        ("ws:///agent", "not a WebSocket URL"),
        ("tcp://[::1:80", "Invalid IPv6"),
        ("", "not one of"),
    ],
)
async def test_a_url_that_never_works_is_refused(url: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        await connect(url, deadline=SHORT)


@pytest.mark.parametrize("scheme", ["ws", "tcp"])
async def test_where_nobody_listens_is_unreachable(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=f"{scheme}://127.0.0.1:{port}"):
        await connect(f"{scheme}://user:s3cret@127.0.0.1:{port}", deadline=SHORT)


async def test_a_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        await connect(f"unix:{tmp_path / 'none'}", deadline=SHORT)


async def test_a_silent_server_is_given_up_at_the_deadline() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unreachable, match=r"no answer within 0\.05 s"),
    ):
        await connect(f"ws://127.0.0.1:{silent.getsockname()[1]}/agent", deadline=timedelta(seconds=0.05))


async def test_retry_after_is_passed_on() -> None:
    def full(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "later")
        response.headers["Retry-After"] = "7"
        return response

    async with serve(echo_frames, "127.0.0.1", 0, process_request=full) as server:
        with pytest.raises(Unreachable, match="answered HTTP 503") as found:
            await connect(f"ws://127.0.0.1:{port_of(server)}/agent", deadline=SHORT)
    assert found.value.retry_after == timedelta(seconds=7)


async def test_a_binary_frame_ends_a_websocket() -> None:
    async def on_connection(connection: ServerConnection) -> None:
        await connection.send(b"bytes")
        await connection.wait_closed()
        codes.append(connection.close_code)

    codes: list[int | None] = []
    async with serve(on_connection, "127.0.0.1", 0) as server:
        link = await connect(f"ws://127.0.0.1:{port_of(server)}", deadline=SHORT)
        with pytest.raises(Closed, match="binary frame"):
            await link.receive()
    assert codes == [1003]


async def test_a_frame_over_the_transports_limit_ends_a_websocket() -> None:
    async def on_connection(connection: ServerConnection) -> None:
        await connection.send("x" * (TRANSPORT_LIMIT + 1))
        await connection.wait_closed()

    async with serve(on_connection, "127.0.0.1", 0) as server:
        link = await connect(f"ws://127.0.0.1:{port_of(server)}", deadline=SHORT)
        with pytest.raises(Closed, match="1009"):
            await link.receive()


async def pair() -> tuple[LineLink, socket.socket]:
    """A line link and the raw other end of it."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    return LineLink(reader, writer, limit=1000), theirs


async def test_bytes_that_are_no_utf_8_come_as_surrogates() -> None:
    link, raw = await pair()
    raw.sendall(b'{"a":"\xff"}\n\n\nnext\n')
    assert await link.receive() == '{"a":"\udcff"}'
    assert await link.receive() == "next"
    raw.close()
    with pytest.raises(Closed, match="the other side closed it"):
        await link.receive()
    await link.close("")


async def test_half_a_line_at_the_end_is_no_message() -> None:
    link, raw = await pair()
    raw.sendall(b"whole\nhalf")
    raw.close()
    assert await link.receive() == "whole"
    with pytest.raises(Closed):
        await link.receive()
    await link.close("")


async def test_a_line_over_the_limit_is_malformed_after_what_came_before() -> None:
    link, raw = await pair()
    raw.sendall(b"whole\n" + b"x" * 1001)
    assert await link.receive() == "whole"
    with pytest.raises(Malformed, match="longer than 1000 bytes"):
        await link.receive()
    raw.close()
    await link.close("")


@pytest.mark.parametrize("text", ["two\nlines", "\ud800"])
async def test_what_is_no_line_is_not_sent(text: str) -> None:
    link, raw = await pair()
    with pytest.raises(Malformed):
        await link.send(text)
    await link.send("whole")
    assert raw.recv(100) == b"whole\n"
    raw.close()
    await link.close("")


async def test_sending_waits_for_a_reader_and_closing_does_not() -> None:
    link, raw = await pair()

    async def flood() -> None:
        for _ in range(1000):
            await link.send("x" * 10_000)

    sender = asyncio.create_task(flood())
    done, _ = await asyncio.wait([sender], timeout=0.05)
    assert not done
    assert link._writer.transport.get_write_buffer_size() < 200_000
    raw.close()
    with pytest.raises(Closed):
        await sender
    await link.close("")


async def test_a_serial_line_tells_where_a_session_begins() -> None:
    ours, theirs = socket.socketpair()
    a = LineLink(*await asyncio.open_unix_connection(sock=ours), serial=True)
    b = LineLink(*await asyncio.open_unix_connection(sock=theirs), serial=True)
    await a.send('noise, half a mess{"a')
    await a.begin()
    await a.send("hello")
    assert await b.receive() == "hello"
    await a.begin()
    await a.send("hello again")
    with pytest.raises(Closed, match="began a new session"):
        await b.receive()
    assert await b.receive() == "hello again"
    await a.close("")
    await b.close("")


async def test_what_the_block_raises_comes_out_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with serve_lines(tmp_path / "s", echo):
            raise ZeroDivisionError
    assert not (tmp_path / "s").exists()


async def test_a_fault_of_the_owner_ends_the_serving_in_plain_sight(tmp_path: Path) -> None:
    async def faulty(link: LineLink) -> None:
        raise ZeroDivisionError

    async def served() -> None:
        async with serve_lines(tmp_path / "s", faulty):
            await connect(f"unix:{tmp_path / 's'}", deadline=SHORT)
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as found:
        await served()
    assert found.group_contains(ZeroDivisionError)


async def test_a_file_name_is_no_url(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c"
    async with serve_lines(path, echo):
        link = await connect(f"unix:{path}", deadline=SHORT)
        await link.close("")


async def test_the_socket_is_ours_alone_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    before = os.umask(0)
    try:
        async with serve_lines(path, echo):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["directory" * 5] * 4, "socket")
    path.parent.mkdir(parents=True)
    assert len(os.fsencode(path)) > 107
    before = len(os.listdir("/proc/self/fd"))
    async with serve_lines(path, echo):
        link = await connect(f"unix:{path}", deadline=SHORT)
        await link.send("a")
        assert await link.receive() == "a"
        await link.close("")
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_name_too_long_even_so_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="too long for a socket"):
        async with serve_lines(tmp_path / ("s" * 120), echo):
            raise AssertionError("served")


async def test_a_dead_servers_socket_is_replaced_and_a_living_ones_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve_lines(path, echo):
        with pytest.raises(Refused, match="somebody else serves it"):
            async with serve_lines(path, echo):
                raise AssertionError("served")
        link = await connect(f"unix:{path}", deadline=SHORT)
        await link.close("")


async def test_a_file_in_the_way_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(Refused, match="no socket"):
        async with serve_lines(path, echo):
            raise AssertionError("served")
    assert path.read_text() == "precious"


async def test_a_directory_that_is_not_there_is_broken(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="No such file"):
        async with serve_lines(tmp_path / "none" / "s", echo):
            raise AssertionError("served")


async def test_one_bad_link_leaves_the_others_alone(tmp_path: Path) -> None:
    async def choosy(link: LineLink) -> None:
        while True:
            text = await link.receive()
            if text == "bad":
                raise Malformed("message", "bad")
            await link.send(text)

    async with serve_lines(tmp_path / "s", choosy):
        good = await connect(f"unix:{tmp_path / 's'}", deadline=SHORT)
        bad = await connect(f"unix:{tmp_path / 's'}", deadline=SHORT)
        await bad.send("bad")
        with pytest.raises(Closed):
            await bad.receive()
        await good.send("a")
        assert await good.receive() == "a"
        await good.close("")
        await bad.close("")


async def test_the_end_of_serving_ends_its_links(tmp_path: Path) -> None:
    async with serve_lines(tmp_path / "s", echo):
        link = await connect(f"unix:{tmp_path / 's'}", deadline=SHORT)
        await link.send("a")
        assert await link.receive() == "a"
    with pytest.raises(Closed):
        await link.receive()
    await link.close("")


async def test_a_relay_copies_lines_to_frames_and_back_unread_until_an_end_goes(tmp_path: Path) -> None:
    """As a host's agent does for its machine: here the server echoes frames."""
    ended = asyncio.Event()

    async with serve(echo_frames, "127.0.0.1", 0) as server:

        async def on_machine(machine: LineLink) -> None:
            outward = await connect(f"ws://127.0.0.1:{port_of(server)}/agent", deadline=SHORT)
            await relay(machine, outward)
            with pytest.raises(Closed):
                await outward.send("x")
            ended.set()

        async with serve_lines(tmp_path / "s", on_machine):
            machine = await connect(f"unix:{tmp_path / 's'}", deadline=SHORT)
            for text in ("not even JSON", '{"a":"é"}', "x" * 100_000):
                await machine.send(text)
                assert await machine.receive() == text
            await machine.close("")
            async with asyncio.timeout(5):
                await ended.wait()


async def test_a_relay_ends_when_the_server_goes(tmp_path: Path) -> None:
    async def one_word(connection: ServerConnection) -> None:
        await connection.send("word")

    async with serve(one_word, "127.0.0.1", 0) as server:

        async def on_machine(machine: LineLink) -> None:
            await relay(await connect(f"ws://127.0.0.1:{port_of(server)}", deadline=SHORT), machine)

        async with serve_lines(tmp_path / "s", on_machine):
            machine = await connect(f"unix:{tmp_path / 's'}", deadline=SHORT)
            assert await machine.receive() == "word"
            with pytest.raises(Closed):
                await machine.receive()
            await machine.close("")


async def test_a_relay_ends_at_bytes_that_no_frame_can_carry(tmp_path: Path) -> None:
    async with serve(echo_frames, "127.0.0.1", 0) as server:

        async def on_machine(machine: LineLink) -> None:
            await relay(machine, await connect(f"ws://127.0.0.1:{port_of(server)}", deadline=SHORT))

        async with serve_lines(tmp_path / "s", on_machine):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
            writer.write(b"\xff\n")
            assert await reader.read() == b""
            writer.close()


async def test_a_relay_that_is_cancelled_closes_both_ends() -> None:
    machine, raw = await pair()
    outward, other = await pair()
    relaying = asyncio.create_task(relay(machine, outward))
    raw.sendall(b"a\n")
    await asyncio.sleep(0.01)
    relaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relaying
    assert other.recv(10) == b"a\n"
    assert raw.recv(10) == other.recv(10) == b""
    raw.close()
    other.close()


async def test_a_relay_passes_back_pressure_on() -> None:
    """The machine writes and the server does not read: little stands in between, so the machine has to wait."""
    machine, raw = await pair()
    outward, stuck = await pair()
    relaying = asyncio.create_task(relay(machine, outward))
    taken = 0
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += raw.send(b"x" * 999 + b"\n")
        await asyncio.sleep(0.001)
    assert taken < 4 << 20
    stuck.close()
    async with asyncio.timeout(5):
        await relaying
    raw.close()


async def test_what_is_put_was_read_before_who_put_it_leaves(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        putting = asyncio.create_task(lines.put(tmp_path / "socket", b"typed\n"))
        connection, _ = await loop.sock_accept(listener)
        with connection:
            assert await loop.sock_recv(connection, 2) == b"ty"
            await asyncio.sleep(0.03)
            assert not putting.done()
            assert await loop.sock_recv(connection, 10) == b"ped\n"
            await asyncio.wait_for(putting, 5)
            assert await loop.sock_recv(connection, 1) == b""
