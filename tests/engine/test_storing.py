"""What images and templates take of a host is booked, as its agent counts it, and before anything else is."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from paddock.core.host import Stored
from paddock.core.machine import Size
from paddock.engine import storing
from tests.engine.fake_agent import Reply
from tests.engine.scene import ROOT
from tests.engine.virtual import GIB, ROOM, Virtual, hosts, open_virtual


@pytest.fixture
async def scene() -> AsyncIterator[Virtual]:
    async with open_virtual() as scene:
        yield scene


def told(images: int = 0, templates: int = 0, **which: Any) -> dict[str, Any]:
    return {"stored": {"images": images, "templates": templates, **which}}


async def back_with(scene: Virtual, stored: Stored) -> None:
    host = scene.carrier("vm-1")
    await host.leave()
    host.stored = stored
    await host.say_hello()
    await scene.settle()


async def test_a_host_full_of_templates_gets_no_machine_that_does_not_fit(scene: Virtual) -> None:
    await scene.host_arrives("vm-1", capacity=ROOM)
    await back_with(scene, Stored(templates=97 * GIB))
    states = [(await scene.acquire("vm")).state for _ in range(2)]
    assert states == ["granted", "queued"]
    assert scene.booked() == Size(memory=GIB, vcpus=1, disk=99 * GIB)


async def test_who_waits_for_what_templates_take_is_told_so(scene: Virtual) -> None:
    await scene.host_arrives("vm-1", capacity=ROOM)
    await scene.acquire("vm")
    await back_with(scene, Stored(templates=97 * GIB))
    why = await scene.people.why((await scene.acquire("vm")).id)
    assert "1GiB disk, 2GiB are wanted" in why.waits_for


async def test_a_template_that_a_build_made_is_booked_with_its_end(scene: Virtual) -> None:
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    host.on("machine.build", Reply(result=told(templates=96 * GIB)), Reply(result=told(templates=96 * GIB)))
    states = [(await scene.acquire("vm")).state for _ in range(3)]
    assert states == ["granted", "granted", "queued"]


async def test_what_a_failed_build_left_is_booked(scene: Virtual) -> None:
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    host.on("image.build", Reply(code="failed", result=told(images=5 * GIB)))
    await scene.acquire("vm")
    assert scene.image().state == "failed"
    assert scene.booked().disk == 5 * GIB


async def test_what_was_collected_is_free_again_and_hello_does_not_bring_it_back(scene: Virtual) -> None:
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    await back_with(scene, Stored(images=99 * GIB))
    host.on("image.collect", Reply(result=told(images=GIB)))
    assert (await scene.acquire("vm")).state == "queued"
    await scene.people.collect_images(host="vm-1", params={}, identity=ROOT)
    await scene.later(minutes=1)
    assert scene.booked().disk == 3 * GIB
    assert [one.state for one in scene.living()] == ["leased"]


async def test_an_image_that_is_no_longer_configured_stays_booked_until_its_layers_are_gone(scene: Virtual) -> None:
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    layers = [{"digest": "d1", "image": "debian", "bytes": 9 * GIB}]
    host.on("image.build", Reply(result={"bytes": 9 * GIB, "layers": layers, **told(images=9 * GIB)}))
    lease = await scene.acquire("vm")
    assert scene.booked().disk == 9 * GIB + 9 * GIB
    await scene.people.release(lease.id, fence=lease.fence, identity=ROOT)
    scene.configure(hosts=hosts("vm-1"), images={}, pools={}, jobs={}, projects=())
    await scene.later(minutes=1)
    assert scene.look(lambda tables: tables.images.where()) == []
    assert scene.booked().disk == 9 * GIB


async def test_of_two_counts_the_later_one_is_booked_whichever_is_heard_last(scene: Virtual) -> None:
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    await back_with(scene, Stored(counter="a", number=1))
    counted = [told(templates=number * GIB, counter="a", number=number) for number in (2, 4, 3)]
    await scene.store.write(lambda tables: [storing.heard(tables, host.id, one) for one in counted])
    await scene.settle()
    assert scene.booked().disk == 4 * GIB


@pytest.mark.parametrize("earlier", [{"counter": "a", "number": 7}, {}])
async def test_what_was_counted_before_its_agent_began_anew_changes_nothing(
    scene: Virtual, earlier: dict[str, Any]
) -> None:
    """The end of a command that the agent before carried out is told again after its hello."""
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    await back_with(scene, Stored(templates=GIB, counter="b", number=1))
    await scene.store.write(lambda tables: storing.heard(tables, host.id, told(templates=9 * GIB, **earlier)))
    await scene.settle()
    assert scene.booked().disk == GIB


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        {},
        {"images": -1, "templates": 0},
        {"images": True, "templates": 0},
        {"images": 0, "templates": 0, "number": "1"},
        {"images": 0, "templates": 0, "counter": 1},
    ],
)
async def test_a_count_that_cannot_be_one_changes_nothing(scene: Virtual, odd: Any) -> None:
    host = await scene.host_arrives("vm-1", capacity=ROOM)
    host.on("machine.build", Reply(result=told(images=GIB)), Reply(result={"stored": odd}))
    await scene.acquire("vm")
    await scene.acquire("vm")
    assert scene.booked().disk == 5 * GIB


async def test_a_machine_cannot_say_what_its_host_stores(scene: Virtual) -> None:
    await scene.host_arrives("vm-1", capacity=ROOM)
    lease = await scene.acquire("vm")
    (machine,) = scene.environment(lease.environment).machines
    await scene.store.write(lambda tables: storing.heard(tables, machine.agent, told(images=GIB)))
    assert scene.booked().disk == 2 * GIB
