"""What a container prints, as the output of a task: exact across calls, and across ends of the agent.

Effects: none. What was written to the output is never written again: a record beside it says up to which message it is
right, and what lies behind that is made anew and skipped.
"""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills.skill import Call
from paddock.core.errors import Broken, Missing
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM
from paddock_docker.cursor import Cursor, Reading
from paddock_docker.engine import Engine, Query, connect, obj
from paddock_docker.messages import Message, Reader

_OUTPUT, _RECORD = "output", "record"
_RECORD_EVERY = 1.0  # seconds


class _Sink:
    """The task's output, and the record of how far it is right."""

    def __init__(self, call: Call, begin: Cursor) -> None:
        call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._call = call
        self._record = call.directory / _RECORD
        length, cursor = _recorded(self._record)
        self.reading = Reading(cursor or begin)
        self.start = cursor or begin
        self._file: BinaryIO = (call.directory / _OUTPUT).open("ab", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        if self.size < length:
            raise Broken(f"{call.directory / _OUTPUT}: has lost bytes that were told")
        self._written_before = self.size - length
        self._waiting: list[bytes] = []
        self._recorded_at = time.monotonic()
        self._has_stamps = call.params.get("timestamps") is True
        self.coming = length

    def take(self, message: Message) -> None:
        """One message: written with the next flush, unless it is known."""
        if not self.reading.take(message.second, message.nano):
            return
        data = message.stamp + message.data if self._has_stamps else message.data
        self.coming += len(data)
        if self._written_before:
            known = min(self._written_before, len(data))
            self._written_before -= known
            data = data[known:]
        if data:
            self._waiting.append(data)

    async def flush(self, *, is_last: bool = False) -> None:
        """Everything taken is in the file."""
        if self._waiting:
            rest = memoryview(b"".join(self._waiting))
            self._waiting.clear()
            while rest:
                written = self._file.write(rest)
                self.size += written
                rest = rest[written:]
            self._call.grew()
        if is_last or time.monotonic() - self._recorded_at > _RECORD_EVERY:
            # The bytes first: a record that says more than the file has would lose some.
            await asyncio.to_thread(os.fdatasync, self._file.fileno())
            _write_record(self._record, self.size - self._written_before, self.reading.cursor)
            self._recorded_at = time.monotonic()

    def close(self) -> None:
        self._file.close()


async def send(call: Call) -> Outcome:
    """docker.logs"""
    engine = await connect()
    container = await engine.inspect(f"/containers/{call.text('container')}/json")
    if container is None:
        raise Missing(f"{call.text('container')}: no such container")
    sink = _Sink(call, _begin(call))
    try:
        has_more = await _copy(
            engine, container["Id"], call, sink, Reader(tty=obj(container["Config"]).get("Tty") is True)
        )
    finally:
        sink.close()
    streams = {LOG_STREAM: Stream(path=str(call.directory / _OUTPUT), length=sink.size)}
    result: dict[str, JSON] = {"cursor": str(sink.reading.cursor), "bytes": sink.size, "more": has_more}
    return Outcome(result=result, streams=streams)


def _begin(call: Call) -> Cursor:
    if text := call.text("cursor"):
        return Cursor.parse(text)
    if text := call.text("since"):
        return Cursor.since(datetime.fromisoformat(text))
    return Cursor()


async def _copy(engine: Engine, id: JSON, call: Call, sink: _Sink, reader: Reader) -> bool:
    """Whether there may be more."""
    follow, most = call.seconds("follow").total_seconds(), call.number("most", 1 << 30)
    streams = call.text("streams", "both")
    query: Query = {
        "follow": follow > 0,
        "stdout": streams != "err",
        "stderr": streams != "out",
        "timestamps": True,
        "since": sink.start.moment,
    }
    is_cut = False
    try:
        async with (
            asyncio.timeout(follow or None),
            engine.open("GET", f"/containers/{id}/logs", query) as response,
        ):
            async for piece in response.pieces():
                is_cut = await _take(reader.feed(piece), sink, most)
                if is_cut:
                    return True
    except TimeoutError:
        is_cut = True
    else:
        is_cut = await _take(reader.finish(), sink, most)
        if reader.rest:
            raise Broken("Docker Engine: its answer was cut off within a message")
    finally:
        await sink.flush(is_last=True)
    return is_cut


async def _take(messages: Iterator[Message], sink: _Sink, most: int) -> bool:
    for message in messages:
        sink.take(message)
        if sink.coming >= most:
            return True
    await sink.flush()
    return False


def _recorded(path: Path) -> tuple[int, Cursor | None]:
    """How many bytes of the output are right, and where it goes on; nothing before the first time."""
    with suppress(FileNotFoundError):
        found = json.loads(path.read_text("ascii"))
        return found["length"], Cursor.parse(found["cursor"])
    return 0, None


def _write_record(path: Path, length: int, cursor: Cursor) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"length": length, "cursor": str(cursor)}), "ascii")
    draft.rename(path)
