"""Virtual machines of this host: images, clones, private networks, forks of warm machines."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from paddock.agent.skills.skill import Deed, Place
from paddock.core.errors import Refused


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Mapping[str, Deed]]:
    """machine.* and image.*; what is carried lives on after the block."""
    from paddock.agent.skills.hypervisor import house

    if place.carrying is None:
        raise Refused("hypervisor: only the agent of a host carries machines")
    async with house.opened(place, place.carrying) as deeds:
        yield deeds
