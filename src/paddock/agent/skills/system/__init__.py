"""The machine as a whole: facts, load, name, reboot, cleaning; and the agent's upgrade."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from paddock.agent.skills.skill import Deed, Place
from paddock.agent.skills.system import cleaning, health, rebooting, renaming, stats, telling, upgrade
from paddock.agent.skills.system.telling import SOFTWARE, facts

__all__ = ["SOFTWARE", "facts", "opened"]


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Mapping[str, Deed]]:
    """All its methods; what is collected and watched goes on where the last process left it."""
    yield {
        **telling.deeds(place),
        **stats.deeds(place),
        **health.deeds(place),
        **renaming.deeds(place),
        **rebooting.deeds(place),
        **cleaning.deeds(place),
        **upgrade.deeds(place),
    }
