"""What file systems do for copies: reflinks, snapshots, holes, shared extents.

Effects: idempotent or none; who calls them gives names that nobody else uses.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from paddock.agent.skills.hypervisor.stopping import Stop
from paddock.core.errors import Broken

_FICLONE = 0x40049409
_FIEMAP = 0xC020660B
_SUBVOL_CREATE = 0x50009418  # _V2
_SNAP_CREATE = 0x50009417  # _V2
_SNAP_DESTROY = 0x5000940F
_VOLUME_ARGS = 4096
_FS_ROOT = 256
"""Number of the inode at the top of each btrfs subvolume."""

_EXTENT = struct.Struct("=QQQQQIIII")
_FIEMAP_HEAD = struct.Struct("=QQIIII")
_LAST, _SHARED = 0x1, 0x2000
_EXTENTS = 512
_STEP = 1 << 26


def reflink(source: int, target: int) -> None:
    """An open file becomes a copy-on-write copy of another one. Raises OSError where the file system has none."""
    fcntl.ioctl(target, _FICLONE, source)


def is_subvolume(path: Path) -> bool:
    """Whether it looks like the top of a btrfs subvolume."""
    return path.is_dir() and path.stat().st_ino == _FS_ROOT


def make_subvolume(path: Path) -> None:
    """A btrfs subvolume that holds nothing."""
    _on_parent(path, _SUBVOL_CREATE, _v2(0, path.name))


def snapshot(source: Path, target: Path) -> None:
    """A writable snapshot of a btrfs subvolume."""
    handle = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _on_parent(target, _SNAP_CREATE, _v2(handle, target.name))
    finally:
        os.close(handle)


def drop_subvolume(path: Path) -> None:
    """A btrfs subvolume is gone with all that it holds. Raises OSError where only root may do so."""
    _on_parent(path, _SNAP_DESTROY, bytearray(struct.pack("=q4088s", 0, os.fsencode(path.name))))


def _v2(handle: int, name: str) -> bytearray:
    return bytearray(struct.pack("=qQQ32s4040s", handle, 0, 0, b"", os.fsencode(name)))


def _on_parent(path: Path, call: int, told: bytearray) -> None:
    assert len(told) == _VOLUME_ARGS
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(handle, call, told)
    finally:
        os.close(handle)


def copy(source: Path, target: Path, stop: Stop) -> None:
    """A new file with the same content and the same holes; a reflink where that can be."""
    with source.open("rb") as taken, target.open("xb") as made:
        size = os.fstat(taken.fileno()).st_size
        try:
            reflink(taken.fileno(), made.fileno())
            return
        except OSError:
            os.ftruncate(made.fileno(), size)
        at = 0
        while at < size:
            stop.check()
            begin, end = _data(taken.fileno(), at, size)
            _copy_range(taken.fileno(), made.fileno(), begin, min(end, begin + _STEP))
            at = min(end, begin + _STEP)


def _data(handle: int, at: int, size: int) -> tuple[int, int]:
    """From where to where there is data next; empty at the end if there is none."""
    try:
        begin = os.lseek(handle, at, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return size, size
    return begin, os.lseek(handle, begin, os.SEEK_HOLE)


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    while begin < end:
        try:
            done = os.copy_file_range(source, target, end - begin, begin, begin)
        except OSError as exc:
            if exc.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            done = os.pwrite(target, os.pread(source, min(end - begin, 1 << 20), begin), begin)
        if done == 0:
            raise Broken("a disk: became shorter while it was copied")
        begin += done


def own_bytes(path: Path) -> int:
    """Bytes that would be free again without this file: what it does not share with others."""
    return extents(path)[0]


def extents(path: Path) -> tuple[int, list[tuple[int, int]]]:
    """Bytes that a file shares with no other one, and where on the disk those lie that it does share."""
    alone, shared = 0, []
    with path.open("rb") as file:
        try:
            for begin, size, flags in _extents(file.fileno()):
                if flags & _SHARED:
                    shared.append((begin, begin + size))
                else:
                    alone += size
        except OSError:  # a file system that shares nothing, and says nothing
            return os.fstat(file.fileno()).st_blocks * 512, []
    return alone, shared


def _extents(handle: int) -> Iterator[tuple[int, int, int]]:
    """Where a file's data lies: place on the disk, length, flags. Raises OSError where the file system does not say."""
    at = 0
    while True:
        told = bytearray(_FIEMAP_HEAD.pack(at, (1 << 64) - 1 - at, 0, 0, _EXTENTS, 0) + bytes(_EXTENT.size * _EXTENTS))
        fcntl.ioctl(handle, _FIEMAP, told)
        count = _FIEMAP_HEAD.unpack_from(told)[3]
        for index in range(count):
            logical, physical, size, _, _, flags, *_ = _EXTENT.unpack_from(
                told, _FIEMAP_HEAD.size + index * _EXTENT.size
            )
            yield physical, size, flags
            at = logical + size
            if flags & _LAST:
                return
        if count == 0:
            return
