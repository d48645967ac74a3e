"""The machine as a whole: facts, load, name, reboot, cleaning; and the agent's upgrade."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module

from paddock.agent import retiring
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Work
from paddock.agent.skills.system import health, stats, telling
from paddock.agent.skills.system.telling import SOFTWARE, facts

__all__ = ["SOFTWARE", "facts", "opened"]

_RARE = {
    "system.rename": "renaming",
    "system.reboot": "rebooting",
    "system.clean_image": "cleaning",
    "agent.upgrade": "upgrade",
}
"""Most agents are never asked for these: their modules are loaded when somebody does."""


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Mapping[str, Deed]]:
    """All its methods; what is collected and watched goes on where the last process left it."""
    if retiring.is_asked(place.state):
        place.life.busy = retiring.BUSY
    yield {
        **telling.deeds(place),
        **stats.deeds(place),
        **health.deeds(place),
        **{method: _later(place, method, module) for method, module in _RARE.items()},
    }


def _later(place: Place, method: str, module: str) -> Work:
    loaded: list[Work] = []

    def work() -> Work:
        if not loaded:
            found = import_module(f"{__name__}.{module}").deeds(place)[method]
            loaded.append(found)
        return loaded[0]

    async def act(call: Call) -> Outcome:
        return await work().act(call)

    async def resume(call: Call) -> Outcome:
        one = work()
        return await (one.resume or one.act)(call)

    async def told(task: str) -> None:
        if (hear := work().told) is not None:
            await hear(task)

    return Work(act=act, resume=resume, told=told, streams=method == "system.clean_image")
