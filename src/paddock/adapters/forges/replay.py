"""A recorded stream played as a forge: lines from a file, reports into a file.

Effects: journaled (every report that was posted is a line of its own, so that a test can count them)
"""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from io import BufferedReader
from itertools import islice
from pathlib import Path

from paddock.core.errors import Broken
from paddock.core.event import Change, Event, Heard
from paddock.core.heard import understand
from paddock.core.report import Report
from paddock.hands import faults
from paddock.ports import Away, Clock

BATCH = 100
"""Lines that are heard at a time."""
LONGEST_LINE = 1024 * 1024
"""Bytes of one line; of a longer one the beginning is kept."""
_HEAD = 64 * 1024


class ReplayForge:
    """Plays a file from its beginning; a line's position is its number in the file, from 0."""

    def __init__(self, *, name: str, file: Path, state: Path, clock: Clock) -> None:
        self._name = name
        self._file = file
        self._clock = clock
        self.reports = state / f"reports-{name}.jsonl"
        """A JSON object a line for each report that was posted: report, change, patchset, message, labels, link, at."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def away(self) -> Away | None:
        return None

    def understand(self, heard: Heard) -> Event:
        return understand(heard)

    async def listen(self, hear: Callable[[Sequence[Heard]], Awaitable[None]], *, since: int | None = None) -> None:
        """Tell every line after `since`, then be quiet until cancelled. `Broken` if the file cannot be read.

        The session is named by the file's bytes: the same recording goes on where it was, another one begins anew.
        """
        session = await asyncio.to_thread(self._session)
        opened = await asyncio.to_thread(self._open)
        try:
            lines = islice(enumerate(opened), 0 if since is None else since + 1, None)
            while batch := await asyncio.to_thread(lambda: list(islice(lines, BATCH))):
                await self._tell(session, batch, hear)
        finally:
            opened.close()
        await asyncio.Event().wait()

    async def _tell(
        self, session: str, batch: Sequence[tuple[int, bytes]], hear: Callable[[Sequence[Heard]], Awaitable[None]]
    ) -> None:
        at = self._clock.now()
        told = [
            Heard(forge=self._name, session=session, position=position, at=at, raw=_text(line))
            for position, line in batch
            if line.strip()
        ]
        if told:
            faults.at("replay.heard")
            await hear(told)
            faults.at("replay.stored")

    async def find(self, change: Change, link: str) -> bool:
        return await asyncio.to_thread(self._find, change, link)

    async def send(self, report: Report) -> None:
        """Append the report, durably. It is on the change once this line is whole."""
        line = {
            "report": report.id,
            "change": report.change.number,
            "patchset": report.change.patchset,
            "message": report.message,
            "labels": dict(report.labels),
            "link": report.link,
            "at": self._clock.now().isoformat(),
        }
        faults.at("replay.sending")
        await asyncio.to_thread(self._append, json.dumps(line).encode() + b"\n")
        faults.at("replay.sent")

    def _session(self) -> str:
        with self._open() as opened:
            return f"file-{hashlib.file_digest(opened, 'sha256').hexdigest()[:16]}"

    def _open(self) -> BufferedReader:
        try:
            return self._file.open("rb")
        except OSError as exc:
            raise Broken(f"{self._name}: {self._file}: {exc.strerror}") from exc

    def _find(self, change: Change, link: str) -> bool:
        return any(
            posted.get("change") == change.number and str(posted.get("message")).rstrip().splitlines()[-1:] == [link]
            for posted in self._posted()
        )

    def _posted(self) -> Iterator[Mapping[str, object]]:
        try:
            with self.reports.open("rb") as opened:
                for line in opened:
                    # A line that was cut by a power failure posted nothing.
                    try:
                        posted: object = json.loads(line)
                    except ValueError:
                        continue
                    if isinstance(posted, dict):
                        yield posted
        except FileNotFoundError:
            return
        except OSError as exc:
            raise Broken(f"{self._name}: {self.reports}: {exc.strerror}") from exc

    def _append(self, line: bytes) -> None:
        try:
            opened = os.open(self.reports, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                length = os.fstat(opened).st_size
                # What was cut stays unread, and does not spoil this line.
                if length and os.pread(opened, 1, length - 1) != b"\n":
                    line = b"\n" + line
                while line:
                    line = line[os.write(opened, line) :]
                os.fsync(opened)
            finally:
                os.close(opened)
        except OSError as exc:
            raise Broken(f"{self._name}: {self.reports}: {exc.strerror}") from exc


def _text(line: bytes) -> str:
    kept = line if len(line) <= LONGEST_LINE else line[:_HEAD]
    # No store takes a NUL, and JSON has no place for one.
    return kept.decode("utf-8", "replace").replace("\x00", "\ufffd").rstrip("\r\n")
