"""The agent's own log lines on their way to the server, in order and limited in rate.

Effects: none; what is over the room or the rate is dropped and counted, and the count is told.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

from paddock.core.redaction import redact
from paddock.wire.framing import JSON

_ROOM = 500
_PER_SECOND = 20.0
_BURST = 100.0
_LONGEST = 4000
_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))


class Logs(logging.Handler):
    """Takes records of the agent's loggers; the conversation takes them from here, one after the other."""

    def __init__(self, *, level: int) -> None:
        super().__init__(level=level)
        self._waiting: deque[Mapping[str, JSON]] = deque()
        self._dropped = 0
        self._tokens = _BURST
        self._refilled = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: asyncio.Event | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
        """From now on new lines set the event, whichever thread they come from."""
        self._loop, self._news = loop, news

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. Never blocks, never raises."""
        if not self._is_within_rate(record.levelno) or len(self._waiting) >= _ROOM:
            self._dropped += 1
            return
        self._waiting.append(_line(record))
        if self._loop is not None and self._news is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._news.set)

    def peek(self) -> Mapping[str, JSON] | None:
        """The oldest line that the server does not have."""
        if not self._waiting and self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._waiting.append(_own("warning", "log lines were dropped", dropped=dropped))
        return self._waiting[0] if self._waiting else None

    def pop(self) -> None:
        """The server has the oldest line."""
        if self._waiting:
            self._waiting.popleft()

    def _is_within_rate(self, level: int) -> bool:
        now = time.monotonic()
        self._tokens = min(_BURST, self._tokens + (now - self._refilled) * _PER_SECOND)
        self._refilled = now
        if self._tokens < 1 and level < logging.WARNING:
            return False
        self._tokens = max(self._tokens - 1, 0)
        return True


def fields_of(record: logging.LogRecord) -> dict[str, JSON]:
    """What a record carries beside its text."""
    extra = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
    # A secret stays on the machine that knows it.
    return {
        redact(key): value if isinstance(value, int | float | bool) else redact(f"{key}={value}")[len(key) + 1 :][:500]
        for key, value in extra.items()
    }


def _line(record: logging.LogRecord) -> Mapping[str, JSON]:
    level = next((word for least, word in _LEVELS if record.levelno >= least), "debug")
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
    return _own(level, text, **fields_of(record))


def _own(level: str, text: str, **fields: JSON) -> Mapping[str, JSON]:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    clean = redact(text).replace("\0", "").encode("utf-8", "backslashreplace").decode()
    return {"level": level, "msg": clean[:_LONGEST], "time": now, "fields": fields}
