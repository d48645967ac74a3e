"""A machine on paper: a port, and behind it a real agent that is parked. `python -m tests.story.sheet NAME boot|fork`.

Who is looked for, paper.py finds by this command line.
"""

# ruff: noqa: ASYNC110 - who is looked for is another process

import asyncio
import os
import select
import sys
from contextlib import suppress
from pathlib import Path

from paddock.wire.framing import SESSION_OPENING
from tests.agent.guest import MACHINE, Hypervisor


async def _live(how: str) -> None:
    """A machine, in the present directory: until it goes off. A fork is served once it is parked, in that session."""
    here = Path.cwd()
    root = here / "guest"
    for path, text in MACHINE.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    port = Hypervisor(Path("channel"))
    words = ["run", "--line", f"virtio:{port.device}", "--parked", "--rootfs", str(root)]
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "paddock.agent", *words, "--state", str(here / "guest-state")), cwd=here
    )
    if how == "fork":
        await asyncio.to_thread(_until_parked, port)
    async with port.open():
        told = root / "run/paddock/told"
        while agent.returncode is None and not (told.exists() and "off\n" in told.read_text()):
            await asyncio.sleep(0.05)
        if agent.returncode is None:
            agent.kill()
            await agent.wait()


def _until_parked(port: Hypervisor) -> None:
    """As its template's host left it: in a session, parked, with nothing on the line."""
    heard = b""
    os.write(port.guest_end, SESSION_OPENING.encode())
    while b'"parked"' not in heard or not heard.endswith(b"\n"):
        select.select([port.guest_end], [], [], 1)
        with suppress(BlockingIOError):
            heard += os.read(port.guest_end, 4096)


if __name__ == "__main__":
    asyncio.run(_live(sys.argv[2]))
