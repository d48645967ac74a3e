"""What a container printed, as the Engine sends it: messages in frames, or one after the other from a terminal."""

import calendar
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from paddock.core.errors import Broken

_HEADER = 8
_STAMP = len("2026-01-02T03:04:05.000000000Z ")
_PART = 16 << 10
"""Bytes after which the Engine cuts a line into several messages."""
_LARGEST = 16 << 20
_SYSTEM = 3
"""The stream in which the Engine itself complains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message: when the Engine took it, and its bytes."""

    second: int
    nano: int
    stamp: bytes
    data: bytes


@dataclass(kw_only=True)
class Reader:
    """Cuts a stream into messages. With `tty` there are no frames: lines follow each other, long ones in parts."""

    tty: bool
    _buffer: bytearray = field(default_factory=bytearray)
    _day: tuple[bytes, int] = (b"", 0)

    def feed(self, piece: bytes) -> Iterator[Message]:
        """The messages that are whole now. Broken for what the Engine cannot have meant, or complains of."""
        self._buffer += piece
        at = 0
        while (end := self._end(at)) is not None:
            start = at if self.tty else at + _HEADER
            yield self._message(bytes(self._buffer[start:end]))
            at = end
        del self._buffer[:at]

    @property
    def rest(self) -> int:
        """Bytes of a message that did not come to its end."""
        return len(self._buffer)

    def finish(self) -> Iterator[Message]:
        """What a terminal left without an end of its line."""
        if self.tty and len(self._buffer) > _STAMP:
            yield self._message(bytes(self._buffer))
            self._buffer.clear()

    def _end(self, at: int) -> int | None:
        if self.tty:
            return self._end_of_line(at)
        if len(self._buffer) - at < _HEADER:
            return None
        kind, size = self._buffer[at], int.from_bytes(self._buffer[at + 4 : at + _HEADER], "big")
        if kind > _SYSTEM or size > _LARGEST:
            raise Broken("Docker Engine: sends no frames where they are due")
        end = at + _HEADER + size
        if len(self._buffer) < end:
            return None
        if kind == _SYSTEM:
            complaint = bytes(self._buffer[at + _HEADER : end]).decode("utf-8", "replace").strip()
            raise Broken(f"Docker Engine: {complaint}")
        return end

    def _end_of_line(self, at: int) -> int | None:
        begin = at + _STAMP
        if len(self._buffer) <= begin:
            return None
        end = self._buffer.find(b"\n", begin, begin + _PART)
        if end >= 0:
            return end + 1
        return begin + _PART if len(self._buffer) >= begin + _PART else None

    def _message(self, text: bytes) -> Message:
        stamp = text[:_STAMP]
        try:
            moment, nano = stamp[:19], int(stamp[20:29])
            if moment != self._day[0]:
                self._day = (moment, calendar.timegm(time.strptime(moment.decode("ascii"), "%Y-%m-%dT%H:%M:%S")))
        except ValueError as exc:
            raise Broken(f"Docker Engine: a message without its moment: {text[:40]!r}") from exc
        return Message(second=self._day[1], nano=nano, stamp=stamp, data=text[_STAMP:])
