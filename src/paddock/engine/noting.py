"""Noting: the last of what an agent logs about itself, as a stream whose old end is cut off.

Effects: idempotent (a batch is one append; after a lost answer the agent tells it again, and it stands there twice)

A stream is a few segments, files named by where they begin: a reader's cursor stays true while the oldest ones go.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from paddock.core.redaction import redacted
from paddock.ports import Archive

SEGMENT = 256 << 10
"""Bytes after which the next segment begins."""
KEPT = 4
"""Segments that are kept of one agent."""
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of an agent's own log. `at` is by its clock, as it told it."""

    at: str
    level: str
    message: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Some lines, oldest first, and where to read on."""

    items: Sequence[Line]
    cursor: int


def place(agent: str) -> str:
    """The directory of an agent's log; the name, too, under which its growth is told."""
    return f"agents/{agent}/log"


async def note(archive: Archive, agent: str, entries: Iterable[Mapping[str, object]]) -> int:
    """Keep these lines after those that are there, with one write; where the stream ends now."""
    data = "".join(json.dumps(redacted(entry), ensure_ascii=False) + "\n" for entry in entries)
    written = data.encode("utf-8", "backslashreplace")
    segments = await _segments(archive, agent)
    start, length = segments[-1] if segments else (0, 0)
    if length and length + len(written) > SEGMENT:
        start, length = start + length, 0
        segments.append((start, 0))
    await archive.append(_name(agent, start), length, written)
    for old, _ in segments[:-KEPT]:
        await archive.remove(_name(agent, old))
    return start + length + len(written)


async def last(archive: Archive, agent: str, *, count: int, level: str = "debug") -> Lines:
    """The newest lines at or above a level."""
    found: list[Line] = []
    segments = await _segments(archive, agent)
    for start, length in reversed(segments):
        data = await archive.read(_name(agent, start), 0, length)
        found = [line for line in map(_read, data.splitlines()) if _is_at_least(line, level)] + found
        if len(found) >= count:
            break
    return Lines(items=found[-count:], cursor=sum(segments[-1]) if segments else 0)


async def after(archive: Archive, agent: str, cursor: int, *, count: int, level: str = "debug") -> Lines:
    """The lines from a cursor on, at or above a level; what was cut off meanwhile is left out."""
    found: list[Line] = []
    for start, length in await _segments(archive, agent):
        if cursor >= start + length:
            continue
        cursor = max(cursor, start)
        data = await archive.read(_name(agent, start), cursor - start, start + length - cursor)
        for raw in data.splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                break
            cursor += len(raw)
            if _is_at_least(line := _read(raw), level):
                found.append(line)
            if len(found) >= count:
                return Lines(items=found, cursor=cursor)
    return Lines(items=found, cursor=cursor)


async def _segments(archive: Archive, agent: str) -> list[tuple[int, int]]:
    """Where each segment begins, and its length; oldest first."""
    found = await archive.list(place(agent))
    return [(int(name.rpartition("/")[2]), length) for name, length in found.items()]


def _name(agent: str, start: int) -> str:
    return f"{place(agent)}/{start:016d}"


def _is_at_least(line: Line, level: str) -> bool:
    return LEVELS.index(line.level) >= LEVELS.index(level)


def _read(raw: bytes) -> Line:
    """A kept line; what an agent says may hold codes that speak to a terminal, and they are for nobody."""
    text = raw.decode("utf-8", "replace").rstrip("\n")
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        return Line(at="", level="info", message=_printable(text))
    told = entry.get("fields")
    level = entry.get("level")
    return Line(
        at=_printable(str(entry.get("time", ""))),
        level=level if level in LEVELS else "info",
        message=_printable(str(entry.get("msg", ""))),
        fields={_printable(str(key)): _printable(str(value)) for key, value in told.items()}
        if isinstance(told, dict)
        else {},
    )


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
