"""How a task ended: the record that its keeper leaves and everybody else believes.

Effects: idempotent; the record appears whole or not at all, and is durable once it is there.
"""

import errno
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from paddock.core.errors import Broken
from paddock.hands import faults

RECORD, _DRAFT = "exit", "exit.new"
_ROOM = 4096  # bytes set aside before the task starts, so that a full disk cannot swallow its exit
_LONGEST_MESSAGE = 2000
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""What a disk says that takes nothing now, and may later."""


class Reason(StrEnum):
    """Why the task's tree was ended."""

    EXITED = "exited"  # by itself: `exit` or `signal` says how
    LIMIT = "limit"
    CANCELLED = "cancelled"  # whoever asked for it has told the keeper to end it
    STOPPED = "stopped"  # somebody on the machine has, or the machine itself that goes down: TERM to the keeper
    GATE = "gate"  # whoever asked for it went away before opening the gate: nothing ran
    BROKEN = "broken"  # it could not be started, or not be ended: `message` says why


@dataclass(frozen=True, kw_only=True)
class Exit:
    """The end of a task, its whole tree gone unless `reason` is broken and `message` names who is left.

    `ran` is whether exec happened. `exit` is the main process' code, or `signal` what killed it. `output` is the length
    of the file `output` in bytes, `dropped` what the task wrote beyond it, `lingered` how many processes were left when
    the main one ended, `oom_kills` how many the task's memory limit killed.
    """

    ran: bool
    reason: Reason
    exit: int | None
    signal: int | None
    message: str
    started: datetime | None
    ended: datetime
    output: int
    dropped: int
    lingered: int
    oom_kills: int = 0


def moment(seconds: float) -> str:
    """A moment (seconds since the epoch) as UTC with milliseconds: `2026-01-02T03:04:05.678Z`."""
    whole, part = divmod(int(seconds * 1000), 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{part:03d}Z"


def reserve(directory: Path) -> None:
    """Set room aside for the record. OSError if the disk is full now, before anything ran."""
    handle = os.open(directory / _DRAFT, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(handle, 0, _ROOM)
    finally:
        os.close(handle)


def record(directory: Path, ended: Exit) -> None:
    """Write the record: temporary name, sync, rename, sync of the directory."""
    fields = asdict(ended)
    fields["message"] = ended.message[:_LONGEST_MESSAGE]
    for key in ("started", "ended"):
        fields[key] = None if fields[key] is None else moment(fields[key].timestamp())
    text = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    handle = os.open(directory / _DRAFT, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(text):
            written += os.pwrite(handle, text[written:], written)
        os.ftruncate(handle, len(text))
        os.fsync(handle)
    finally:
        os.close(handle)
    faults.at("keeper.recording")
    os.rename(directory / _DRAFT, directory / RECORD)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def forget(directory: Path) -> None:
    """Remove record and draft; for a directory in which nothing ran."""
    for name in (RECORD, _DRAFT):
        with suppress(FileNotFoundError):
            os.unlink(directory / name)


def read_exit(directory: Path) -> Exit | None:
    """The record of a task's end; None while there is none. Broken if it is not one of ours."""
    path = directory / RECORD
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(text)
        started = fields["started"]
        return Exit(
            ran=fields["ran"],
            reason=Reason(fields["reason"]),
            exit=fields["exit"],
            signal=fields["signal"],
            message=fields["message"],
            started=None if started is None else datetime.fromisoformat(started).astimezone(UTC),
            ended=datetime.fromisoformat(fields["ended"]).astimezone(UTC),
            output=fields["output"],
            dropped=fields["dropped"],
            lingered=fields["lingered"],
            oom_kills=fields.get("oom_kills", 0),  # a keeper of an earlier version does not count them
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise Broken(f"{path}: no exit record: {exc}") from exc
