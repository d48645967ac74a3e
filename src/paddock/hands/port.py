"""The guest's end of a serial line: a device that is there though nobody may be behind it.

A virtio port says so only by polling as hung up, reads as empty then, and takes no byte; what is written in the middle
of a reconnection glues itself to what comes next. So nothing is taken before the other side has opened a session, and
nothing is said before either: each opening of the other side is a session of its own.

Effects: none.
"""

import asyncio
import contextlib
import errno
import functools
import os
import select
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from paddock.core.errors import Refused
from paddock.hands.lines import BEGAN_ANEW, line_of
from paddock.hands.link import Closed, Unreachable
from paddock.wire.framing import SESSION_OPENING, TRANSPORT_LIMIT, Lines, Malformed

T = TypeVar("T")

_CHUNK = 64 << 10
_ANNOUNCE_LIMIT = 1.0
_LOOKS = (0.05, 0.5)
"""Seconds between two looks whether somebody is at the other end: at first, and at last."""


class Port:
    """One device, opened when it is first needed. It holds one session at a time."""

    def __init__(self, path: Path, *, handle: int = -1) -> None:
        """With a `handle` it is open already, in the middle of a session: see `resume`."""
        self._path = path
        self._handle = handle
        self._lines = Lines(limit=TRANSPORT_LIMIT, serial=True, joined=handle >= 0)
        self._ready: deque[bytes] = deque()
        self._is_opened = False
        self._newest: PortLink | None = None

    def check(self) -> None:
        """Refuse what can never be a line; a device that is not there yet may come."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISCHR(self._path.stat().st_mode):
                raise Refused(f"{self._path}: not a character device", hint="virtio:/dev/virtio-ports/org.paddock.0")

    async def session(self) -> "PortLink":
        """A link that begins now, as soon as the other side opens a session; the one before it is over.

        Waits as long as that takes. Unreachable while the device is not there, or another process has it.
        """
        if self._newest is not None:
            await self._newest.close("another session begins")
        if not self._is_opened:
            await self._await_opening()
        self._is_opened = False
        self._newest = PortLink(self)
        await self.write(SESSION_OPENING.encode())
        return self._newest

    @property
    def is_open(self) -> bool:
        """Whether the device is held."""
        return self._handle >= 0

    def resume(self) -> "PortLink":
        """The session that was on when the handle was handed over: nothing is said."""
        os.set_blocking(self._handle, False)
        self._newest = PortLink(self)
        return self._newest

    def detach(self) -> int:
        """A descriptor of the device that stays when this one is closed: the other side notices nothing."""
        return os.dup(self._handle)

    def close(self) -> None:
        """Give the device back. Idempotent."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    async def _await_opening(self) -> None:
        is_announced = False
        while True:
            await self._somebody()
            with contextlib.suppress(Closed, Malformed):
                if not is_announced:
                    # Somebody who was in the middle of a session with whoever was here before has to know.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_ANNOUNCE_LIMIT):
                            await self.write(SESSION_OPENING.encode())
                    is_announced = True
                self._lines.resync()
                self._ready.clear()
                while await self.line():
                    pass
                return

    async def _somebody(self) -> None:
        """Wait until the other end is there. A device that hung up for good, as terminals do, is opened anew."""
        pause = _LOOKS[0]
        while True:
            if self._handle < 0:
                self._open()
            if not self._is_alone():
                return
            if os.isatty(self._handle):
                self.close()
                await asyncio.sleep(pause)
            else:
                await self._stir(pause)
            pause = min(pause * 2, _LOOKS[1])

    async def _stir(self, limit: float) -> None:
        """Wait until something happens at a device that has hung up: that somebody comes wakes only who waits for
        edges. The limit is for kernels that say nothing.
        """
        loop = asyncio.get_running_loop()
        turn = asyncio.Event()
        with select.epoll() as edges:
            edges.register(self._handle, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            edges.poll(0)  # what is so already is the first edge
            if not self._is_alone():
                return
            loop.add_reader(edges.fileno(), turn.set)
            try:
                async with asyncio.timeout(limit):
                    await turn.wait()
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(edges.fileno())

    def _open(self) -> None:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as exc:
            raise Unreachable(f"{self._path}: {exc.strerror}") from exc
        if os.isatty(handle):
            _make_raw(handle)
        self._handle = handle

    def _is_alone(self) -> bool:
        asker = select.poll()
        asker.register(self._handle, 0)  # POLLHUP and POLLERR are told unasked
        return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in asker.poll(0))

    # Bytes

    async def line(self) -> bytes:
        """The next line; empty where the other side begins a session. Closed when the other end is gone."""
        while not self._ready:
            self._ready.extend(self._lines.feed(b""))
            if self._ready:
                break
            data = await self._try(lambda: os.read(self._handle, _CHUNK), write=False)
            if not data:
                raise Closed(f"{self._path}: nobody is at the other end")
            self._ready.extend(self._lines.feed(data))
        return self._ready.popleft()

    async def write(self, data: bytes) -> None:
        """All of it; waits while the other side does not read. Closed when the other end is gone."""
        start = 0
        while start < len(data):
            piece = data[start : start + _CHUNK]
            start += await self._try(functools.partial(self._put, piece), write=True)

    def _put(self, piece: bytes) -> int:
        return os.write(self._handle, piece)

    async def _try(self, act: Callable[[], T], *, write: bool) -> T:
        while True:
            if self._handle < 0:
                raise Closed(f"{self._path}: closed by this side")
            try:
                return act()
            except BlockingIOError:
                if self._is_alone():
                    raise Closed(f"{self._path}: nobody is at the other end") from None
                await self._turn(write=write)
            except OSError as exc:
                if exc.errno == errno.ENODEV:
                    self.close()  # unplugged
                raise Closed(f"{self._path}: {exc.strerror}") from exc

    async def _turn(self, *, write: bool) -> None:
        """Wait until the device can be read or written, or hung up."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()

        def come() -> None:
            if not turn.done():
                turn.set_result(None)

        add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        add(self._handle, come)
        try:
            await turn
        finally:
            remove(self._handle)

    def opened(self) -> None:
        """The other side opened a session while one was on: the next one need not wait for it."""
        self._is_opened = True


class PortLink:
    """One session on a port. See Link."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._is_closed = False
        self._sending = asyncio.Lock()

    async def send(self, text: str) -> None:
        """See Link."""
        line = line_of(text)
        async with self._sending:
            self._check()
            await self._port.write(line)

    async def receive(self) -> str:
        """See Link. An opening of the other side is the end: another session begins."""
        while True:
            self._check()
            line = await self._port.line()
            if line:
                return line.decode("utf-8", "surrogateescape")
            self._port.opened()
            raise Closed(BEGAN_ANEW)

    def detach(self) -> int:
        """See Port."""
        return self._port.detach()

    async def close(self, reason: str) -> None:
        """See Link. The device stays open: closing it would lose what waits in it."""
        self._is_closed = True

    def _check(self) -> None:
        if self._is_closed:
            raise Closed("line: closed by this side")


def _make_raw(handle: int) -> None:
    """No echo, no control characters, no translation: bytes."""
    import termios

    mode = termios.tcgetattr(handle)
    mode[0] = mode[1] = mode[3] = 0
    mode[2] = (mode[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8 | termios.CREAD | termios.CLOCAL
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(handle, termios.TCSANOW, mode)
