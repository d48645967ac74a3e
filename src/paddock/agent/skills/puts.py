"""Puts a file: at once or in pieces, never visible before it is whole.

Effects: idempotent. Pieces wait in a part below the agent's own directory, named by path, size and digest, so the same
put goes on after any restart where it was; the last piece proves the digest and renames. Asked again after it was done,
the file is found as it should be. A part that nobody has added to for two days is removed.
"""

import asyncio
import base64
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.agent import paths
from paddock.agent.entry import Outcome
from paddock.agent.skills import owners
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import PaddockError, Refused
from paddock.hands import faults

KEPT = 2 * 86400.0
"""Seconds that a part waits for its next piece."""
_LOOK_EVERY = 3600.0
_LONGEST_NAME = 255  # bytes, of any Linux file system
_CHUNK = 1 << 20
_NEW = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_publishing = threading.Lock()
_PART = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """How the file is to be. `uid` and `gid` are -1 where nobody asked."""

    path: Path
    mode: int
    uid: int
    gid: int
    digest: str

    def furnish(self, handle: int) -> None:
        """Owner first: a change of owner takes setuid bits away."""
        if (self.uid, self.gid) != (-1, -1):
            os.fchown(handle, self.uid, self.gid)
        os.fchmod(handle, self.mode)
        os.fsync(handle)

    def is_met(self, handle: int, size: int) -> bool:
        """Whether this open file is as wanted already."""
        found = os.fstat(handle)
        return (
            found.st_size == size
            and found.st_mode & 0o7777 == self.mode
            and self.uid in (-1, found.st_uid)
            and self.gid in (-1, found.st_gid)
            and digest_of(handle) == self.digest
        )


def put(place: Place, path: Path, call: Call) -> Outcome:
    """Make the file hold what is asked, or add a piece to what it will hold. Refused before anything is touched."""
    wanted = _Wanted(
        path=path,
        mode=call.number("mode", 0o644),
        uid=owners.uid(call.text("owner")),
        gid=owners.gid(call.text("group")),
        digest=call.text("sha256"),
    )
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        raise Refused(f"{path}: its name has more than {_LONGEST_NAME} bytes")
    data = base64.b64decode(call.text("data"))
    if call.params.get("total") is None:
        return _at_once(wanted, data, offset=call.number("offset"))
    if not wanted.digest:
        raise Refused(f"{path}: a file in pieces (total) needs the sha256 of the whole")
    return _piece(place, wanted, data, offset=call.number("offset"), total=call.number("total"))


# ---- at once ---------------------------------------------------------------------------------------------------------


def _at_once(wanted: _Wanted, data: bytes, *, offset: int) -> Outcome:
    path = wanted.path
    _check_whole(wanted, data, offset=offset)
    with _draft(path) as (directory, handle):
        _fill(handle, path, offset, data)
        found, size = digest_of(handle), os.fstat(handle).st_size
        if wanted.digest and wanted.digest != found:
            raise Refused(f"{path}: would be {found}, not {wanted.digest}")
        wanted.furnish(handle)
        _publish(directory, handle, path)
    return Outcome(result={"size": size, "sha256": found, "have": size, "complete": True})


def _check_whole(wanted: _Wanted, data: bytes, *, offset: int) -> None:
    """Before a directory is made: there is what is to be kept, or the data are the whole as it was announced."""
    if offset:
        os.close(_kept(wanted.path, offset))
    elif wanted.digest and (found := hashlib.sha256(data).hexdigest()) != wanted.digest:
        raise Refused(f"{wanted.path}: would be {found}, not {wanted.digest}")


def _kept(path: Path, size: int) -> int:
    """The file that is there, open; Refused if it is shorter than what is to be kept of it."""
    source = paths.open_file(path)
    if os.fstat(source).st_size < size:
        os.close(source)
        raise Refused(f"{path}: shorter than offset {size}")
    return source


@contextmanager
def _draft(path: Path) -> Iterator[tuple[int, int]]:
    """The target's directory, and a new file in it that has no name yet where the file system can do that."""
    directory = paths.enter(path.parent, make=True)
    try:
        handle = _nameless(directory, path)
        try:
            yield directory, handle
        except BaseException:
            with suppress(OSError):
                os.unlink(_name_of(path), dir_fd=directory)
            raise
        finally:
            os.close(handle)
    finally:
        os.close(directory)


def _name_of(path: Path) -> str:
    """The same for every put of this path: what one that was killed has left is taken away by the next."""
    name = os.fsencode(path.name)
    return f".{os.fsdecode(name[:200])}.{hashlib.sha256(name).hexdigest()[:8]}"


