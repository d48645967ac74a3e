"""Watches what pure code does to the world while a test runs, through Python's audit events."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import ClassVar

PURE_ROOMS = tuple(
    str(Path(__file__).resolve().parents[2] / "src" / "paddock" / room) + "/" for room in ("core", "wire")
)
EVENTS = ("open", "os.", "socket.", "sqlite3.", "subprocess.", "shutil.", "tempfile.", "ctypes.", "time.sleep")


class Witness:
    """One audit hook for the process: Python has no way to take it out again, so it is switched on and off."""

    _only: ClassVar["Witness | None"] = None

    def __init__(self) -> None:
        self._seen: list[str] | None = None

    @classmethod
    def installed(cls) -> "Witness":
        if cls._only is None:
            cls._only = cls()
            sys.addaudithook(cls._only._hear)
        return cls._only

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Collect the events that core and wire cause, directly or through what they call; may be nested."""
        before, seen = self._seen, list[str]()
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = before

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._seen is None or not event.startswith(EVENTS):
            return
        if _comes_from_pure_code(sys._getframe(1)):
            self._seen.append(f"{event} {arguments!r}")


def _comes_from_pure_code(frame: FrameType | None) -> bool:
    while frame is not None:
        name = frame.f_code.co_filename
        # An import reads files; that is Python's act, whoever wrote the import.
        if name.startswith("<frozen importlib"):
            return False
        if name.startswith(PURE_ROOMS):
            return True
        frame = frame.f_back
    return False
