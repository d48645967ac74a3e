"""The client of the Engine's socket: whole answers or a reason, whatever the other end does."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock_docker.engine import connect, refusal
from paddock_docker.http import Request, asked

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LONG = b"x" * 100_000
ASKED = Request(method="GET", target="/x")


@asynccontextmanager
async def engine(tmp_path: Path, answer: Answer) -> AsyncIterator[Path]:
    """Something that answers on a socket, each connection once."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await answer(reader, writer)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "s"):
        yield tmp_path / "s"


def saying(text: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Byte by byte at first: a head may come in any pieces.
        for at in range(min(len(text), 40)):
            writer.write(text[at : at + 1])
            await writer.drain()
        writer.write(text[40:])
        await writer.drain()

    return answer


async def whole(socket: Path, *, limit: float = 5, most: int = 1 << 20) -> bytes:
    async with asked(socket, ASKED, limit=timedelta(seconds=limit)) as response:
        return await response.whole(most=most, silence=timedelta(seconds=limit))


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more", b"hello"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\nContent-Length: 300000\n\n" + b"x" * 300_000, b"x" * 300_000),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n",
            b"x" * 100_000,
        ),
    ],
)
async def test_a_body_is_read_to_its_end_and_no_further(tmp_path: Path, text: bytes, body: bytes) -> None:
    async with engine(tmp_path, saying(text)) as socket:
        assert await whole(socket) == body


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no HTTP"),
        (b"nonsense\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"\r\n", "more than 200 headers"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000, "no HTTP: a line does not end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "cut off: 1 bytes are missing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "cut off: 2 bytes are missing"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "cut off: it ended within a line"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "cut off"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000, "more than 1000 bytes"),
    ],
)
async def test_what_is_not_whole_is_broken_and_says_where(tmp_path: Path, text: bytes, why: str) -> None:
    async with engine(tmp_path, saying(text)) as socket:
        with pytest.raises(Broken, match=why):
            await whole(socket, most=1000)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "does not answer within 0.05 s"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "says nothing for 0.05 s"),
    ],
)
async def test_an_engine_that_falls_silent_is_given_up(tmp_path: Path, text: bytes, why: str) -> None:
    let_go = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await let_go.wait()

    async with engine(tmp_path, answer) as socket:
        with pytest.raises(Broken, match=why):
            await whole(socket, limit=0.05)
        let_go.set()


async def test_an_answer_that_comes_before_all_was_sent_is_the_answer(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nfull")
        await writer.drain()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await asyncio.sleep(0)

    async with engine(tmp_path, answer) as socket:
        request = Request(method="POST", target="/x", source=endless())
        async with asked(socket, request, limit=timedelta(seconds=5)) as response:
            assert (response.status, await response.whole()) == (500, b"full")


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [("1.41", "1.12", (1, 41)), ("1.52", "1.44", (1, 44)), ("1.24", "1.12", (1, 24)), ("1.9", "1.1", None)],
)
async def test_the_newest_api_that_both_speak_is_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: str, oldest: str, spoken: tuple[int, int] | None
) -> None:
    body = json.dumps({"Version": "1", "ApiVersion": newest, "MinAPIVersion": oldest}).encode()
    answer = saying(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    async with engine(tmp_path, answer) as socket:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
        if spoken is None:
            with pytest.raises(Broken, match=r"speaks API 1\.1 to 1\.9, which this extension does not"):
                await connect()
        else:
            assert (await connect()).api == spoken


async def test_a_version_that_is_none_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine(tmp_path, saying(b'HTTP/1.1 200 OK\r\n\r\n{"ApiVersion": "new"}')) as socket:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{socket}")
        with pytest.raises(Broken, match="calls its API 'new', which is no version"):
            await connect()


@pytest.mark.parametrize(
    ("status", "text", "kind", "message"),
    [
        (400, b'{"message": "invalid reference"}', Refused, "Docker Engine: invalid reference"),
        (404, b'{"message": "No such image: a"}', Missing, "Docker Engine: No such image: a"),
        (409, b"not JSON", Refused, "Docker Engine: not JSON"),
        (500, b"", Broken, "Docker Engine: HTTP 500"),
    ],
)
def test_an_engines_refusal_is_told_in_its_own_words(
    status: int, text: bytes, kind: type[PaddockError], message: str
) -> None:
    found = refusal(status, text)
    assert (isinstance(found, kind), found.message) == (True, message)


async def test_connections_are_closed_however_they_end(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with engine(tmp_path, saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000)) as socket:
        for _ in range(20):
            with pytest.raises(Broken):
                await whole(socket, most=1000)
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
