"""Logs of builds: followed while they grow, kept for later, bounded in size and number.

Effects: idempotent; a log is only appended to, and the oldest go when there are too many.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MOST, COUNT = 8 << 20, 200
"""Bytes of one log, and how many are kept."""
_CUT = "\n… cut: the log is longer than what is kept of it\n"

Follower = Callable[[bytes], None]


class BuildLog:
    """The log of one build. Bytes are what a script printed, lines are ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)
        self._length = 0
        self._ends_line = True
        self._followers: list[Follower] = []

    def line(self, text: str) -> None:
        """A line of ours, on a line of its own."""
        before = "" if self._ends_line else "\n"
        self.write(f"{before}{time.strftime('%H:%M:%SZ', time.gmtime())} {text}\n".encode())

    def write(self, data: bytes) -> None:
        """What a script printed. A full disk ends no build: its log is then shorter."""
        if not data or self._length > MOST or self._file.closed:
            return
        self._ends_line = data.endswith(b"\n")
        self._length += len(data)
        if self._length > MOST:
            data = data[: max(0, len(data) - (self._length - MOST))] + _CUT.encode()
        with suppress(OSError):
            self._file.write(data)
        for follower in list(self._followers):
            follower(data)

    def follow(self, follower: Follower) -> None:
        """Gets everything so far, and everything from now on."""
        with suppress(OSError):
            if known := self.path.read_bytes():
                follower(known)
        self._followers.append(follower)

    def leave(self, follower: Follower) -> None:
        """Gets nothing any more."""
        self._followers.remove(follower)

    def last(self, count: int) -> str:
        """Its last lines, on one line, for a message."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4096))
            lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
            return " · ".join(lines[-count:])[-600:]
        return ""

    def close(self) -> None:
        """It grows no more."""
        self._file.close()


def sweep(directory: Path) -> None:
    """The newest stay."""
    found = sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[COUNT:]:
        path.unlink(missing_ok=True)
