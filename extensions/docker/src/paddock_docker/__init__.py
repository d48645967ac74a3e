"""The skill `docker`: containers and images of this machine, asked of Docker's Engine itself."""

from collections.abc import Awaitable, Callable, Mapping

from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Read, Work
from paddock.wire.framing import JSON
from paddock_docker import containers, images, logs, telling
from paddock_docker.rows import METHODS

__all__ = ["METHODS", "methods"]


def methods(place: Place) -> Mapping[str, Deed]:
    """What the agent does for each row of METHODS."""

    async def make(call: Call) -> Outcome:
        return await images.make(place, call)

    async def create(call: Call) -> Mapping[str, JSON]:
        return await containers.create(place, call)

    return {
        "docker.info": Read(answer=telling.info),
        "docker.list": Read(answer=telling.list_all),
        "docker.pull": Work(act=images.pull, streams=True),
        "docker.import": Work(act=make, streams=True),
        "docker.create": Work(act=_plain(create)),
        "docker.start": Work(act=_plain(containers.start)),
        "docker.stop": Work(act=containers.stop),
        "docker.kill": Work(act=_plain(containers.kill)),
        "docker.logs": Work(act=logs.send, streams=True),
        "docker.remove": Work(act=_plain(containers.remove)),
        "docker.remove_image": Work(act=_plain(images.remove)),
    }


def _plain(act: Callable[[Call], Awaitable[Mapping[str, JSON]]]) -> Callable[[Call], Awaitable[Outcome]]:
    """What has a result and no output."""

    async def acting(call: Call) -> Outcome:
        return Outcome(result=await act(call))

    return acting
