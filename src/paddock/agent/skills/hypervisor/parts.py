"""What every machine of this host works with: where things lie, disks, driver, networks, images, guests.

Effects: none.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.ports import Disks, Driver, Networks
from paddock.core.image import Chain
from paddock.wire.specs import Wake


class Guest(Protocol):
    """The agent inside of a machine, to whom we are the server until the machine is relayed. Real: inside.Inside."""

    async def parked(self, limit: timedelta) -> None:
        """It is there and waits for its wake. Broken if it does not come within the limit."""

    async def wake(self, wake: Wake, limit: timedelta) -> str:
        """It is who it is told to be; its boot_id. Broken, with its words, if it is not."""

    async def run(self, script: str, *, interpreter: str, env: Mapping[str, str], limit: timedelta) -> int:
        """The exit code of a script that it has run to its end."""

    async def park(self, limit: timedelta, *, power_off: bool = False) -> None:
        """It has forgotten who it was, and waits again; or its machine goes off."""


class Images(Protocol):
    """The images of this host. Real: images.Images."""

    async def ensure(self, chain: Chain) -> str:
        """The digest of an image's last layer, which is whole and sealed; what is missing of it is built first."""

    def volume(self, digest: str) -> Path:
        """Where a layer's volume is."""


Inside = Callable[[Path], AbstractAsyncContextManager[Guest]]
"""Opens the channel of the machine in this directory, for as long as the block runs."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One of each, for all machines."""

    layout: Layout
    disks: Disks
    driver: Driver
    networks: Networks
    images: Images
    inside: Inside
    proxy: Callable[[str], Mapping[str, str]] = lambda _: {}
    """The variables that lead an environment's guests to the outside; none where it has no egress."""
