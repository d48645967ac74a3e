"""A queue of lines on disk: bounded, in order, and what does not fit is counted.

Effects: idempotent. A line is in the kernel's hands when `append` returns, and so is the place up to which somebody has
taken them: a killed process loses neither. Nothing is synced: a power cut may cost the last seconds of lines, and may
bring lines again that were taken; a line of a log is not worth a flush of the disk.
"""

import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SEGMENT = 256 << 10
"""Bytes of one file; a longer line has a file of its own."""
SEGMENTS = 16
"""So many files at most: the oldest one gives way."""
_PLACE = "place"
_NUMBERS = struct.Struct("<QQQQ")  # segment and offset up to which is read; lost before that place; dropped after all


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Lines in their order; `lost` were dropped before the first of them. `segment` and `offset` are where they end."""

    lines: tuple[bytes, ...]
    lost: int
    segment: int
    offset: int


class Segments:
    """Used from any thread. Opened by its first use; what the disk does not take is counted, and nothing is raised."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._is_open = False
        self._writing = -1
        self._size = 0
        self._numbers: list[int] = []
        self._place = -1
        self._segment = 0
        self._offset = 0
        self._lost = 0
        self._dropped = 0

    def append(self, line: bytes, *, gap: Callable[[int], bytes]) -> bool:
        """Put a line (without its end) behind all others; False if it counts as dropped.

        `gap` is the line that tells how many were dropped before this one: it goes with it, or both do not go.
        """
        with self._lock:
            try:
                self._open()
                data = (gap(self._dropped) + b"\n" if self._dropped else b"") + line + b"\n"
                self._make_room(len(data))
                self._write(data)
            except OSError:
                self._count(dropped=1)
                return False
            if self._dropped:
                self._count(dropped=-self._dropped)
            return True

    def drop(self) -> None:
        """A line is not kept: only counted."""
        with self._lock:
            with suppress(OSError):
                self._open()
            self._count(dropped=1)

    def peek(self, *, lines: int, size: int) -> Taken:
        """The oldest lines that were not taken, at most so many and so many bytes, but one if there is one."""
        with self._lock:
            found: tuple[bytes, ...] = ()
            with suppress(OSError):
                self._open()
                if self._is_empty():
                    return Taken(lines=(), lost=0, segment=self._segment, offset=self._offset)
                found = self._read(lines, size)
                while not found and self._numbers and self._segment < self._numbers[-1]:
                    self._leave_segment()  # it is read to its end
                    found = self._read(lines, size)
                if not found and self._dropped:
                    # Nothing is left that could stand before them.
                    self._count(lost=self._dropped, dropped=-self._dropped)
            end = self._offset + sum(len(line) + 1 for line in found)
            return Taken(lines=found, lost=self._lost, segment=self._segment, offset=end)

    def take(self, taken: Taken) -> None:
        """Nobody needs these any more."""
        with self._lock:
            if (taken.segment, taken.offset) > (self._segment, self._offset):
                self._segment, self._offset = taken.segment, taken.offset
            self._count(lost=-min(taken.lost, self._lost))

    def close(self) -> None:
        """Give the descriptors back; a later use opens it again. Idempotent."""
        with self._lock:
            for handle in (self._writing, self._place):
                if handle >= 0:
                    os.close(handle)
            self._writing = self._place = -1
            self._is_open = False

    # With the lock held

    def _is_empty(self) -> bool:
        """Whether nothing is to be told; asked all the time, so without a look at the disk."""
        if self._lost or self._dropped:
            return False
        return not self._numbers or (self._segment == self._numbers[-1] and self._offset >= self._size)

    def _open(self) -> None:
        if self._is_open:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._place < 0:
            self._place = os.open(self._directory / _PLACE, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            stored = os.pread(self._place, _NUMBERS.size, 0)
            if len(stored) == _NUMBERS.size:
                self._segment, self._offset, lost, dropped = _NUMBERS.unpack(stored)
                self._lost, self._dropped = self._lost + lost, self._dropped + dropped
        self._numbers = sorted(int(name.name) for name in self._directory.iterdir() if name.name.isdecimal())
        if self._numbers:
            self._writing = os.open(self._path(self._numbers[-1]), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._size = self._mend()
        self._check_place()
        self._is_open = True

    def _check_place(self) -> None:
        """The place is within a file that is there; after a power cut it may be ahead of what was written."""
        if self._numbers and self._segment < self._numbers[0]:
            self._segment, self._offset = self._numbers[0], 0
        elif self._segment in self._numbers:
            self._offset = min(self._offset, self._path(self._segment).stat().st_size)

    def _mend(self) -> int:
        """The length of the newest file without the half of a line that a killed writer left."""
        size = os.fstat(self._writing).st_size
        tail = os.pread(self._writing, SEGMENT, max(size - SEGMENT, 0))
        whole = size - len(tail) + tail.rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(self._writing, whole)
            self._count(dropped=1)
        return whole

    def _make_room(self, wanted: int) -> None:
        if self._writing < 0 or (self._size and self._size + wanted > SEGMENT):
            number = max([*self._numbers, self._segment]) + 1
            fresh = os.open(self._path(number), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
            if self._writing >= 0:
                os.close(self._writing)
            self._writing, self._size = fresh, 0
            self._numbers.append(number)
        while len(self._numbers) > SEGMENTS:
            self._check_place()
            self._leave_segment()

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._writing, data)
            if written < len(data):
                raise OSError("the disk takes a part only")
        except OSError:
            os.ftruncate(self._writing, self._size)
            raise
        self._size += len(data)

    def _read(self, most: int, size: int) -> tuple[bytes, ...]:
        if self._segment not in self._numbers:
            return ()
        handle = os.open(self._path(self._segment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(handle, size, self._offset)
            if data and b"\n" not in data:
                data = os.pread(handle, os.fstat(handle).st_size, self._offset)
        finally:
            os.close(handle)
        return tuple(data.split(b"\n")[:-1][:most])

    def _leave_segment(self) -> None:
        """On to the next file; what was not read of this one is lost, and counted."""
        path = self._path(self._segment)
        with suppress(OSError):
            self._lost += path.read_bytes()[self._offset :].count(b"\n")
            path.unlink()
        self._numbers = [number for number in self._numbers if number != self._segment]
        self._segment, self._offset = (self._numbers or [self._segment + 1])[0], 0
        self._count()

    def _count(self, *, lost: int = 0, dropped: int = 0) -> None:
        self._lost += lost
        self._dropped += dropped
        if self._place >= 0:
            with suppress(OSError):
                os.pwrite(self._place, _NUMBERS.pack(self._segment, self._offset, self._lost, self._dropped), 0)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08d}"
