"""Which bytes of which output go next: offsets sent and acknowledged, a window a task.

Effects: none; it reads the files in which tasks and skills left their output. What was not acknowledged is sent again.

Sync rules: a keeper writes output without a sync while it comes, and syncs it once before the exit record that states
its length. What is sent may be ahead of our disk; the server acknowledges what it has synced on its own, and nothing
is removed before that. A file that is shorter than its record said (a power cut) is told as missing, never filled up.
"""

import asyncio
import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from paddock.agent import paths
from paddock.agent.entry import Stream
from paddock.core.errors import PaddockError
from paddock.wire.hello import OUTPUT_LIMIT, UNACKNOWLEDGED_LIMIT, Deliver, Output

_log = logging.getLogger(__name__)

_MOST_TIMES = 1000
"""Times in one message: a task that prints byte by byte would fill a message with them."""


class _Times:
    """The index beside a task's output: `<offset> <moment>` a line, read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._offsets: list[int] = []
        self._moments: list[datetime] = []

    def within(self, start: int, end: int) -> list[tuple[int, datetime]]:
        """When the bytes from `start` to `end` were written; the first one's time is always there if it is known."""
        self._grow()
        first = max(bisect_right(self._offsets, start) - 1, 0)
        found = []
        for at in range(first, len(self._offsets)):
            if self._offsets[at] >= end:
                break
            found.append((max(self._offsets[at], start), self._moments[at]))
        return found

    def forget(self, before: int) -> None:
        """What lies before an offset is not asked for any more, but for the one entry that still holds there."""
        kept = max(bisect_right(self._offsets, before) - 1, 0)
        if kept > 4096:
            del self._offsets[:kept], self._moments[:kept]

    def restart(self) -> None:
        """An earlier offset is wanted again."""
        self._read = 0
        self._offsets.clear()
        self._moments.clear()

    def _grow(self) -> None:
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            for line in whole.split(b"\n"):
                with suppress(ValueError, OverflowError):  # a line that a full disk has torn
                    self._add(*_entry(line))

    def _add(self, offset: int, moment: datetime) -> None:
        """Offsets rise. One that does not follows a line that was torn and ran into the next: that one goes."""
        while self._offsets and self._offsets[-1] > offset:
            self._offsets.pop()
            self._moments.pop()
        self._offsets.append(offset)
        self._moments.append(moment)


def _entry(line: bytes) -> tuple[int, datetime]:
    """Both halves of a line of the index. ValueError if it is not whole."""
    offset, _, moment = line.partition(b" ")
    if not offset.isdigit():
        raise ValueError("no offset")
    return int(offset), datetime.fromisoformat(moment.decode("ascii")).astimezone(UTC)


class _Stream:
    """One stream of a task. `length` is None while it grows."""

    def __init__(self, name: str, path: Path, *, length: int | None, times: Path | None) -> None:
        self.name = name
        self.path = path
        self.length = length
        self.sent = 0
        self.acknowledged = 0
        self.is_broken = False
        self._times = _Times(times) if times is not None else None
        self._handle: int | None = None

    @property
    def is_over(self) -> bool:
        """Nothing more of it will be sent."""
        return self.is_broken or (self.length is not None and self.acknowledged >= self.length)

    def take(self, room: int) -> tuple[int, bytes, list[tuple[int, datetime]]] | None:
        """The next piece, at most `room` bytes; None if there is none now. A file that cannot be read is broken."""
        most = min(room, OUTPUT_LIMIT)
        if self.length is not None:
            most = min(most, self.length - self.sent)
        if most <= 0 or self.is_broken:
            return None
        data = self._read(most)
        if not data:
            return None
        offset = self.sent
        times = self._times_within(offset, offset + len(data))
        if len(times) > _MOST_TIMES and times[_MOST_TIMES][0] > offset:
            data = data[: times[_MOST_TIMES][0] - offset]
            times = times[:_MOST_TIMES]
        self.sent += len(data)
        return offset, data, times

    def acknowledge(self, offset: int) -> None:
        self.acknowledged = max(self.acknowledged, offset)
        self.sent = max(self.sent, offset)
        if self._times is not None:
            self._times.forget(self.acknowledged)
        if self.is_over:
            self.close()

    def rewind(self, offset: int) -> None:
        if self._times is not None and offset < self.acknowledged:
            self._times.restart()
        self.sent = self.acknowledged = offset

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _times_within(self, start: int, end: int) -> list[tuple[int, datetime]]:
        """Whatever is wrong with the index costs times, never bytes."""
        if self._times is None:
            return []
        try:
            return self._times.within(start, end)
        except Exception:
            _log.exception("times of output cannot be read", extra={"stream": self.name})
            self._times = None
            return []

    def _read(self, most: int) -> bytes:
        try:
            if self._handle is None:
                self._handle = paths.open_file(self.path)
            data = os.pread(self._handle, most, self.sent)
        except (OSError, PaddockError) as exc:
            if self.length is None:
                return b""  # the keeper has not made it yet
            self.give_up(str(exc))
            return b""
        if not data and self.length is not None:
            self.give_up("shorter than it was")
        if self.length is not None and self.sent + len(data) >= self.length:
            self.close()
        return data

    def give_up(self, why: str) -> None:
        """Send no more of it. The server misses the bytes and says so: better than bytes of our invention."""
        self.is_broken = True
        self.close()
        _log.warning("output cannot be read", extra={"stream": self.name, "why": why})


