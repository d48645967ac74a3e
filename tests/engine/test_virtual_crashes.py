"""The server dies at any write of a day with saved disks and a fork: nothing is left, nothing is lent twice."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from paddock.core.command import OPEN
from paddock.core.lease import State as LeaseState
from paddock.core.machine import Size
from paddock.ports import Touched
from tests.engine.fake_agent import Reply
from tests.engine.scene import ROOT
from tests.engine.virtual import ROOM, Virtual, open_virtual, pool_of

HOUR = timedelta(hours=1)
PAIR = pool_of("pair", machines=("one", "two"), max=1)


async def prepare(scene: Virtual) -> None:
    carrier = await scene.host_arrives("vm-1", capacity=ROOM)
    carrier.on("machine.save", Reply(result={"bytes": 5}))
    carrier.on("image.build", Reply(result={"digest": "d1", "bytes": 5}))


async def live(scene: Virtual) -> None:
    """A day of somebody who asks again whatever came between: each step is done once, or was done already."""
    people = scene.people
    if not scene.look(lambda tables: tables.leases.where(pool="pair")):
        await people.acquire(pool="pair", holder="root", owner="root", ttl=HOUR, wait=None)
    await scene.settle()
    first = scene.look(lambda tables: tables.leases.where(fork_of=""))[0]
    if first.state is LeaseState.GRANTED:
        await people.hold(first.environment, ttl=HOUR, disks=True, identity=ROOT)
        await people.release(first.id, fence=first.fence, identity=ROOT)
    await scene.settle()
    origin = scene.environment(scene.lease(first.id).environment)
    if origin.state == "saved" and not scene.look(lambda tables: tables.leases.where(fork_of=origin.id)):
        await people.fork(origin.id, holder="root", ttl=HOUR, wait=None, identity=ROOT)
    await scene.settle()
    for lease in scene.look(lambda tables: tables.leases.where(fork_of=origin.id, state=LeaseState.GRANTED)):
        await people.release(lease.id, fence=lease.fence, identity=ROOT)
    await scene.settle()
    if scene.environment(origin.id).state == "saved":
        await people.release_environment(origin.id, identity=ROOT)
    await scene.settle()


def check(scene: Virtual) -> None:
    """What has to be true in the end, whatever happened on the way."""
    assert {one.state for one in scene.look(lambda tables: tables.leases.where())} == {LeaseState.RELEASED}
    assert {one.state for one in scene.look(lambda tables: tables.environments.where())} == {"gone"}
    assert scene.carrier("vm-1").carried == {}
    assert scene.commands(state=sorted(OPEN)) == []
    assert scene.booked() == Size(disk=5)
    fences = [(one.environment, one.fence) for one in scene.look(lambda tables: tables.leases.where())]
    assert len(fences) == len(set(fences)) == 2
    assert {one.id.partition("@")[0] for one in scene.look(lambda tables: tables.images.where())} == {"debian"}


async def counted() -> int:
    """How many writes the day takes."""
    async with open_virtual(pools={"pair": PAIR}) as scene:
        await prepare(scene)
        writes: list[Sequence[Touched]] = []
        scene.store.subscribe(writes.append)
        await live(scene)
        check(scene)
        return len(writes)


async def until_dead(scene: Virtual) -> None:
    """Live until the server is dead: nobody is answered then, and whoever asked asks the next one."""
    living = asyncio.ensure_future(live(scene))
    try:
        await scene.until_dead()
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


async def die_at(number: int) -> None:
    async with open_virtual(pools={"pair": PAIR}) as scene:
        await prepare(scene)
        scene.die_at(number)
        await until_dead(scene)
        await scene.begin_again()
        await live(scene)
        check(scene)


@pytest.mark.slow
async def test_the_server_may_die_after_any_write() -> None:
    total = await counted()
    assert total > 40
    for number in range(1, total):
        try:
            await die_at(number)
        except Exception as exc:
            raise AssertionError(f"it died after write {number} of {total}") from exc
