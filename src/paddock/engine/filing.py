"""Filing: where in the archive a command's output is kept.

Effects: none

A script of a run has one log beside the others of its run. Everything else has a directory of its own: what it printed
is `out.log` with the index `out.times`, and any other stream lies below `files` under its name.
"""

from paddock.core.command import Command
from paddock.core.errors import Refused
from paddock.core.names import archive_name
from paddock.ports import Archive
from paddock.wire.hello import LOG_STREAM

COLLECT = "file.collect"
LOG = "out.log"
FILES = "files"


def directory_of(agent: str, command: str) -> str:
    """Where the output of a command that somebody ordered is kept."""
    return f"agents/{agent}/commands/{command}"


def stream_name(command: Command, stream: str) -> str:
    """Where a stream of a command goes in the archive; `Refused`, naming it, for a name that leads elsewhere."""
    if not command.archive:
        raise Refused(f"{stream!r}: the output of a {command.method} is not kept")
    if command.by:
        if stream == LOG_STREAM and command.method != COLLECT:
            return archive_name(f"{command.archive}/{LOG}")
        return archive_name(f"{command.archive}/{FILES}/{archive_name(stream)}")
    if command.method == COLLECT:
        return archive_name(f"{command.archive}/{archive_name(stream)}")
    if stream != LOG_STREAM:
        raise Refused(f"{stream!r}: a {command.method} has no such stream")
    return archive_name(f"{command.archive}.log")


def times_name(command: Command, stream: str) -> str:
    """Where the times of a stream go; empty where none are kept."""
    if stream != LOG_STREAM or command.method == COLLECT:
        return ""
    return stream_name(command, stream).removesuffix(".log") + ".times"


async def lengths(archive: Archive, command: Command) -> dict[str, int]:
    """Stream → bytes that are on disk."""
    if not command.archive:
        return {}
    if command.by:
        return await _lengths_of_own(archive, command)
    if command.method != COLLECT:
        return {LOG_STREAM: await archive.length(f"{command.archive}.log") or 0}
    found = await archive.list(command.archive)
    return {name.removeprefix(f"{command.archive}/"): length for name, length in found.items()}


async def _lengths_of_own(archive: Archive, command: Command) -> dict[str, int]:
    found = await archive.list(command.archive)
    below = f"{command.archive}/{FILES}/"
    streams = {name.removeprefix(below): length for name, length in found.items() if name.startswith(below)}
    if command.method != COLLECT:
        streams[LOG_STREAM] = found.get(f"{command.archive}/{LOG}", 0)
    return streams
