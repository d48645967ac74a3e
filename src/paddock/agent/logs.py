"""The agent's own lines on their way to the server: in order, limited in rate, spooled.

Effects: idempotent, as its segments say; what is over the room or the rate is dropped and counted, the count is told.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from paddock.agent.segments import Segments, Taken
from paddock.core.redaction import redact
from paddock.wire.framing import JSON

AT_ONCE = 100
"""Lines in one message."""
_SIZE = 256 << 10  # bytes of lines in one message
_LONGEST = 4000
_COUNT_EVERY = 5.0  # seconds between two messages that say only how many lines were dropped
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))


class _Bucket:
    """So many at once, then so many a second."""

    def __init__(self, *, burst: float, rate: float) -> None:
        self._burst, self._rate = burst, rate
        self._left = burst
        self._filled = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate)
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The oldest lines that the server does not have, as the params of one `log`."""

    params: Mapping[str, JSON]
    taken: Taken


class Logs(logging.Handler):
    """Takes records of the agent's loggers; the conversation takes batches from here, one after the other."""

    def __init__(self, *, level: int, directory: Path) -> None:
        super().__init__(level=level)
        self._lines = Segments(directory)
        # What is wrong must not drown in what is only told, nor flood the server by itself.
        self._told, self._wrong = _Bucket(burst=100, rate=20), _Bucket(burst=500, rate=20)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None
        self._counted = -_COUNT_EVERY
        self._later: asyncio.TimerHandle | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
        """From now on new lines set the event, whichever thread they come from."""
        self._loop, self._news = loop, news

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. Never waits for a disk's flush, never raises."""
        bucket = self._wrong if record.levelno >= logging.WARNING else self._told
        try:
            if not bucket.take():
                self._lines.drop()
                return
            self._lines.append(_encode(_line(record)), gap=lambda dropped: _encode(_gap(dropped)))
        except Exception:  # a field that cannot be told: logging itself says where
            self.handleError(record)
            return
        if self._loop is not None and self._news is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def peek(self) -> Batch | None:
        """The oldest lines that the server does not have."""
        while True:
            taken = self._lines.peek(lines=AT_ONCE, size=_SIZE)
            if taken.lost and not taken.lines and self._is_soon():
                return None
            found = [_gap(taken.lost)] if taken.lost else []
            found += [line for text in taken.lines if (line := _decode(text)) is not None]
            if found:
                first, *more = found
                return Batch(params={**first, "more": more} if more else first, taken=taken)
            if not taken.lines:
                return None
            self._lines.take(taken)  # nothing in it was ours

    def _is_soon(self) -> bool:
        """Whether a count alone was told just now: while lines are dropped it grows all the time, and can wait."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_EVERY:
            self._counted = now
            return False
        if self._loop is not None and self._news is not None and (self._later is None or self._later.cancelled()):
            self._later = self._loop.call_later(self._counted + _COUNT_EVERY - now, self._wake)
        return True

    def _wake(self) -> None:
        self._later = None
        if self._news is not None:
            self._news.set()

    def pop(self, batch: Batch) -> None:
        """The server has these."""
        self._lines.take(batch.taken)

    def close(self) -> None:
        """See logging.Handler."""
        self._lines.close()
        super().close()


def fields_of(record: logging.LogRecord) -> dict[str, JSON]:
    """What a record carries beside its text."""
    extra = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
    # A secret stays on the machine that knows it.
    return {
        redact(key): value if isinstance(value, int | float | bool) else redact(f"{key}={value}")[len(key) + 1 :][:500]
        for key, value in extra.items()
    }


def _line(record: logging.LogRecord) -> dict[str, JSON]:
    level = next((word for least, word in _LEVELS if record.levelno >= least), "debug")
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    return _own(level, text, **fields_of(record))


def _gap(dropped: int) -> dict[str, JSON]:
    return _own("warning", "log lines were dropped", dropped=dropped)


def _own(level: str, text: str, **fields: JSON) -> dict[str, JSON]:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    told = {_sayable(key): _plain(value) for key, value in fields.items()}
    return {"level": level, "msg": _sayable(redact(text))[:_LONGEST], "time": now, "fields": told}


def _plain(value: JSON) -> JSON:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return _sayable(value) if isinstance(value, str) else value


def _sayable(text: str) -> str:
    """Text as the wire takes it."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def _encode(line: Mapping[str, JSON]) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode("ascii")


def _decode(text: bytes) -> dict[str, JSON] | None:
    """A line as it was written; None for the rubble that a power cut may leave."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"level", "msg", "time"} <= set(found) else None
