"""What a machine says on its serial line, followed as output; and what is typed there.

Effects: none on the machine but what is typed. The driver keeps all of it in a file, whoever looks.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills.logs import tailing
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Broken
from paddock.hands import lines
from paddock.wire.framing import JSON

FILE = "console.log"
SOCKET = "console"
_RATE = 4 << 20  # bytes a second
_MOST = 64 << 20  # bytes of one console in one output
_TYPE_LIMIT = 5.0  # seconds


async def follow(directory: Path, call: Call) -> Outcome:
    """The console of the machine in this directory, until it is cancelled or its time is over."""
    params: dict[str, JSON] = {
        "path": FILE,
        "offset": call.number("offset"),
        "seconds": call.params.get("seconds"),
        "follow": True,
        "rate": _RATE,
        "output_limit": _MOST,
    }
    nowhere = Place(work=directory, temporary=directory, tasks=directory)
    return await tailing.tail(nowhere, replace(call, params=params))


async def type_into(directory: Path, data: bytes) -> None:
    """Put bytes on the line. Broken if nobody is at its other end."""
    try:
        async with asyncio.timeout(_TYPE_LIMIT):
            await lines.put(directory / SOCKET, data)
    except (OSError, TimeoutError) as exc:
        raise Broken(f"console: nobody takes it: {str(exc) or 'no time left'}") from exc
