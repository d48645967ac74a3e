"""A scene with hosts that make machines of images."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from paddock.core.capacity import booked
from paddock.core.configuration import HostSettings
from paddock.core.environment import Environment, Pool
from paddock.core.image import BuildScript, HostImage, Image
from paddock.core.machine import MachineSettings, NetworkSettings, NicSettings, Size
from tests.engine.scene import Scene

GIB = 1 << 30
ROOM = Size(memory=6 * GIB, vcpus=12, disk=100 * GIB)
DEBIAN = Image(name="debian", path="/srv/debian.raw", size=2 * GIB, memory=GIB)
STACK = Image(name="stack", parent="debian", memory=GIB, scripts=(BuildScript(name="stack", run="./stack.sh"),))
NODE = MachineSettings(name="node", image="debian", memory=GIB, nets=(NicSettings(network="private"),))
VM = Pool(
    name="vm",
    host="vm-1",
    machines=("node",),
    max=50,
    isolated=True,
    settings=(NODE,),
    networks=(NetworkSettings(name="private"),),
    egress=("example.org:443",),
)


def hosts(*names: str, **rest: Any) -> dict[str, HostSettings]:
    return {name: HostSettings(name=name, skills=("hypervisor",), isolation=True, **rest) for name in names}


def pool_of(name: str, *, memory: int = GIB, machines: Sequence[str] = ("node",), **rest: Any) -> Pool:
    """A pool whose machines have so much memory each."""
    settings = tuple(MachineSettings(name=each, image=rest.pop("image", "debian"), memory=memory) for each in machines)
    return Pool(
        **{
            "isolated": True,
            "name": name,
            "host": "vm-1",
            "machines": tuple(machines),
            "settings": settings,
            "max": 50,
            **rest,
        }
    )


class Virtual(Scene):
    """A scene that looks at what is booked."""

    def image(self, id: str = "debian@vm-1") -> HostImage:
        found: HostImage = self.look(lambda tables: tables.images.find(id))
        return found

    def living(self, host: str = "vm-1") -> list[Environment]:
        found = self.look(lambda tables: tables.environments.where(host=host))
        return [one for one in found if one.state != "gone"]

    def booked(self, host: str = "vm-1") -> Size:
        images = self.look(lambda tables: tables.images.where(host=host))
        stored = self.look(lambda tables: tables.hosts.find(host)).stored
        return booked(self.living(host), images, stored)

    def orders(self, method: str, host: str = "vm-1") -> list[Any]:
        return [command for command in self.carrier(host).received if command.method == method]


@asynccontextmanager
async def open_virtual(*names: str, pools: dict[str, Pool] | None = None, **rest: Any) -> AsyncIterator[Virtual]:
    """A server with these hosts, none of them here yet."""
    scene = Virtual()
    scene.configure(
        **{
            "hosts": hosts(*(names or ("vm-1",))),
            "images": {"debian": DEBIAN, "stack": STACK},
            "pools": pools if pools is not None else {"vm": VM},
            "jobs": {},
            "projects": (),
            **rest,
        }
    )
    await scene.start()
    try:
        yield scene
    finally:
        await scene.stop()


DAY = timedelta(days=1)
