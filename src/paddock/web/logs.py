"""Logs as people read them: windows of lines, with times, searched and merged.

Nothing here reads a whole log to show a part of it. A log is indexed once (how many lines begin before each block), the
index grows with the log, and a window is found by bisection. Times stand in the sibling file `.times`, in order of
offset, and are found by bisection on disk.
"""

import asyncio
import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge

from paddock.core.errors import Missing, Refused
from paddock.ports import Archive
from paddock.web.ansi import Pen, plain, render
from paddock.wire.shapes import Line

BLOCK = 64 * 1024
_PIECE = 1024 * 1024
_WINDOW = 1024 * 1024
"""Bytes that one window of lines reads at most, however long its lines are."""
_AT_ONCE = 8 * 1024 * 1024
"""Bytes of a log that are indexed while somebody waits for a page."""
_HITS = 1000
_KEPT = 256
"""Indexes that are kept in memory; one of a 200 MB log is 25 KiB."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One line as the page shows it. `html` is safe; `number` counts from 1."""

    number: int
    offset: int
    at: str
    html: str


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some lines of a log, and how long the log is by now."""

    first: int
    lines: tuple[Shown, ...]
    total: int
    length: int
    is_partial: bool = False
    """Whether `total` counts only what was read: the log is long and was not indexed yet."""


@dataclass
class _Index:
    """Newlines before each block of a log. Not frozen: it grows as the log does."""

    before: list[int] = field(default_factory=lambda: [0])
    length: int = 0
    newlines: int = 0
    ends_line: bool = True
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def total(self) -> int:
        return self.newlines + (0 if self.ends_line else 1)

    def take(self, data: bytes) -> None:
        """Count what follows on what was counted before."""
        position = 0
        while position < len(data):
            room = BLOCK - self.length % BLOCK
            part = data[position : position + room]
            self.newlines += part.count(b"\n")
            self.length += len(part)
            position += len(part)
            if self.length % BLOCK == 0:
                self.before.append(self.newlines)
        if data:
            self.ends_line = data.endswith(b"\n")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One log of a run: what one step printed on one machine."""

    name: str
    """`main-1-one`: phase, number of the step from 1, machine."""
    phase: str
    step: int
    title: str
    machine: str
    archive: str
    """Its name in the archive."""
    length: int = 0
    ended: bool = True
    state: str = ""
    exit: int | None = None
    began: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A line and where the next one begins."""

    line: Line
    end: int


class Logs:
    """Reads logs out of the archive for pages and API."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._indexes: OrderedDict[str, _Index] = OrderedDict()

    async def window(self, name: str, *, first: int, count: int) -> Window:
        """`count` lines from line `first` (from 1; negative: from the end). Fewer where they are very long."""
        index = await self._indexed(name)
        if first < 0:
            first = max(1, index.total + first + 1)
        first = max(1, first)
        if first > index.total:
            return Window(first=first, lines=(), total=index.total, length=index.length)
        # The newline before the wanted line stands in the last block before which fewer newlines were counted.
        block = max(0, bisect_left(index.before, first - 1) - 1)
        start = block * BLOCK
        data = await self._archive.read(name, start, min(index.length - start, BLOCK + _WINDOW))
        position = 0
        for _ in range(first - 1 - index.before[block]):
            position = data.index(b"\n", position) + 1
        lines = await self._shown(name, data[position:], start + position, first, count)
        return Window(first=first, lines=tuple(lines), total=index.total, length=index.length)

    async def opening(self, name: str, *, count: int) -> Window:
        """The first lines at once, however long the log is; the number of all lines is not known from it."""
        length = await self._archive.length(name) or 0
        if length <= _AT_ONCE or name in self._indexes:
            return await self.window(name, first=1, count=count)
        data = await self._archive.read(name, 0, _WINDOW // 4)
        lines = tuple(await self._shown(name, data, 0, 1, count))
        return Window(first=1, lines=lines, total=len(lines), length=length, is_partial=True)

    def is_quick(self, stream: "Stream") -> bool:
        """Whether any window of a log can be had without reading much of it first."""
        return stream.length <= _AT_ONCE or stream.archive in self._indexes

    async def search(self, name: str, text: str) -> tuple[list[int], bool]:
        """Numbers of the lines that hold `text` in any case, and whether there are more than are told."""
        index = await self._indexed(name)
        wanted = re.compile(re.escape(text.encode()), re.IGNORECASE)
        hits: list[int] = []
        offset, number, rest = 0, 1, b""
        while offset < index.length:
            piece = await self._archive.read(name, offset, min(_PIECE, index.length - offset))
            if not piece:
                break
            offset += len(piece)
            data = rest + piece
            # The last line of a piece is looked at with the next one, unless it is longer than anybody reads.
            cut = data.rfind(b"\n") + 1 if offset < index.length and len(data) < 4 * _PIECE else len(data)
            whole, rest = data[:cut], data[cut:]
            position = 0
            for found in wanted.finditer(whole):
                number += whole.count(b"\n", position, found.start())
                position = found.start()
                if not hits or hits[-1] != number:
                    hits.append(number)
                if len(hits) > _HITS:
                    return hits[:_HITS], True
            number += whole.count(b"\n", position)
            await asyncio.sleep(0)
        return hits, False

    async def times(self, name: str, start: int, end: int) -> list[tuple[int, str]]:
        """(offset, moment) of the parts of a log, from the one that holds `start` to the last before `end`."""
        times = f"{name.removesuffix('.log')}.times"
        length = await self._archive.length(times)
        if not length:
            return []
        low, high = 0, length
        while high - low > 4096:
            middle = (low + high) // 2
            found = _entries(await self._archive.read(times, middle, 512), is_cut=True)
            if not found or found[0][0] > start:
                high = middle
            else:
                low = middle
        entries = _entries(await self._archive.read(times, low, _PIECE), is_cut=low > 0)
        begin = max(0, bisect_right(entries, start, key=lambda entry: entry[0]) - 1)
        return [entry for entry in entries[begin:] if entry[0] < end]

    async def merged(self, streams: Sequence[Stream], *, cursor: str, count: int) -> tuple[list[Line], str]:
        """The next lines of all streams in the order in which they were written, and where to read on.

        An empty cursor begins at the beginning; `end` begins so that about `count` of the newest lines follow. A last
        line without its newline is told once nothing more can follow it.
        """
        is_end = cursor == "end"
        offsets = await self._near_end(streams, count) if is_end else _offsets(cursor)
        parts: list[list[_Part]] = []
        horizon = ""
        for stream in streams:
            # From near the end all is read: which lines are the newest shows only once they are merged.
            part, is_cut = await self._following(stream, offsets.get(stream.name, 0), _WINDOW if is_end else count)
            parts.append(part)
            # Beyond the last line that was read of a longer stream its next lines may be older than those of others.
            if is_cut and part and (last := part[-1].line.at):
                horizon = min(horizon or last, last)
        found = list(merge(*parts, key=lambda part: part.line.at or ""))
        if horizon:
            found = [part for part in found if (part.line.at or "") <= horizon]
        found = found[-count:] if is_end else found[:count]
        if is_end:
            offsets |= {stream[-1].line.stream: stream[-1].end for stream in parts if stream}
        else:
            offsets |= {part.line.stream: part.end for part in found}
        told = ",".join(f"{name}:{offset}" for name, offset in sorted(offsets.items()) if offset)
        return [part.line for part in found], told

    async def _near_end(self, streams: Sequence[Stream], count: int) -> dict[str, int]:
        """Offsets of line beginnings from where about `count` lines follow in each stream."""
        offsets = {}
        for stream in streams:
            length = await self._archive.length(stream.archive) or 0
            start = max(0, length - min(_WINDOW, count * 200))
            if start:
                data = await self._archive.read(stream.archive, start, length - start)
                start += data.find(b"\n") + 1
            offsets[stream.name] = start
        return offsets

    async def _following(self, stream: Stream, offset: int, count: int) -> tuple[list[_Part], bool]:
        """Up to `count` lines from `offset`, and whether the stream goes on behind them."""
        length = await self._archive.length(stream.archive) or 0
        if offset >= length:
            return [], False
        data = await self._archive.read(stream.archive, offset, min(_WINDOW, length - offset))
        whole = len(data) if stream.ended and offset + len(data) >= length else data.rfind(b"\n") + 1
        if not whole and len(data) >= _WINDOW:
            whole = len(data)
        times = await self.times(stream.archive, offset, offset + whole)
        parts = []
        for start, end in _line_bounds(data[:whole], count):
            at = _time_at(times, offset + start)
            text = plain(data[start:end].rstrip(b"\n").decode("utf-8", "replace"))
            line = Line(stream=stream.name, machine=stream.machine, offset=offset + start, at=at or None, text=text)
            parts.append(_Part(line=line, end=offset + end))
        return parts, bool(parts) and parts[-1].end < length

    async def _indexed(self, name: str) -> _Index:
        """The index of a log, brought up to its present length. `Missing` where there is no such log."""
        length = await self._archive.length(name)
        if length is None:
            raise Missing(f"log {name}: there is none")
        index = self._indexes.setdefault(name, _Index())
        self._indexes.move_to_end(name)
        while len(self._indexes) > _KEPT:
            self._indexes.popitem(last=False)
        async with index.busy:
            while index.length < length:
                piece = await self._archive.read(name, index.length, min(_PIECE, length - index.length))
                if not piece:
                    break
                index.take(piece)
        return index

    async def _shown(self, name: str, data: bytes, offset: int, first: int, count: int) -> list[Shown]:
        bounds = list(_line_bounds(data, count))
        if not bounds:
            return []
        times = await self.times(name, offset, offset + bounds[-1][1])
        pen = Pen()
        return [
            Shown(
                number=first + index,
                offset=offset + start,
                at=_time_at(times, offset + start),
                html=render(data[start:end].rstrip(b"\n").decode("utf-8", "replace"), pen),
            )
            for index, (start, end) in enumerate(bounds)
        ]


def _line_bounds(data: bytes, count: int) -> Iterator[tuple[int, int]]:
    position = 0
    for _ in range(count):
        if position >= len(data):
            return
        end = data.find(b"\n", position) + 1 or len(data)
        yield position, end
        position = end


def _entries(data: bytes, *, is_cut: bool) -> list[tuple[int, str]]:
    """The whole lines of a piece of a times file; the first is left out where it may be cut."""
    lines = data.split(b"\n")[1 if is_cut else 0 : -1]
    entries = []
    for line in lines:
        offset, _, at = line.partition(b" ")
        if offset.isdigit():
            entries.append((int(offset), at.decode("ascii", "replace")))
    return entries


def _time_at(times: Sequence[tuple[int, str]], offset: int) -> str:
    position = bisect_right(times, offset, key=lambda entry: entry[0])
    return times[position - 1][1] if position else ""


def _offsets(cursor: str) -> dict[str, int]:
    """A cursor as offsets; `Refused` for one that this server did not write."""
    offsets = {}
    for part in filter(None, cursor.split(",")):
        name, _, offset = part.rpartition(":")
        if not name or not (offset.isascii() and offset.isdigit()) or len(offset) > 15:
            raise Refused("cursor: it is not one that was given out")
        offsets[name] = int(offset)
    return offsets
