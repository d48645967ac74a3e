"""What a program of this package is told: one file, replaced whole whenever it changes.

Effects: none but on the signal SIGIO, which tells of changes.
"""

import fcntl
import json
import os
import signal
from pathlib import Path
from typing import Any

EVERY = 0.5
"""Seconds after which the file is looked at in any case: a kernel may not tell of changes."""


class Orders:
    """A JSON object in a file, and when to read it again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def watch(self) -> None:
        """Have the kernel send SIGIO, which wakes whoever waits, whenever a file beside it is renamed or removed."""
        signal.signal(signal.SIGIO, lambda _signal, _frame: None)
        try:
            what = fcntl.DN_RENAME | fcntl.DN_CREATE | fcntl.DN_DELETE | fcntl.DN_MULTISHOT
            fcntl.fcntl(self._directory, fcntl.F_NOTIFY, what)
        except OSError:
            return  # looked at now and then all the same

    def peek(self) -> dict[str, Any]:
        """What it says at the start, where it cannot change. SystemExit if it is gone."""
        found = self.news()
        self._seen = None
        return found or {}

    def news(self) -> dict[str, Any] | None:
        """What it says, if it has changed since it was last asked for. SystemExit if it is gone: nobody wants us."""
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                seen = (stat.st_ino, stat.st_mtime_ns)
                if seen == self._seen:
                    return None
                self._seen = seen
                value: dict[str, Any] = json.load(file)
                return value
        except FileNotFoundError:
            raise SystemExit(0) from None
