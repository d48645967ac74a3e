"""The headers of qcow2 files, read without trusting them and written without a process.

Effects: none.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Broken, Refused

MAGIC = b"QFI\xfb"
RAW, QCOW2 = "raw", "qcow2"

_HEAD = struct.Struct(">4sIQIIQIIQQIIQ")
_CLUSTER = 1 << 16
_SECTOR = 512
_VERSION_3 = struct.Struct(">QQQII")
_BACKING_FORMAT = 0xE2792ACA
_DATA_FILE_BIT = 1 << 2
_MOST_BACKING = 1023
MOST_SIZE = 1 << 46
"""Bytes. What one block of reference counts covers is more than the table of so large a disk takes."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a qcow2 file says of itself."""

    size: int
    """Bytes that its machine sees."""
    has_backing: bool = False
    has_data_file: bool = False
    is_encrypted: bool = False


def format_of(path: Path) -> str:
    """By its first bytes: qcow2 or raw. There is no third."""
    with path.open("rb") as file:
        return QCOW2 if file.read(len(MAGIC)) == MAGIC else RAW


def read(data: bytes, name: str) -> Header:
    """The header in the first bytes of a file. Refused if it is none."""
    if len(data) < _HEAD.size or data[:4] != MAGIC:
        raise Refused(f"{name}: is no qcow2 file")
    _, version, backing, length, _bits, size, crypt, *_ = _HEAD.unpack_from(data)
    if version not in (2, 3):
        raise Refused(f"{name}: is qcow2 of version {version}; 2 and 3 are known")
    incompatible = 0
    if version == 3:
        if len(data) < _HEAD.size + 8:
            raise Refused(f"{name}: its qcow2 header is cut off")
        (incompatible,) = struct.unpack_from(">Q", data, _HEAD.size)
    return Header(
        size=size,
        has_backing=bool(backing or length),
        has_data_file=bool(incompatible & _DATA_FILE_BIT),
        is_encrypted=crypt != 0,
    )


def read_file(path: Path) -> Header:
    """The header of a file."""
    with path.open("rb") as file:
        return read(file.read(_HEAD.size + _VERSION_3.size), path.name)


def backing(path: Path) -> str:
    """What an overlay of ours lies on; nothing if it stands alone."""
    with path.open("rb") as file:
        head = file.read(_HEAD.size + _VERSION_3.size)
        read(head, path.name)
        offset, length = _HEAD.unpack_from(head)[2:4]
        file.seek(offset)
        return os.fsdecode(file.read(min(length, _MOST_BACKING))) if offset else ""


def harmless(path: Path, *, most: int = MOST_SIZE) -> Header:
    """The header of a stranger's file. Refused if it names another file, whose content a machine would then read."""
    header = read_file(path)
    if header.has_backing:
        raise Refused(f"{path.name}: names a backing file", hint="qemu-img convert makes an image that stands alone")
    if header.has_data_file:
        raise Refused(f"{path.name}: names a data file", hint="qemu-img convert makes an image that stands alone")
    if header.is_encrypted:
        raise Refused(f"{path.name}: is encrypted")
    if not 0 < header.size <= most:
        raise Refused(f"{path.name}: says that its disk has {header.size} bytes; at most {most} are taken")
    return header


def overlay(backing: Path, format: str, size: int) -> dict[int, bytes]:
    """What an overlay that holds nothing yet consists of, by offset; the rest up to `length(size)` is a hole.

    Four clusters and more: header, table of reference counts, one block of them, the first table of the mapping.
    """
    name = os.fsencode(backing)
    if len(name) > _MOST_BACKING:
        raise Refused(f"{backing.name}: its path is longer than a qcow2 header holds", hint="use a shorter directory")
    if not 0 < size <= MOST_SIZE:
        raise Refused(f"{backing.name}: a disk of {size} bytes cannot be; at most {MOST_SIZE}")
    entries = _entries(size)
    told = format.encode("ascii")
    extension = struct.pack(">II", _BACKING_FORMAT, len(told)) + told.ljust(-(-len(told) // 8) * 8, b"\0") + bytes(8)
    start = 112 + len(extension)
    head = _HEAD.pack(
        *(MAGIC, 3, start, len(name), 16, size, 0, entries, 3 * _CLUSTER, _CLUSTER, 1, 0, 0),
    ) + _VERSION_3.pack(0, 0, 0, 4, 112)
    return {
        0: head + bytes(8) + extension + name,
        _CLUSTER: struct.pack(">Q", 2 * _CLUSTER),
        2 * _CLUSTER: struct.pack(">H", 1) * (length(size) // _CLUSTER),
    }


def length(size: int) -> int:
    """Bytes of an overlay's file that holds nothing yet."""
    return (3 + (-(-_entries(size) * 8 // _CLUSTER) or 1)) * _CLUSTER


def _entries(size: int) -> int:
    return -(-size // (_CLUSTER * (_CLUSTER // 8)))


def whole(size: int) -> int:
    """Bytes of the smallest disk that has so many: a machine sees sectors, and nothing of half a one."""
    return -(-size // _SECTOR) * _SECTOR


def check_size(path: Path, format: str) -> int:
    """Bytes that a machine sees of a disk of ours. Broken if its file is not what its name says."""
    if format == RAW:
        return path.stat().st_size
    try:
        return read_file(path).size
    except Refused as exc:
        raise Broken(exc.message) from None
