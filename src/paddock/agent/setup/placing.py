"""Directories, files and links as they should be, and what it takes to make them so.

Effects: idempotent; a file appears whole or not at all, and what is right already is not touched.
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from paddock.agent import durable
from paddock.core.errors import Broken, Refused


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Numbers of user and group."""

    user: int
    group: int


@dataclass(frozen=True, kw_only=True)
class Directory:
    """What is in it is not looked at."""

    path: Path
    mode: int
    owner: Owner


@dataclass(frozen=True, kw_only=True)
class File:
    """With `is_theirs` a file that is there already keeps its content: somebody may have changed it."""

    path: Path
    content: bytes = field(repr=False)
    mode: int
    owner: Owner
    is_theirs: bool = False


@dataclass(frozen=True, kw_only=True)
class Link:
    path: Path
    target: str


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A file or link that should not be there."""

    path: Path


Thing: TypeAlias = Directory | File | Link | Absent


def place(thing: Thing) -> str:
    """Make it so. What was done, in words; empty if it was so already. Refused where that is not allowed."""
    try:
        match thing:
            case Directory():
                return _directory(thing)
            case File():
                return _file(thing)
            case Link():
                return _link(thing)
            case Absent():
                return _absent(thing)
    except PermissionError as exc:
        raise Refused(f"{exc.filename or thing.path}: {exc.strerror}", hint="as root, or another --base-path") from exc
    except OSError as exc:
        raise Broken(f"{exc.filename or thing.path}: {exc.strerror}") from exc


def _directory(thing: Directory) -> str:
    is_new = not thing.path.exists()
    if is_new:
        _enterable(thing.path.parent)
        thing.path.mkdir(mode=0o700)
    # Never through a link: whoever owns the directory above could point it anywhere.
    handle = os.open(thing.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mended = _own(handle, thing.mode, thing.owner)
    finally:
        os.close(handle)
    return f"made {thing.path}" if is_new else f"owner or mode of {thing.path}" if mended else ""


def _enterable(path: Path) -> None:
    """What is missing on the way there, for all to enter, whatever the umask says: the agent may be another user."""
    for directory in (*reversed(path.parents), path):
        if directory.exists():
            continue
        draft = directory.with_name(f".{directory.name}.new")
        draft.mkdir(exist_ok=True)  # there is one of a run that was killed
        draft.chmod(0o755)
        draft.rename(directory)


def _file(thing: File) -> str:
    with suppress(FileNotFoundError):
        handle = os.open(thing.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as opened:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Refused(f"{thing.path}: is no plain file")
            if thing.is_theirs or opened.read() == thing.content:
                return f"owner or mode of {thing.path}" if _own(handle, thing.mode, thing.owner) else ""
        _write(thing)
        return f"changed {thing.path}"
    _write(thing)
    return f"wrote {thing.path}"


def _write(thing: File) -> None:
    draft = thing.path.with_name(f".{thing.path.name}.new")
    with suppress(FileNotFoundError):
        draft.unlink()  # of a run that was killed
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(thing.content)
            opened.flush()
            _own(handle, thing.mode, thing.owner)
            os.fsync(handle)
        draft.rename(thing.path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    durable.sync(thing.path.parent)


def _link(thing: Link) -> str:
    if thing.path.is_symlink() and os.readlink(thing.path) == thing.target:
        return ""
    _enterable(thing.path.parent)
    draft = thing.path.with_name(f".{thing.path.name}.new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(thing.target)
    draft.rename(thing.path)
    return f"linked {thing.path}"


def _absent(thing: Absent) -> str:
    try:
        thing.path.unlink()
    except FileNotFoundError:
        return ""
    return f"removed {thing.path}"


def _own(handle: int, mode: int, owner: Owner) -> bool:
    found = os.fstat(handle)
    is_wrong = (found.st_uid, found.st_gid) != (owner.user, owner.group)
    if is_wrong:
        os.fchown(handle, owner.user, owner.group)
    if is_wrong or stat.S_IMODE(found.st_mode) != mode:
        os.fchmod(handle, mode)
        return True
    return False
