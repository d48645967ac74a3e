"""The journal of one systemd unit, line by line, each with the cursor behind it.

Effects: none; the journal is only read.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from paddock.agent.skills import tools
from paddock.core.errors import Broken, Missing, Refused
from paddock.wire.framing import JSON

PREFIX = "journal:"
_LONGEST = 4 << 20  # bytes of one entry as JSON; the journal itself takes less


def command(unit: str, *, lines: int, cursor: str, follow: bool) -> list[str]:
    """The command line. Refused for a cursor that is none of a journal."""
    words = [tools.find("journalctl", package="systemd"), "--unit", unit, "--output=json", "--no-pager", "--quiet"]
    words.append("--all")
    if cursor:
        if not cursor.startswith(PREFIX):
            raise Refused(f"cursor {cursor!r}: is none of a journal")
        words += [f"--after-cursor={cursor.removeprefix(PREFIX)}", "--lines=all"]
    else:
        words.append(f"--lines={lines}")
    if follow:
        words.append("--follow")
    # It must not outlive an agent that is killed.
    with suppress(Missing):
        return [tools.find("setpriv"), "--pdeathsig", "KILL", "--", *words]
    return words


@asynccontextmanager
async def entries(words: list[str]) -> AsyncIterator[AsyncIterator[tuple[bytes, str]]]:
    """Lines and cursors, while the block runs. Broken, with its last words, if journalctl fails."""
    child = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST,
        env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )
    try:
        yield _read(child)
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


async def _read(child: asyncio.subprocess.Process) -> AsyncIterator[tuple[bytes, str]]:
    if child.stdout is None or child.stderr is None:
        raise AssertionError("both are pipes")
    async for line in child.stdout:
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                yield shown(entry), f"{PREFIX}{entry.get('__CURSOR', '')}"
    if await child.wait() != 0:
        said = (await child.stderr.read()).decode("utf-8", "replace").strip()
        raise Broken(f"journalctl: {said[-300:] or child.returncode}")


def shown(entry: Mapping[str, JSON]) -> bytes:
    """One entry as text: moment, who, what."""
    stamp = str(entry.get("__REALTIME_TIMESTAMP", "0"))
    moment = datetime.fromtimestamp(int(stamp) / 1_000_000 if stamp.isdecimal() else 0, UTC)
    who = str(entry.get("SYSLOG_IDENTIFIER") or entry.get("_COMM") or "?")
    pid = entry.get("_PID")
    head = f"{moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')} {who}{f'[{pid}]' if pid else ''}: "
    return head.encode() + _bytes(entry.get("MESSAGE")) + b"\n"


def _bytes(message: JSON) -> bytes:
    """What does not print comes as a list of numbers."""
    if isinstance(message, list):
        return bytes(one for one in message if isinstance(one, int) and 0 <= one < 256)
    return str(message if message is not None else "").encode("utf-8", "backslashreplace")
