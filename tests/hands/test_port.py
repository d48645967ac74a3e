"""The guest's end of a serial line: nobody there, somebody new there, and half messages in between."""

import asyncio
import contextlib
import os
import pty
import select
import socket
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from paddock.core.errors import Refused
from paddock.hands.lines import LineLink
from paddock.hands.link import Closed, Unreachable
from paddock.hands.port import Port

OPENING = b"\n\n"


class Host:
    """The host's end of a pty that stands for the line."""

    def __init__(self) -> None:
        self.handle, guest = pty.openpty()
        tty.setraw(self.handle)
        self.path = Path(os.ttyname(guest))
        os.close(guest)
        os.set_blocking(self.handle, False)

    def say(self, data: bytes) -> None:
        assert os.write(self.handle, data) == len(data)

    async def hear(self, wanted: bytes) -> bytes:
        """What comes, up to and with what is wanted."""
        found = b""
        async with asyncio.timeout(5):
            while wanted not in found:
                with contextlib.suppress(BlockingIOError, OSError):
                    found += os.read(self.handle, 4096)
                await asyncio.sleep(0.005)
        return found

    def go(self) -> None:
        os.close(self.handle)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    with contextlib.suppress(OSError):
        made.go()


async def session(port: Port) -> LineLink:
    async with asyncio.timeout(5):
        return await port.session()  # type: ignore[return-value]


async def test_it_says_nothing_but_that_it_is_there_until_the_other_side_opens(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    assert await host.hear(OPENING) == OPENING
    assert not opening.done()
    host.say(OPENING)
    link = await opening
    await link.send("hello")
    assert (await host.hear(b"hello\n")).strip(b"\n") == b"hello"
    port.close()


async def test_what_came_before_the_opening_is_thrown_away_half_a_message_included(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    await host.hear(OPENING)
    host.say(b'an answer to somebody else\n{"half')
    host.say(OPENING + b"for us\n")
    link = await opening
    assert await link.receive() == "for us"
    port.close()


async def test_another_opening_ends_the_session_and_begins_the_next_one(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    await host.hear(OPENING)
    host.say(OPENING + b"one\n")
    first = await opening
    assert await first.receive() == "one"
    host.say(b'{"half a mess' + OPENING + b"two\n")
    with pytest.raises(Closed, match="began a new session"):
        await first.receive()
    second = await session(port)
    assert await second.receive() == "two"
    with pytest.raises(Closed):
        await first.send("late")
    port.close()


async def test_an_opening_that_comes_in_two_pieces_is_one(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    await host.hear(OPENING)
    host.say(b"\n")
    link = await opening
    host.say(b"\n")
    host.say(b"for us\n")
    assert await link.receive() == "for us"
    port.close()


@pytest.mark.slow
async def test_an_opening_is_heard_though_no_message_came_since_the_last(host: Host) -> None:
    """The host's agent died between its opening and the answer to hello: who comes after it needs another hello."""
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    await host.hear(OPENING)
    host.say(OPENING)
    link = await opening
    await asyncio.sleep(0.15)  # longer than the newlines of one opening may be apart
    host.say(OPENING)
    with pytest.raises(Closed, match="began a new session"):
        async with asyncio.timeout(5):
            await link.receive()
    port.close()


async def test_the_end_of_the_other_side_ends_the_session(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    await host.hear(OPENING)
    host.say(OPENING)
    link = await opening
    host.go()
    with pytest.raises(Closed):
        async with asyncio.timeout(5):
            await link.receive()
    port.close()


@pytest.mark.slow
async def test_a_line_where_nobody_is_costs_no_time(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(port.session())
    await host.hear(OPENING)
    host.go()
    before = os.times()
    with pytest.raises((TimeoutError, Unreachable)):
        async with asyncio.timeout(1):
            await opening
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.2
    port.close()


async def test_a_device_that_comes_later_is_unreachable_until_then(tmp_path: Path) -> None:
    port = Port(tmp_path / "org.paddock.0")
    port.check()
    with pytest.raises(Unreachable, match="No such file"):
        await port.session()


def test_what_is_no_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="not a character device"):
        Port(tmp_path / "file").check()


async def test_it_waits_with_what_the_other_side_does_not_read_and_loses_none_of_it(host: Host) -> None:
    port = Port(host.path)
    opening = asyncio.ensure_future(session(port))
    await host.hear(OPENING)
    host.say(OPENING)
    link = await opening
    text = "x" * 300_000
    sending = asyncio.ensure_future(link.send(text))
    done, _ = await asyncio.wait({sending}, timeout=0.05)
    assert not done
    heard = await host.hear(b"x\n")
    await sending
    assert heard.strip(b"\n") == text.encode()
    port.close()


class VirtioPort(Port):
    """Behaves as the kernel's driver does while nobody is at the host's end: hung up, reads nothing, takes nothing."""

    def __init__(self, ours: socket.socket) -> None:
        super().__init__(Path("/dev/virtio-ports/org.paddock.0"))
        self._ours = ours
        self.is_absent = True

    def _open(self) -> None:
        self._handle = os.dup(self._ours.fileno())

    def _is_alone(self) -> bool:
        return self.is_absent

    def _put(self, piece: bytes) -> int:
        if self.is_absent:
            raise BlockingIOError
        return super()._put(piece)


async def test_a_port_is_kept_open_while_nobody_is_there_lest_an_opening_is_lost() -> None:
    ours, theirs = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    port = VirtioPort(ours)
    opening = asyncio.ensure_future(session(port))
    await asyncio.sleep(0)
    host = LineLink(*await asyncio.open_unix_connection(sock=theirs), serial=True)
    await host.begin()
    port.is_absent = False
    link = await opening
    await link.send("hello")
    async with asyncio.timeout(5):
        assert await host.receive() == "hello"
        await host.send("welcome")
        assert await link.receive() == "welcome"
    await host.close("")
    port.close()


async def test_half_a_message_from_before_a_reconnection_does_not_reach_who_comes_after() -> None:
    """Facts: the host's end closed and opened again in the middle of a line, and the guest saw no end of file."""
    ours, theirs = socket.socketpair(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    port = VirtioPort(ours)
    port.is_absent = False
    opening = asyncio.ensure_future(session(port))
    before = LineLink(*await asyncio.open_unix_connection(sock=theirs.dup()), serial=True)
    await before.begin()
    link = await opening
    await link.send("hello")
    async with asyncio.timeout(5):
        assert await before.receive() == "hello"
        await before.send("welcome")
        assert await link.receive() == "welcome"
        before._writer.write(b'{"version":"1","id":"half a mess')
        await before._writer.drain()
        after = LineLink(*await asyncio.open_unix_connection(sock=theirs), serial=True)
        await after.begin()
        with pytest.raises(Closed, match="began a new session"):
            await link.receive()
        link = await session(port)
        await link.send("hello again")
        assert await after.receive() == "hello again"
    assert select.select([ours], [], [], 0)[0] == []
    port.close()
    theirs.close()
    await before.close("")
    await after.close("")
