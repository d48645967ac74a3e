"""What every machine here works with: places, disks, driver, networks, images, guests.

Effects: none.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.ports import Disks, Driver, Networks
from paddock.hands.link import Link
from paddock.wire.specs import Wake


class Guest(Protocol):
    """The agent inside of a machine, to whom we are the server until the machine is relayed. Real: inside.Inside."""

    async def parked(self, limit: timedelta) -> None:
        """It is there and waits for its wake. Broken if it does not come within the limit."""

    async def wake(self, wake: Wake, limit: timedelta) -> str:
        """It is who it is told to be; its boot_id. Broken, with its words, if it is not."""

    async def listen(self) -> None:
        """Be at a fork's line before it runs."""

    async def tell(self, wake: Wake) -> None:
        """Say to a fork that stands still who it is."""

    async def woken(self, limit: timedelta) -> str:
        """The boot_id of a fork that was told who it is. Broken, with its words, if it is not."""

    async def run(self, script: str, *, interpreter: str, env: Mapping[str, str], limit: timedelta) -> int:
        """The exit code of a script that it has run to its end."""

    async def park(self, limit: timedelta, *, power_off: bool = False) -> None:
        """It has forgotten who it was, and waits again; or its machine goes off."""


class Images(Protocol):
    """The images of this host. Real: images.Images."""

    async def find(self, digest: str) -> None:
        """The last layer of an image is there, whole and sealed. Unbuilt if any of it is missing."""

    def volume(self, digest: str) -> Path:
        """Where a layer's volume is."""

    def staying(self) -> AbstractAsyncContextManager[None]:
        """No layer and no template is removed while the block runs."""


class Channels(Protocol):
    """The channels of this host's machines. Real: inside.Channels."""

    def inside(self, directory: Path, *, is_fork: bool = False) -> AbstractAsyncContextManager[Guest]:
        """The agent in the machine of this directory, to be asked while the block runs; a fork's, before it runs."""

    async def reach(self, directory: Path) -> Link:
        """A link for a relay: where the machine was woken just now, or a new session."""


async def _nobody(environment: str, machine: str, keys: Sequence[str]) -> None:
    """Nobody serves metadata here."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One of each, for all machines."""

    layout: Layout
    disks: Disks
    driver: Driver
    networks: Networks
    images: Images
    channels: Channels
    variables: Callable[[str, Sequence[str]], Mapping[str, str]] = lambda _environment, _peers: {}
    """What leads an environment's guests to the outside, and past it to these peers; nothing where it has no egress."""
    tell: Callable[[str, str, Sequence[str]], Awaitable[None]] = _nobody
    """Let whoever serves a machine's metadata know the public keys of its lease."""
    starts: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(max(2, os.cpu_count() or 1)))
    """Forks that are started at once: more of them only wait for processors, each longer than it may take."""
    logins: Sequence[str] = ()
    """Public keys that may log in to every machine of this host."""
    user_data: str = ""
    """What the host has every machine's cloud-init told."""
