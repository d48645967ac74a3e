"""MACs are known beforehand, wherever they are told, and never those of another Paddock."""

from collections.abc import Sequence
from dataclasses import replace

from paddock.core.machine import NetworkSettings, NicSettings, mac
from paddock.testing import MemoryStore
from paddock.web import telling
from tests.engine.fake_agent import Reply
from tests.engine.scene import ROOT
from tests.engine.virtual import DEBIAN, ROOM, VM, Virtual, hosts

LAN = replace(
    VM,
    networks=(NetworkSettings(name="lan", bridge="virbr0"),),
    settings=(replace(VM.settings[0], nets=(NicSettings(network="lan"), NicSettings())),),
)


async def begin(birth: str) -> Virtual:
    """A server of its own, whose pool has the name that everybody's has."""
    scene = Virtual(MemoryStore(birth=birth))
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": LAN}, jobs={}, projects=())
    await scene.start()
    await scene.host_arrives("vm-1", capacity=ROOM)
    return scene


def told(scene: Virtual, id: str) -> list[str]:
    """As the API and the page tell them."""
    return [card.mac for card in telling.of_machine(scene.environment(id), 0).nics]


def ordered(scene: Virtual, method: str = "machine.build") -> list[list[str]]:
    """As the host was told them, in each order."""
    return [_macs(command.params["spec"]["nics"]) for command in scene.orders(method)]


def _macs(cards: Sequence[dict[str, str]]) -> list[str]:
    return [card["mac"] for card in cards]


async def test_two_paddocks_on_one_lan_give_no_address_twice() -> None:
    scenes = [await begin(birth) for birth in ("here", "there")]
    try:
        for scene in scenes:
            assert (await scene.acquire("vm")).environment == "vm-1"
        ours, theirs = (told(scene, "vm-1") for scene in scenes)
        assert len({*ours, *theirs}) == 4
    finally:
        for scene in scenes:
            await scene.stop()


async def test_an_address_is_told_before_the_machine_is_there_and_its_host_is_told_the_same() -> None:
    scene = await begin("here")
    try:
        scene.carrier("vm-1").on("machine.build", Reply(is_running=True))
        await scene.acquire("vm")
        assert scene.environment("vm-1").state == "building"
        assert ordered(scene) == [told(scene, "vm-1")]
    finally:
        await scene.stop()


async def test_an_address_stays_for_as_long_as_its_environment_lives() -> None:
    scene = await begin("here")
    try:
        await scene.acquire("vm")
        before = told(scene, "vm-1")
        await scene.restart()
        assert told(scene, "vm-1") == before
    finally:
        await scene.stop()


async def test_an_environment_of_before_keeps_the_addresses_that_it_has() -> None:
    scene = await begin("here")
    try:
        lease = await scene.acquire("vm")
        row = scene.environment("vm-1")
        await scene.store.write(lambda tables: tables.environments.swap(row, replace(row, maker="")))
        await scene.people.release(lease.id, fence=lease.fence, identity=ROOT)
        await scene.settle()
        old = [mac("vm-1", "node", card) for card in (0, 1)]
        assert told(scene, "vm-1") == old
        assert ordered(scene, "machine.clean") == [old]
    finally:
        await scene.stop()