class _Task:
    def __init__(self, streams: Iterable[_Stream]) -> None:
        self.streams = {stream.name: stream for stream in streams}
        self._order = list(self.streams.values())
        self._next = 0
        self._oldest = 0
        self._in_flight = 0  # bytes that were sent and not acknowledged
        self.is_paused = False

    @property
    def is_over(self) -> bool:
        self._skip()
        return self._oldest >= len(self._order)

    def take(self) -> tuple[_Stream, int, bytes, list[tuple[int, datetime]]] | None:
        """The next piece of the first stream that has not been sent whole."""
        room = 0 if self.is_paused else UNACKNOWLEDGED_LIMIT - self._in_flight
        while self._next < len(self._order):
            stream = self._order[self._next]
            if room <= 0:
                return None
            try:
                piece = stream.take(room)
            except Exception as exc:  # whatever is wrong with one stream ends that stream, never the agent
                _log.exception("output broke", extra={"stream": stream.name})
                stream.give_up(repr(exc))
                piece = None
            if piece is not None:
                self._in_flight += len(piece[1])
                return (stream, *piece)
            if stream.length is None or (stream.sent < stream.length and not stream.is_broken):
                return None
            self._next += 1
        return None

    def acknowledge(self, name: str, offset: int) -> None:
        """Everything of a stream below the offset is safe; a stream that we do not have is not ours to speak of."""
        stream = self.streams.get(name)
        if stream is not None:
            before = stream.sent - stream.acknowledged
            stream.acknowledge(offset)
            self._in_flight += stream.sent - stream.acknowledged - before

    def _skip(self) -> None:
        while self._oldest < len(self._order) and self._order[self._oldest].is_over:
            self._oldest += 1

    def rewind(self, offsets: Mapping[str, int]) -> None:
        self._next = self._oldest = self._in_flight = 0
        self.is_paused = False
        for stream in self._order:
            stream.rewind(offsets.get(stream.name, stream.acknowledged))

    def close(self) -> None:
        for stream in self._order:
            stream.close()


class Spool:
    """All output that the server does not have yet. Used from one loop; nothing here waits."""

    def __init__(self, *, delivered: Callable[[str], None], changed: asyncio.Event) -> None:
        self._delivered = delivered
        self._changed = changed
        self._tasks: dict[str, _Task] = {}

    def grow(self, task: str, name: str, path: Path) -> None:
        """A stream that a keeper writes: it has no end yet. Again is no harm."""
        if task not in self._tasks:
            times = path.with_name(f"{path.name}.times")
            self._tasks[task] = _Task([_Stream(name, path, length=None, times=times)])
            self._changed.set()

    def finish(self, task: str, streams: Mapping[str, Stream]) -> None:
        """The task has ended: these are its streams, with their final lengths. Tells `delivered` if nothing is left."""
        found = self._tasks.get(task)
        if found is None or set(found.streams) != set(streams):
            found = self._tasks[task] = _Task(
                _Stream(name, Path(stream.path), length=stream.length, times=_times_of(stream))
                for name, stream in streams.items()
            )
        for name, stream in streams.items():
            found.streams[name].length = stream.length
        self._changed.set()
        self._settle(task)

    def has(self, task: str) -> bool:
        """Whether output of the task is still to be delivered."""
        return task in self._tasks

    def wake(self) -> None:
        """A stream has grown."""
        self._changed.set()

    def give_up(self, task: str, stream: str, why: str) -> None:
        """A piece of this stream cannot be sent, nor could any after it."""
        found = self._tasks.get(task)
        if found is not None and stream in found.streams:
            found.streams[stream].give_up(why)
            self._settle(task)

    def drop(self, task: str) -> None:
        """Nobody wants what is left of it."""
        found = self._tasks.pop(task, None)
        if found is not None:
            found.close()

    def pause(self, task: str) -> bool:
        """Send nothing of a task until `again` or the next session. False if it is paused or gone already."""
        found = self._tasks.get(task)
        if found is None or found.is_paused:
            return False
        found.is_paused = True
        return True

    def again(self, task: str) -> None:
        """What was sent of a task and not acknowledged is to go again."""
        found = self._tasks.get(task)
        if found is not None:
            found.rewind({})
            self._changed.set()

    def rewind(self, wanted: Iterable[Deliver]) -> None:
        """A new session: what was not acknowledged goes again, or what the server asks for."""
        offsets: dict[str, dict[str, int]] = {}
        for one in wanted:
            offsets.setdefault(one.task_id, {})[one.stream] = one.offset
        for name, task in self._tasks.items():
            task.rewind(offsets.get(name, {}))
        for name in list(self._tasks):
            self._settle(name)
        self._changed.set()

    def take(self) -> Output | None:
        """The next piece to send; None if nothing can go now. Tasks take turns."""
        for name in list(self._tasks):
            task = self._tasks[name]
            piece = task.take()
            if piece is not None:
                stream, offset, data, times = piece
                # Whoever was served goes to the end of the queue.
                self._tasks[name] = self._tasks.pop(name)
                return Output(task_id=name, stream=stream.name, offset=offset, data=data, times=tuple(times))
            self._settle(name)
        return None

    def acknowledge(self, task: str, stream: str, offset: int) -> None:
        """Everything of the stream below `offset` is safe on the server."""
        found = self._tasks.get(task)
        if found is not None:
            found.acknowledge(stream, offset)
            self._changed.set()
            self._settle(task)

    def _settle(self, task: str) -> None:
        found = self._tasks.get(task)
        if found is not None and found.is_over:
            self.drop(task)
            self._delivered(task)


def _times_of(stream: Stream) -> Path | None:
    path = Path(stream.path)
    times = path.with_name(f"{path.name}.times")
    return times if path.name == "output" and times.exists() else None
