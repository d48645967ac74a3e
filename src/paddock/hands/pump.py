"""What a task prints, put into a file with the time of each part, within a limit.

Effects: none that need a journal; the file's own length is the truth, also after a crash.

`output.times` holds lines `<offset> <moment>`: from that byte on, until the next entry, the output was read at that
moment. It is written before the bytes it speaks of; of two entries with one offset the later counts. A line that finds
no room is not written at all.
"""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from paddock.hands.exit import moment

OUTPUT, TIMES = "output", "output.times"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class Pump:
    """Takes what was read, writes what may be kept, and counts both."""

    def __init__(self, directory: Path, *, limit: int) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._output = os.open(directory / OUTPUT, flags, 0o600)
        self._times = os.open(directory / TIMES, flags, 0o600)
        self._limit = limit
        self._last_moment = ""
        self._noted = 0  # bytes of whole lines in the index
        self._ends_line = True
        self._is_cut = False
        self._unspoken = 0  # bytes that a full disk has cost since it was last said so
        self.written = 0
        self.dropped = 0

    def take(self, data: bytes) -> None:
        """Write it, as far as limit and disk allow; the rest is dropped and counted, and the task goes on."""
        if self._is_cut:
            self.dropped += len(data)
            return
        self._note_time()
        room = self._limit - self.written
        if len(data) > room:
            self._append(data[:room])
            self.dropped += len(data) - room
            self._is_cut = True
            self._say(f"[paddock: output limit of {self._limit} bytes reached, the rest was dropped]")
            return
        if self._unspoken and self._say(f"[paddock: {self._unspoken} bytes dropped, no space left]"):
            self._unspoken = 0
        lost = self._append(data)
        self.dropped += lost
        self._unspoken += lost

    def close(self) -> None:
        """Make what was written durable: the exit record is about to state its length."""
        if self._unspoken and not self._is_cut:
            self._say(f"[paddock: {self._unspoken} bytes dropped, no space left]")
        if self.written:
            # A disk that cannot sync is no reason to lose the exit too: what a power cut then costs is seen by length.
            with suppress(OSError):
                os.fdatasync(self._output)
        os.close(self._output)
        os.close(self._times)

    def _note_time(self) -> None:
        now = moment(time.time())
        if now == self._last_moment:
            return  # one entry a millisecond is enough, and bounds the index for a task that prints byte by byte
        self._last_moment = now
        line = f"{self.written} {now}\n".encode("ascii")
        try:
            if os.write(self._times, line) == len(line):
                self._noted += len(line)
            else:
                # A disk that is nearly full takes a part: the next line would go on in the middle of this one.
                os.ftruncate(self._times, self._noted)
        except OSError as exc:
            if exc.errno not in _FULL:
                raise

    def _say(self, text: str) -> bool:
        """Our own words, on a line of their own."""
        line = text.encode("ascii") + b"\n"
        return self._append(line if self._ends_line else b"\n" + line) == 0

    def _append(self, data: bytes) -> int:
        """Write all of it, or as much as there is space for; gives how many bytes were lost."""
        rest = memoryview(data)
        while rest:
            try:
                done = os.write(self._output, rest)
            except OSError as exc:
                if exc.errno not in _FULL:
                    raise
                return len(rest)
            self.written += done
            self._ends_line = rest[done - 1] == 0x0A
            rest = rest[done:]
        return 0
