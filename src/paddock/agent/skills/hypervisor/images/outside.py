"""The way outside of a machine that builds: networks of its own, for as long as it runs.

Effects: idempotent. They are called like the build's directory: who finds that after a crash knows what to close.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from paddock.agent.skills.hypervisor.ports import Card, Networks
from paddock.hands import faults

MACHINE = "image"
"""The only machine there."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a machine has of it: a card that leads to a proxy, and the variables that lead programs there."""

    cards: tuple[Card, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


NOWHERE = Way()


class Outside(Protocol):
    """Opens and closes such ways, each under a name that no other build has. Real: Uplinks."""

    async def open(self, name: str, directory: Path, egress: Sequence[str]) -> Way:
        """A way for the machine in this directory, to what is on the list and nowhere else."""

    async def close(self, name: str) -> None:
        """Nothing of it is left. Idempotent; safe if it was never opened."""


@dataclass(frozen=True, kw_only=True)
class Uplinks:
    """By the host's networks, of either kind: the machine of an environment that has nothing but its egress."""

    networks: Networks
    variables: Callable[[str, Sequence[str]], Mapping[str, str]]
    """Of the networks: what leads an environment's guests outside."""

    async def open(self, name: str, directory: Path, egress: Sequence[str]) -> Way:
        """See Outside."""
        faults.at("hypervisor.image_opening")
        await self.networks.open(name, [], egress)
        # Its uplink comes last. What may stand before it tells machines about themselves: this one is nobody.
        *_, card = await self.networks.wire(name, MACHINE, directory, [])
        faults.at("hypervisor.image_opened")
        return Way(cards=(card,), env=self.variables(name, []))

    async def close(self, name: str) -> None:
        """See Outside."""
        faults.at("hypervisor.image_closing")
        await self.networks.close(name)
        faults.at("hypervisor.image_closed")
