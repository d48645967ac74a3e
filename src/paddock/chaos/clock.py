"""Runs a module of Paddock with a calendar that somebody else moves.

`python -m paddock.chaos.clock FILE MODULE ...`

Effects: none. The file holds seconds, by which everything that asks for the time of day is told another one.
Steady clocks go on as they are, as they do when an operator or NTP sets a machine's clock. What is moved is what
Python's `time` and `datetime` say: the kernel's own clock belongs to everybody on the machine.
"""

import datetime as calendar
import mmap
import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Any

_FORM = struct.Struct("d")

_datetime = calendar.datetime
_time, _time_ns, _clock_gettime = time.time, time.time_ns, time.clock_gettime


def write(path: Path, seconds: float) -> None:
    """Move the calendar of whoever runs with this file, at once."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.write(_FORM.pack(seconds))


def install(path: Path) -> None:
    """From now on this process asks the file first."""
    with path.open("r+b") as file:
        told = mmap.mmap(file.fileno(), _FORM.size, prot=mmap.PROT_READ)

    def moved() -> float:
        seconds: float = _FORM.unpack_from(told)[0]
        return seconds

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _datetime)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, _datetime)

    class Moved(_datetime, metaclass=Kind):
        """Makes plain moments only; those of now are moved."""

        def __new__(cls, *args: Any, **rest: Any) -> Any:
            return _datetime(*args, **rest)

        @classmethod
        def now(cls, tz: calendar.tzinfo | None = None) -> Any:
            return _datetime.fromtimestamp(time.time(), tz)

    def clock_gettime(clock: int) -> float:
        return _clock_gettime(clock) + (moved() if clock == time.CLOCK_REALTIME else 0)

    time.time = lambda: _time() + moved()
    time.time_ns = lambda: _time_ns() + int(moved() * 1e9)
    time.clock_gettime = clock_gettime
    calendar.datetime = Moved  # type: ignore[misc]


def main() -> None:
    """Install, then be the module."""
    install(Path(sys.argv[1]))
    module = sys.argv[2]
    del sys.argv[:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
