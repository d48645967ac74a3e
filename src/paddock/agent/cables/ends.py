"""One end of a cable: frames, each with its length before it, to a machine's card.

Effects: none of its own; it dials a socket and carries what it is given.
"""

import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

QUEUE = 1 << 20
"""Bytes that wait for a machine which does not read; further frames to it are dropped, as on any wire."""
LONGEST = 1 << 17
"""Bytes of a frame. QEMU sends at most 68 KiB; who says more is not speaking frames."""
SHORTEST = 14
HEAD = 4
_ROOM = 1 << 18

Frames = Callable[[memoryview, list[int]], None]
"""Takes whole frames, with their lengths, one after the other, and where each begins and the last ends; the view is
good until it returns.
"""


class Gone(Exception):
    """The other end has closed, or does not speak frames."""


class End:
    """A connection to one card. Frames go out whole or not at all, in order; a new connection begins anew."""

    def __init__(self, directory: Path, name: str) -> None:
        """The socket lies in a directory that is its owner's alone; its path may be longer than a socket's may."""
        self._directory = directory
        self._name = name
        self.socket: socket.socket | None = None
        self._buffer = bytearray(_ROOM)
        self._filled = 0
        self._waiting: deque[memoryview] = deque()
        self._size = 0

    @property
    def is_full(self) -> bool:
        """Whether something waits for the socket to take it."""
        return bool(self._waiting)

    def dial(self) -> bool:
        """Whether it is joined now. Nobody there yet is no trouble: again later."""
        dialled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            dialled.settimeout(0)
            directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                dialled.connect(f"/proc/self/fd/{directory}/{self._name}")
            finally:
                os.close(directory)
        except OSError:
            dialled.close()
            return False
        self.close()
        self.socket = dialled
        return True

    def close(self) -> None:
        """It is joined to nobody, and nothing waits. Again is no harm."""
        if self.socket is not None:
            self.socket.close()
        self.socket = None
        self._filled = self._size = 0
        self._waiting.clear()

    def receive(self, take: Frames) -> None:
        """Read once, and give whole frames away. Gone if there will be no more."""
        if self.socket is None:
            return
        view = memoryview(self._buffer)
        try:
            got = self.socket.recv_into(view[self._filled :])
        except BlockingIOError:
            return
        except OSError as exc:
            raise Gone from exc
        if not got:
            raise Gone
        end = self._filled + got
        places = _places(self._buffer, end)
        whole = places[-1]
        if whole:
            take(view[:whole], places)
            self._buffer[: end - whole] = self._buffer[whole:end]
        self._filled = end - whole

    def send(self, frames: memoryview) -> None:
        """Send whole frames, or let them wait, or drop them all where too much waits already."""
        if self.socket is None:
            return
        if self._waiting:
            if self._size + len(frames) <= QUEUE:
                self._wait(frames)
            return
        sent = 0
        with suppress(OSError):  # whether it is full or gone is seen when it is read from
            sent = self.socket.send(frames)
        if sent < len(frames):
            self._wait(frames[sent:])

    def flush(self) -> None:
        """Send of what waits as much as goes."""
        while self._waiting and self.socket is not None:
            first = self._waiting[0]
            try:
                sent = self.socket.send(first)
            except OSError:
                return
            self._size -= sent
            if sent < len(first):
                self._waiting[0] = first[sent:]
                return
            self._waiting.popleft()

    def _wait(self, frames: memoryview) -> None:
        self._waiting.append(memoryview(bytes(frames)))
        self._size += len(frames)


def _places(buffer: bytearray, end: int) -> list[int]:
    """Where each whole frame begins, and where the last one ends."""
    place = 0
    places = [0]
    while end - place >= HEAD:
        size = int.from_bytes(buffer[place : place + HEAD], "big")
        if not SHORTEST <= size <= LONGEST:
            raise Gone
        place += HEAD + size
        if place > end:
            break
        places.append(place)
    return places
