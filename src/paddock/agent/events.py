"""How the agent's log lines look: a line of text, or one JSON object.

Effects: none; the files that a logging configuration names are its operator's.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddock.agent.logs import fields_of

if TYPE_CHECKING:
    from paddock.agent.conf import Conf

_log = logging.getLogger(__name__)


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


def begin(conf: "Conf | None", level: str, *, as_json: bool) -> None:
    """Begin to log as a configuration says; to standard error where it says nothing, or what cannot be used."""
    file = conf["logging.configfile"] if conf is not None else ""
    if not file or as_json:
        to_stderr(level, as_json=as_json)
    else:
        why = _by_file(Path(file), level)
        if why:
            to_stderr(level, as_json=as_json)
            _log.error("logging configuration cannot be used, lines go to standard error", extra={"why": why})
    for line in conf.unknown() if conf is not None else ():
        _log.warning("a key of agent.conf is not understood", extra={"key": line})


def _by_file(path: Path, level: str) -> str:
    """Take what the file says; why that cannot be, in words, or nothing."""
    import logging.config

    import yaml

    logger = logging.getLogger("paddock")
    try:
        told = yaml.safe_load(path.read_text("utf-8"))
        if not isinstance(told, dict):
            return f"{path}: not a mapping"
        # Loggers of modules that were imported before go on.
        logging.config.dictConfig({"version": 1, **told, "disable_existing_loggers": False})
    except Exception as exc:  # it names classes and functions: it can go wrong like any program
        _forget_handlers(logger)
        cause = exc.__cause__
        return " ".join(f"{path}: {exc}{f': {cause}' if cause else ''}".split())[:500]
    if logger.level == logging.NOTSET:
        logger.setLevel(level.upper())
    return ""


def _forget_handlers(logger: logging.Logger) -> None:
    for handler in list(logger.handlers):
        logger.removeHandler(handler)


def to_stderr(level: str, *, as_json: bool) -> None:
    """From now on lines at or above a level are written to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Objects() if as_json else Events())
    logger = logging.getLogger("paddock")
    logger.setLevel(level.upper())
    logger.addHandler(handler)
