"""How the agent's log lines look: a line of text, or one JSON object.

Effects: none.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from paddock.agent.logs import fields_of


class Events(logging.Formatter):
    """Constant text, then what it is about, as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC)
        fields = "".join(f" {key}={value!r}" for key, value in fields_of(record).items())
        text = f"{when:%Y-%m-%dT%H:%M:%S}Z {record.levelname.lower()} {record.name}: {record.getMessage()}{fields}"
        return text + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


class Objects(logging.Formatter):
    """The same as one JSON object, with the names that the server's log has."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: dict[str, Any] = {
            "at": when,
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        told |= {key: value for key, value in fields_of(record).items() if key not in told}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def to_stderr(level: str, *, as_json: bool) -> None:
    """From now on lines at or above a level are written to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Objects() if as_json else Events())
    logger = logging.getLogger("paddock")
    logger.setLevel(level.upper())
    logger.addHandler(handler)
