"""Archives that a Linux kernel unpacks into its first file system (`newc`), made in memory.

Effects: none.
"""

import io
import stat
from pathlib import PurePosixPath

_TRAILER = "TRAILER!!!"


class Archive:
    """Everything in it belongs to root. Directories above an entry are made with it."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._known: set[str] = set()
        self._number = 0

    def directory(self, name: str, *, mode: int = 0o755) -> None:
        """Again changes nothing."""
        if name not in self._known:
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, name: str, data: bytes, *, mode: int = 0o644) -> None:
        """A plain file."""
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def content(self) -> bytes:
        """The archive, as it is now. Archives may follow one another in one file."""
        whole = io.BytesIO(self._out.getvalue())
        whole.seek(0, io.SEEK_END)
        _write(whole, _TRAILER, 0, 0, b"")
        return whole.getvalue()

    def _entry(self, name: str, mode: int, data: bytes = b"") -> None:
        parent = str(PurePosixPath(name).parent)
        if parent != ".":
            self.directory(parent)
        self._known.add(name)
        self._number += 1
        _write(self._out, name, self._number, mode, data)


def _write(out: io.BytesIO, name: str, number: int, mode: int, data: bytes) -> None:
    """Thirteen numbers in hexadecimal, name, content, each padded to four bytes."""
    path = name.encode() + b"\0"
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    for part in (b"070701" + b"".join(b"%08X" % one for one in numbers) + path, data):
        out.write(part + b"\0" * (-(out.tell() + len(part)) % 4))
