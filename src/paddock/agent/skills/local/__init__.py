"""Machines that are a directory and an agent process each, without isolation."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from paddock.agent.skills.skill import Deed, Place
from paddock.core.errors import Refused


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Mapping[str, Deed]]:
    """machine.build, machine.clean, machine.destroy, machine.list; what is carried lives on after the block."""
    from paddock.agent.skills.local.machines import Machines

    if place.carrying is None:
        raise Refused("local: only the agent of a host carries machines")
    async with Machines(state=place.state, carrying=place.carrying) as machines:
        yield machines.methods()
