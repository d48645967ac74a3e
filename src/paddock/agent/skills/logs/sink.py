"""Where a followed log goes: the task's output, with the cursor that it has reached.

Effects: idempotent; output is only appended to. After a kill there may be bytes behind the cursor that was written
last: who goes on from it gives the same bytes again, and they are passed over.
"""

import asyncio
import json
import os
from pathlib import Path

from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills.skill import Call
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM

_CURSOR = "cursor"


class Sink:
    """The output of one task."""

    def __init__(self, call: Call) -> None:
        call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._call = call
        self._file = call.directory / "output"
        self._rate = max(call.number("rate"), 1)
        self._limit = call.number("output_limit")
        self._handle = os.open(self._file, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.written = os.fstat(self._handle).st_size
        self.cursor, told = _recall(call.directory)
        self._again = self.written - told
        """Bytes of the output that will be given once more."""

    @property
    def room(self) -> int:
        """Bytes that may still be given."""
        return self._limit - self.written + self._again

    async def take(self, data: bytes, cursor: str) -> None:
        """Append it; the cursor is the one behind it. Returns when more may come."""
        known = min(self._again, len(data))
        self._again -= known
        if fresh := data[known:]:
            rest = memoryview(fresh)
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            self.written += len(fresh)
            self._call.grew()
        self.cursor = cursor
        _remember(self._call.directory, cursor, self.written - self._again)
        await asyncio.sleep(len(fresh) / self._rate)

    def close(self) -> None:
        os.close(self._handle)

    def outcome(self, ended: str, **more: JSON) -> Outcome:
        """How it ended, and where the next one goes on."""
        return Outcome(
            result={"cursor": self.cursor, "ended": ended, "bytes": self.written, **more},
            streams={LOG_STREAM: Stream(path=str(self._file), length=self.written)},
        )


def _remember(directory: Path, cursor: str, written: int) -> None:
    draft = directory / f"{_CURSOR}.new"
    draft.write_text(json.dumps([cursor, written]), "utf-8")
    draft.rename(directory / _CURSOR)


def _recall(directory: Path) -> tuple[str, int]:
    try:
        cursor, written = json.loads((directory / _CURSOR).read_text("utf-8"))
        return str(cursor), int(written)
    except (OSError, ValueError, TypeError):
        return "", 0
