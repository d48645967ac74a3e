"""The program's own log: one line an event, ids as fields, secrets taken out."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from paddock.core.redaction import redact, redacted

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class Lines(logging.Formatter):
    """`2026-01-02T03:04:05.678Z INFO paddock.engine.loop stage did not finish its step stage=planning`."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = f"{moment} {record.levelname} {record.name} {record.getMessage()}"
        for name, value in _fields(record).items():
            line += f" {name}={_spell(value)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class Objects(logging.Formatter):
    """The same as one JSON object a line, for whoever collects logs."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told: dict[str, Any] = {"at": moment, "level": record.levelname, "logger": record.name}
        told |= {"event": record.getMessage(), **_fields(record)}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        # Field by field: what is taken out of the written object could take its quotes along.
        return json.dumps(redacted(told), default=lambda value: redact(str(value)), ensure_ascii=False)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


def _spell(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or '"' in text or "\n" in text else text


def begin(*, level: str = "INFO", as_json: bool = False) -> None:
    """Log to standard error from now on; once a process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Objects() if as_json else Lines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Libraries say a lot that is not an event of ours.
    for name in ("asyncssh", "httpx", "alembic", "uvicorn.access", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
