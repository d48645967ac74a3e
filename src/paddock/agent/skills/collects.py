"""Collects files: what matches below a directory becomes output, no link is followed.

Effects: none; reading changes nothing.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.agent import paths
from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills import globs
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Missing
from paddock.wire.framing import JSON

_NAMES_ROOM = 600 << 10
"""Bytes that the names may take in a result, twice over: a message holds 1 MiB."""
_REFUSED_AT_MOST = 500


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Something that matches: its relative path, its size, or why it is not taken."""

    path: str
    size: int = 0
    why: str = ""


def collect(place: Place, call: Call) -> Outcome:
    """Name what matches, and what matches and is not taken, with its reason."""
    wanted = place.resolve(call.text("root"))
    root = wanted if place.machine else Path(os.path.realpath(wanted))
    patterns = [globs.split(pattern) for pattern in call.texts("globs")]
    try:
        top = paths.enter(root)
    except Missing:
        # A job that made no results directory has no results.
        return Outcome(result={"files": [], "refused": []})
    try:
        found = sorted(_walk(top, (), patterns), key=lambda one: one.path)
    finally:
        os.close(top)
    return _chosen(root, found, call)


def _chosen(root: Path, found: list[_Found], call: Call) -> Outcome:
    files: list[JSON] = []
    refused: list[dict[str, JSON]] = []
    beyond: list[dict[str, JSON]] = []
    streams: dict[str, Stream] = {}
    file_limit, total = call.number("file_limit"), call.number("total_limit")
    room = _NAMES_ROOM
    for one in found:
        why = one.why
        room -= 2 * len(one.path.encode()) + 60
        size = min(one.size, file_limit)
        if not why and len(streams) >= call.number("names_limit"):
            why = "more files than are taken"
        elif not why and room < 0:
            why = "more names than a message holds"
        elif not why and size > total:
            why = "more bytes in all than are taken"
        if why:
            (refused if one.why else beyond).append({"path": one.path[:500], "why": why})
            continue
        if one.size > file_limit:
            refused.append({"path": one.path[:500], "why": f"cut at {file_limit} of {one.size} bytes"})
        total -= size
        files.append({"path": one.path, "size": size})
        streams[one.path] = Stream(path=str(root / one.path), length=size)
    # What is odd by itself is told before what is only one too many: a flood of files hides nothing.
    refused += beyond
    if len(refused) > _REFUSED_AT_MOST:
        more = len(refused) - _REFUSED_AT_MOST
        refused = [*refused[:_REFUSED_AT_MOST], {"path": "...", "why": f"and {more} more"}]
    return Outcome(result={"files": files, "refused": refused}, streams=streams)


def _walk(directory: int, way: tuple[str, ...], patterns: list[tuple[str, ...]]) -> Iterator[_Found]:
    """What matches below an open directory. Links are named and not followed."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(here) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            yield from _look(here, (*way, name), patterns)
    finally:
        os.close(here)


def _look(here: int, way: tuple[str, ...], patterns: list[tuple[str, ...]]) -> Iterator[_Found]:
    try:
        mode = os.stat(way[-1], dir_fd=here, follow_symlinks=False)
    except OSError:
        return  # gone meanwhile
    if stat.S_ISDIR(mode.st_mode):
        try:
            below = os.open(way[-1], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        except OSError:
            return
        try:
            yield from _walk(below, way, patterns)
        except OSError as exc:
            yield _Found(path=_shown(way), why=str(exc.strerror))
        finally:
            os.close(below)
    elif globs.matches(way, patterns):
        yield _Found(path=_shown(way), size=mode.st_size, why=_objection(way, mode.st_mode))


def _objection(way: tuple[str, ...], mode: int) -> str:
    """Why a file that matches is not taken; nothing if it is."""
    if stat.S_ISLNK(mode):
        return "is a symbolic link"
    if not stat.S_ISREG(mode):
        return "is no plain file"
    path = "/".join(way)
    if not path.isprintable() or "\\" in path:
        return "its name holds characters that do not print"
    if len(path.encode()) > 1024 or any(len(part.encode()) > 255 for part in way):
        return "its name is too long"
    return ""


def _shown(way: tuple[str, ...]) -> str:
    """As text that prints, whatever bytes the name has."""
    path = "/".join(way)
    return path if path.isprintable() else path.encode("unicode_escape", "backslashreplace").decode("ascii")
