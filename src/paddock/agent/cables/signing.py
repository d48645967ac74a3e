"""How a program says who it is: one of each, found again by whoever comes after.

Effects: idempotent; the record appears whole or not at all, and is believed only while its process lives.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path

from paddock.core.errors import Refused
from paddock.hands import faults, trees

MARK = "PADDOCK_CABLE"
"""In the environment of each of these programs: the uniform name of the environment that it serves."""


def sign_in(directory: Path, name: str) -> int:
    """Be the one program of this name in the directory. Gives the lock, which lasts as long as the process keeps it.

    Refused if another one is.
    """
    lock = os.open(directory / f"{name}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Refused(f"{name}: runs already") from None
    if signed_in(directory, name) not in (None, trees.identify(os.getpid())):
        os.close(lock)
        raise Refused(f"{name}: runs already")  # a program of others, which has closed our lock
    own = trees.identify(os.getpid())
    if own is None:
        raise AssertionError("a running process has a start time")
    draft = _file(directory, name).with_suffix(".new")
    draft.write_text(json.dumps({"pid": own.pid, "started": own.started, "boot_id": _boot_id()}), "ascii")
    faults.at("cable.signing")
    draft.rename(_file(directory, name))
    faults.at("cable.signed")
    return lock


def signed_in(directory: Path, name: str) -> trees.Identity | None:
    """The program of this name that lives; None if there is none."""
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        fields = json.loads(_file(directory, name).read_text("ascii"))
        found = trees.Identity(pid=fields["pid"], started=fields["started"])
        return found if fields["boot_id"] == _boot_id() and trees.is_alive(found) else None
    return None


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}.process"


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
