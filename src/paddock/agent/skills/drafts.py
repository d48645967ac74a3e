"""Replaces a small file whole: mode and owner first, then its name.

Effects: idempotent; a draft that was left by a kill is taken away by the next replacement of the same file.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paddock.core.errors import Refused
from paddock.hands import faults

SUFFIX = ".paddock~"
"""What a draft's name ends with: sudo, cron and run-parts pass over names with a dot or a tilde."""
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def entered(directory: Path) -> Iterator[int]:
    """A descriptor of a directory, itself no link; the way there is followed as root's own."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise Refused(f"{directory}: {'is a link or no directory' if exc.errno in (20, 40) else exc.strerror}") from exc
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def draft(directory: int, name: str, data: bytes, *, mode: int, owner: tuple[int, int] = (-1, -1)) -> Iterator[str]:
    """A durable file beside the one that it may replace: its name, until the block ends."""
    made = f"{name}{SUFFIX}"
    with suppress(FileNotFoundError):
        os.unlink(made, dir_fd=directory)
    # O_EXCL takes no file and no link that somebody else has put here meanwhile.
    handle = os.open(made, _NEW, 0o600, dir_fd=directory)
    try:
        try:
            written = 0
            while written < len(data):
                written += os.write(handle, data[written:])
            if owner != (-1, -1):
                os.fchown(handle, *owner)
            os.fchmod(handle, mode)
            os.fsync(handle)
        finally:
            os.close(handle)
        yield made
    finally:
        with suppress(FileNotFoundError):
            os.unlink(made, dir_fd=directory)


def install(directory: int, made: str, name: str) -> None:
    """Give a draft the file's name, durably."""
    faults.at("drafts.replacing")
    os.rename(made, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def replace(directory: int, name: str, data: bytes, *, mode: int, owner: tuple[int, int] = (-1, -1)) -> None:
    """Make this file hold these bytes, whatever held its name before."""
    with draft(directory, name, data, mode=mode, owner=owner) as made:
        install(directory, made, name)


def read(directory: int, name: str, *, most: int = 1 << 20, alone: bool = False) -> bytes | None:
    """What a plain file holds; None if there is none. Refused for links, pipes and the like, and for large ones.

    `alone`: also for a file that has another name, which could be anybody's.
    """
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise Refused(f"{name}: {'is a symbolic link' if exc.errno == 40 else exc.strerror}") from exc
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise Refused(f"{name}: is no plain file of at most {most} bytes")
        if alone and found.st_nlink != 1:
            raise Refused(f"{name}: has {found.st_nlink} names")
        data = b""
        while more := os.read(handle, most):
            data += more
        return data
    finally:
        os.close(handle)
