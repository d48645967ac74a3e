"""What a machine says on its serial line, followed as output; and what is typed there.

Effects: none on the machine but what is typed. Its file grows as long as it speaks, whoever looks; what is between
the first and the last of it is given back to the disk, which can be done again at any time.
"""

import asyncio
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from paddock.agent import paths
from paddock.agent.entry import Outcome
from paddock.agent.skills.hypervisor import holes
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.logs.sink import Sink
from paddock.agent.skills.skill import Call, in_thread
from paddock.core.errors import Broken
from paddock.hands import lines

_log = logging.getLogger(__name__)

FILE = "console.log"
SOCKET = "console"
FIRST = 1 << 20
"""Bytes that are kept of its begin: how it booted."""
LAST = 16 << 20
_STEP = 1 << 20
"""What is given back begins and ends at multiples of this: whole blocks of every file system."""
_SHORTENED_EVERY = 10.0  # seconds

_RATE = 4 << 20  # bytes a second
_PIECE = 64 << 10
_LOOK_EVERY = 0.25
LIVE = 48 << 20
"""Bytes of one console in one output as they come; then so much of each minute, and the last of it when it is over."""
GLANCE = 8 << 10
_GLANCE_EVERY = 60.0  # seconds
ENDING = 1 << 20
_MOST = 64 << 20
_CUT = (
    f"this console is long: from here on, the last {GLANCE >> 10} KiB of each minute, and of all when this ends"
    " (paddock env console --from {at} shows what comes now)"
)
_TYPE_LIMIT = 5.0  # seconds


# ---- followed


async def follow(directory: Path, call: Call) -> Outcome:
    """The console of the machine in this directory, until it is cancelled or its time is over."""
    sink = Sink(replace(call, params={"rate": _RATE, "output_limit": LIVE}))
    try:
        handle = await in_thread(lambda: paths.open_file(directory / FILE))
        try:
            return await _Following(handle, sink, begin=call.number("offset")).follow(call.params.get("seconds"))
        finally:
            os.close(handle)
    finally:
        sink.close()


class _Following:
    """One output, and how far it is in the console. The cursor is that offset, and `cut` once no more is given."""

    def __init__(self, handle: int, sink: Sink, *, begin: int) -> None:
        self._handle = handle
        self._sink = sink
        # A cursor means that this process is not the one that began.
        at, _, cut = sink.cursor.partition(" ")
        self._at = int(at) if at else min(begin, self._size())
        self._is_cut = bool(cut)
        self._gone = 0

    async def follow(self, seconds: object) -> Outcome:
        """See follow."""
        ended = "cancelled"
        try:
            async with asyncio.timeout(seconds if isinstance(seconds, int | float) else None):
                await self._live()
        except TimeoutError:
            ended = "time"
        except asyncio.CancelledError:
            pass
        # It may say why it ended. Again, if an agent had to stop in between; not for ever.
        if self._is_cut and self._sink.written + ENDING + _PIECE <= _MOST:
            await self._last(ENDING)
        return self._sink.outcome(ended, offset=self._at, gone=self._gone)

    async def _live(self) -> NoReturn:
        while not self._is_cut and self._sink.room > 0:
            if not await self._piece(min(_PIECE, self._sink.room)):
                await asyncio.sleep(_LOOK_EVERY)
        if not self._is_cut:
            self._is_cut = True
            await self._say(_CUT.format(at=self._at))
        while self._sink.written < _MOST - 2 * ENDING:
            await asyncio.sleep(_GLANCE_EVERY)
            await self._last(GLANCE)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def _last(self, most: int) -> None:
        """Of what came meanwhile."""
        end = self._size()
        if end - self._at > most:
            await self._skip_to(end - most, "were not kept here")
        while self._at < end and await self._piece(min(_PIECE, end - self._at)):
            pass

    async def _piece(self, most: int) -> bool:
        """Whether there was more."""
        begin, data = await in_thread(lambda: holes.read(self._handle, self._at, most))
        if begin > self._at:
            await self._skip_to(begin, "are gone: its host keeps the first and the last of a console")
        if data:
            self._at += len(data)
            await self._sink.take(data, self._cursor)
        return bool(data)

    async def _skip_to(self, offset: int, why: str) -> None:
        left, self._at = offset - self._at, offset
        self._gone += left
        await self._say(f"{left} bytes {why}")

    async def _say(self, words: str) -> None:
        """Ours, on a line of its own among the machine's."""
        await self._sink.take(f"\r\n[paddock: {words}]\r\n".encode(), self._cursor)

    @property
    def _cursor(self) -> str:
        return f"{self._at} cut" if self._is_cut else str(self._at)

    def _size(self) -> int:
        return os.fstat(self._handle).st_size


def last(path: Path, count: int) -> bytes:
    """The last bytes of a console; none if there is none."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - count))
        return file.read(count)
    return b""


# ---- kept short


async def keep_short(layout: Layout) -> NoReturn:
    """For ever: no machine of this host, lent or being made, fills its disk by speaking."""
    is_told = False
    while True:
        why = await in_thread(lambda: shorten([*layout.machines.glob(f"*/*/{FILE}"), *layout.making.glob(f"*/{FILE}")]))
        if why and not is_told:
            _log.warning("consoles of machines grow without limit", extra={"why": why})
            is_told = True
        await asyncio.sleep(_SHORTENED_EVERY)


def shorten(consoles: Iterable[Path]) -> str:
    """Give back what is between the first and the last of each. Why not, where the disk cannot."""
    why = ""
    for path in consoles:
        # It may be gone, with its machine.
        with suppress(OSError):
            try:
                _shorten(path)
            except Broken as exc:
                why = exc.message
    return why


def _shorten(path: Path) -> None:
    end = (path.stat(follow_symlinks=False).st_size - LAST) // _STEP * _STEP
    if end <= FIRST:
        return
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if holes.is_there(handle, end - 1):
            holes.punch(handle, FIRST, end)
    finally:
        os.close(handle)


# ---- typed on


async def type_into(directory: Path, data: bytes) -> None:
    """Put bytes on the line. Broken if nobody is at its other end."""
    try:
        async with asyncio.timeout(_TYPE_LIMIT):
            await lines.put(directory / SOCKET, data)
    except (OSError, TimeoutError) as exc:
        raise Broken(f"console: nobody takes it: {str(exc) or 'no time left'}") from exc
