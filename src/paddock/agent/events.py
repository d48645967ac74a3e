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
_USUAL = """\
# Where the agent's lines go and how they look: Python's dictConfig (logging.config), as YAML.
# `[logging] configfile` in agent.conf names this file. One that cannot be used is told, and lines go to standard error.
version: 1
formatters:
  text: {(): paddock.agent.events.Events}      # 2026-01-31T12:00:00Z info paddock.agent: session began agent='a-1'
  objects: {(): paddock.agent.events.Objects}  # {"at": ..., "level": ..., "event": ...}: one JSON object a line
handlers:
  stderr:                                      # under systemd: journalctl -u paddock-agent
    class: logging.StreamHandler
    formatter: text
#  file:                                       # name it below too: handlers: [stderr, file]
#    class: logging.handlers.RotatingFileHandler
#    formatter: text
#    filename: @LOG@/agent.log
#    maxBytes: 10485760
#    backupCount: 5
loggers:
  paddock:                                     # without a level here, that of agent.conf counts
    handlers: [stderr]
    propagate: false
#  paddock.agent.skills:
#    level: DEBUG
"""


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


def usual(log: Path) -> str:
    """The logging configuration that is installed; an operator edits it. `log` is a directory for its files."""
    return _USUAL.replace("@LOG@", str(log))


def begin(conf: "Conf | None", level: str, *, as_json: bool) -> None:
    """Begin to log as a configuration says; to standard error where it says nothing, or what cannot be used."""
    file = conf["logging.configfile"] if conf is not None else ""
    if not file or as_json:
        to_stderr(level, as_json=as_json)
    else:
        why = _by_file(Path(file), level, untouched=usual(conf.base / "log") if conf is not None else "")
        if why:
            to_stderr(level, as_json=as_json)
            _log.error("logging configuration cannot be used, lines go to standard error", extra={"why": why})
    for line in conf.unknown() if conf is not None else ():
        _log.warning("a key of agent.conf is not understood", extra={"key": line})


def _by_file(path: Path, level: str, *, untouched: str) -> str:
    """Take what the file says; why that cannot be, in words, or nothing."""
    logger = logging.getLogger("paddock")
    try:
        text = path.read_text("utf-8")
        if text == untouched:
            # It says what is done without it: that spares the agent three megabytes of parsers.
            to_stderr(level, as_json=False)
            return ""
        from logging.config import dictConfig

        import yaml

        told = yaml.safe_load(text)
        if not isinstance(told, dict):
            return f"{path}: not a mapping"
        # Loggers of modules that were imported before go on.
        dictConfig({"version": 1, **told, "disable_existing_loggers": False})
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