def _nameless(directory: int, path: Path) -> int:
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    with suppress(FileNotFoundError):
        os.unlink(_name_of(path), dir_fd=directory)
    return os.open(_name_of(path), _NEW, 0o600, dir_fd=directory)


def _publish(directory: int, handle: int, path: Path) -> None:
    """Give the file its name, in place of what has it now; durable when this returns."""
    draft = _name_of(path)
    with _publishing:
        if os.fstat(handle).st_nlink == 0:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=directory)
            os.link(f"/proc/self/fd/{handle}", draft, dst_dir_fd=directory, follow_symlinks=True)
        faults.at("agent.putting")
        os.rename(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    _sync(directory)
    faults.at("agent.put")


def _fill(handle: int, path: Path, offset: int, data: bytes) -> None:
    if offset:
        source = _kept(path, offset)
        try:
            _copy(source, handle, offset)
        finally:
            os.close(source)
    _write(handle, data, offset)


def _copy(source: int, target: int, size: int) -> None:
    copied = 0
    while copied < size:
        try:
            more = os.copy_file_range(source, target, size - copied, copied, copied)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            data = os.pread(source, min(_CHUNK, size - copied), copied)
            _write(target, data, copied)
            more = len(data)
        if not more:
            raise Refused("file: became shorter while it was copied")
        copied += more


def _write(handle: int, data: bytes, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(handle, data[written:], offset + written)


def digest_of(handle: int) -> str:
    """sha256 of an open file, in little memory."""
    digest = hashlib.sha256()
    offset = 0
    while data := os.pread(handle, _CHUNK, offset):
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _sync(directory: int) -> None:
    """Make a directory's names durable; an O_PATH descriptor cannot be synced itself."""
    handle = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- in pieces -------------------------------------------------------------------------------------------------------


def _piece(place: Place, wanted: _Wanted, data: bytes, *, offset: int, total: int) -> Outcome:
    if offset + len(data) > total:
        raise Refused(f"{wanted.path}: the piece ends at {offset + len(data)}, after total {total}")
    part = _part_of(place, wanted, total)
    if not part.exists() and _is_there(wanted, total):
        return _told(wanted, have=total, total=total)
    part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(part, _PART, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # the same piece twice at once, over two connections
        have = os.fstat(handle).st_size
        _require_room(part, total - have)
        if data and offset <= have:
            _write(handle, data, offset)
            os.fdatasync(handle)
            have = max(have, offset + len(data))
        if have < total:
            return _told(wanted, have=have, total=total)
        _install(wanted, part, handle)
    finally:
        os.close(handle)
    return _told(wanted, have=total, total=total)


def _told(wanted: _Wanted, *, have: int, total: int) -> Outcome:
    if have < total:
        return Outcome(result={"have": have, "complete": False})
    return Outcome(result={"size": total, "sha256": wanted.digest, "have": have, "complete": True})


def _part_of(place: Place, wanted: _Wanted, total: int) -> Path:
    named = f"{wanted.path}\0{total}\0{wanted.digest}"
    return _parts(place) / hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _parts(place: Place) -> Path:
    return place.state / "file"


def _is_there(wanted: _Wanted, size: int) -> bool:
    try:
        handle = paths.open_file(wanted.path)
    except PaddockError:
        return False
    try:
        return wanted.is_met(handle, size)
    finally:
        os.close(handle)


def _require_room(part: Path, size: int) -> None:
    disk = os.statvfs(part.parent)
    room = disk.f_bavail * disk.f_frsize
    if size > room:
        raise Refused(f"{part.parent}: has room for {room} bytes, {size} are to come")


def _install(wanted: _Wanted, part: Path, handle: int) -> None:
    """All bytes are here: prove them, and put the file where it belongs."""
    found = digest_of(handle)
    if found != wanted.digest:
        part.unlink()
        raise Refused(f"{wanted.path}: is {found}, not {wanted.digest}; its pieces are thrown away")
    with _draft(wanted.path) as (directory, copy):
        # From one file system to another a rename does not lead, and across users a link does not.
        _copy(handle, copy, os.fstat(handle).st_size)
        wanted.furnish(copy)
        _publish(directory, copy, wanted.path)
    part.unlink()


# ---- what nobody finished --------------------------------------------------------------------------------------------


async def expire_for_ever(place: Place) -> None:
    """Remove parts that nobody has added to for long, now and every hour."""
    while True:
        await asyncio.to_thread(expire, place, now=time.time())
        await asyncio.sleep(_LOOK_EVERY)


def expire(place: Place, *, now: float) -> int:
    """Remove parts that are too old; how many."""
    gone = 0
    with suppress(FileNotFoundError):
        for part in list(_parts(place).iterdir()):
            with suppress(FileNotFoundError):
                if now - part.stat().st_mtime > KEPT:
                    part.unlink()
                    gone += 1
    return gone
