"""A file that is followed by its name, through rotation and truncation.

Effects: none; the file is only read.

A cursor is `file:<inode>:<offset>:<digest of the first bytes>`: a file that was emptied and filled again, or another
one that got the inode, has other first bytes.
"""

import hashlib
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from paddock.agent import paths
from paddock.core.errors import PaddockError, Refused

_CURSOR = re.compile(r"file:(\d{1,19}):(\d{1,18}):([0-9a-f]{12})")
_HEAD = 256
_BLOCK = 64 << 10
_BACK = 16 << 20
"""Bytes that are looked through for the last lines."""
EMPTY_LOOKS = 2
"""Looks at a file that has lost its name: who writes to it may take a moment to hear of it."""


class Followed:
    """One name, and the file that it leads to now. Not more than one thread at a time."""

    def __init__(self, opening: Callable[[], tuple[Path, int]]) -> None:
        """`opening` gives the path as it is now, and a descriptor of the file; it raises where there is none."""
        self._opening = opening
        self._path, self._handle = opening()
        self._offset = 0
        self._head = b""
        self._empty_looks = 0
        self.rotations = 0
        self.truncations = 0
        self.has_gap = False

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    @property
    def cursor(self) -> str:
        """Where it is."""
        inode = os.fstat(self._handle).st_ino if self._handle >= 0 else 0
        return f"file:{inode}:{self._offset}:{_digest(self._head)}"

    # ---- where it begins

    def go_to(self, offset: int) -> None:
        """A byte of the file; its end, if it is shorter."""
        self._offset = min(offset, os.fstat(self._handle).st_size)
        self._look_at_head()

    def go_to_last_lines(self, count: int) -> None:
        """Behind them nothing yet."""
        end = os.fstat(self._handle).st_size
        begin, found, blocks = end, 0, list[bytes]()
        while begin > max(0, end - _BACK) and found <= count:
            size = min(_BLOCK, begin)
            begin -= size
            blocks.insert(0, os.pread(self._handle, size, begin))
            found += blocks[0].count(b"\n")
        lines = b"".join(blocks).splitlines(keepends=True)
        self.go_to(end - sum(len(line) for line in lines[-count:]) if count else end)

    def go_on(self, cursor: str) -> None:
        """Behind a cursor, in a rotated file if it is still there beside this one; else at the begin, with a gap."""
        known = _CURSOR.fullmatch(cursor)
        if known is None:
            raise Refused(f"cursor {cursor!r}: is none of a file")
        inode, offset, digest = int(known[1]), int(known[2]), known[3]
        if _fits(self._handle, inode, offset, digest):
            self.go_to(offset)
            return
        if (rotated := self._rotated(inode, offset, digest)) is not None:
            os.close(self._handle)
            self._handle = rotated
            self.has_gap = self._has_others_since(rotated)
            self.go_to(offset)
            return
        self.has_gap = True

    def _rotated(self, inode: int, offset: int, digest: str) -> int | None:
        for path in self._siblings():
            with suppress(PaddockError, OSError):
                handle = paths.open_file(path)
                if _fits(handle, inode, offset, digest):
                    return handle
                os.close(handle)
        return None

    def _has_others_since(self, rotated: int) -> bool:
        """Whether a file was rotated away between that one and the present one: it is not read."""
        found = os.fstat(rotated)
        for path in self._siblings():
            with suppress(OSError):
                other = path.stat()
                if other.st_ino != found.st_ino and other.st_mtime_ns > found.st_mtime_ns:
                    return True
        return False

    def _siblings(self) -> list[Path]:
        """Where a rotated file may be."""
        with suppress(OSError):
            names = sorted(os.listdir(self._path.parent))
            return [
                self._path.parent / name
                for name in names
                if name.startswith(self._path.stem) and name != self._path.name
            ]
        return []

    # ---- what comes

    def read(self, most: int) -> bytes:
        """The next bytes; none if there are none now."""
        if self._handle < 0:
            return self._read_new(most)
        size = os.fstat(self._handle).st_size
        if size < self._offset or (size > self._offset and not self._has_same_head()):
            self.truncations += 1
            self._offset, self._head = 0, b""
        if data := os.pread(self._handle, most, self._offset):
            self._offset += len(data)
            self._look_at_head()
            self._empty_looks = 0
            return data
        return self._read_new(most)

    def _read_new(self, most: int) -> bytes:
        """Nothing more is here: does the name lead to another file?"""
        try:
            path, handle = self._opening()
        except PaddockError:
            return b""  # between two files, there may be none
        if self._handle >= 0 and os.path.samestat(os.fstat(handle), os.fstat(self._handle)):
            os.close(handle)
            return b""
        self._empty_looks += 1
        if self._handle >= 0 and self._empty_looks < EMPTY_LOOKS:
            os.close(handle)
            return b""
        self.close()
        self._path, self._handle = path, handle
        self._offset, self._head, self._empty_looks = 0, b"", 0
        self.rotations += 1
        return self.read(most)

    def _look_at_head(self) -> None:
        if len(self._head) < min(_HEAD, self._offset):
            self._head = os.pread(self._handle, min(_HEAD, self._offset), 0)

    def _has_same_head(self) -> bool:
        return os.pread(self._handle, len(self._head), 0) == self._head


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest()[:12]


def _fits(handle: int, inode: int, offset: int, digest: str) -> bool:
    found = os.fstat(handle)
    return (
        found.st_ino == inode and found.st_size >= offset and _digest(os.pread(handle, min(_HEAD, offset), 0)) == digest
    )
