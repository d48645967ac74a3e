"""The key pair of a lease, with which an environment's machines log in to each other.

Effects: idempotent; the pair is durable before anybody has it, and goes with the environment.
"""

import asyncio
import json
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills.hypervisor import keys
from paddock.agent.skills.hypervisor.keys import Pair
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.skill import in_thread
from paddock.wire.framing import JSON

FILE = "login.json"


class Logins:
    """The pairs of this host's environments."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._turns: dict[str, asyncio.Lock] = {}

    async def of(self, environment: str, fence: int) -> Pair:
        """The pair of an environment under this fence: whoever asks first has it made."""
        directory = self._layout.environment(environment)
        async with self._turns.setdefault(environment, asyncio.Lock()):
            found = await asyncio.to_thread(_read, directory, fence)
            if found is None:
                found = await keys.pair(environment)
                made: dict[str, JSON] = {"fence": fence, "private": found.private, "public": found.public}
                # Whoever is cancelled removes the environment next: nothing may be written after that.
                await in_thread(lambda: durable.write(directory / FILE, made))
            return found


def _read(directory: Path, fence: int) -> Pair | None:
    try:
        told = json.loads((directory / FILE).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return Pair(private=told["private"], public=told["public"]) if told["fence"] == fence else None
