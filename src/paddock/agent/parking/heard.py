"""The wake as it was heard, until the machine has settled: a file, good for one boot.

Effects: idempotent. It is neither flushed nor renamed: what is cut short is no message, and what another boot has heard
is none of ours. Its directory is RAM on most machines.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from paddock.wire.framing import Malformed
from paddock.wire.messages import Command, parse

_DIRECTORY = Path("run/paddock")
_FILE = "wake"


def prepare(rootfs: Path) -> None:
    """There is room for it."""
    (rootfs / _DIRECTORY).mkdir(mode=0o700, parents=True, exist_ok=True)


def keep(rootfs: Path, message: str, boot: str) -> None:
    """From here on the machine is somebody, until it goes off. OSError if that cannot be."""
    path = f"{rootfs}/{_DIRECTORY}/{_FILE}"
    text = f"{boot}\n{message}\n".encode()
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.write(handle, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(handle)


def load(rootfs: Path, boot: str) -> Command | None:
    """The wake that this boot has heard; None if there is none, or it has settled."""
    try:
        heard_in, _, message = (rootfs / _DIRECTORY / _FILE).read_text("utf-8").partition("\n")
        said = parse(message) if heard_in == boot and message.endswith("\n") else None
    except (OSError, ValueError, Malformed):
        return None
    return said if isinstance(said, Command) else None


def forget(rootfs: Path) -> None:
    """It is not needed any more: what it says is on the disk."""
    with suppress(FileNotFoundError):
        (rootfs / _DIRECTORY / _FILE).unlink()
