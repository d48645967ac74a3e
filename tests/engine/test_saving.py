"""Saving: the disks of what is held are kept, its machines let go; and brought up again as a new environment."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from paddock.core.environment import Environment, Hold, State
from paddock.core.errors import Refused
from paddock.core.lease import Lease
from paddock.core.machine import Size, Start
from paddock.engine.ordering import Wish
from paddock.engine.stocking import stock
from paddock.ports import Tables
from paddock.wire.specs import MachineSpec
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, BO, HOUR, ROOT, Scene
from tests.engine.virtual import DAY, DEBIAN, GIB, ROOM, VM, Virtual, hosts, open_virtual, pool_of

OTHER = pool_of("pair", machines=("one", "two"), image="other").settings


@pytest.fixture
async def room() -> AsyncIterator[Virtual]:
    pools = {"pair": pool_of("pair", machines=("one", "two"), max=1)}
    async with open_virtual(pools=pools) as scene:
        await scene.host_arrives("vm-1", capacity=ROOM)
        scene.carrier("vm-1").on("machine.save", Reply(result={"bytes": 5}))
        yield scene


async def saved(scene: Virtual, *, ttl: timedelta = HOUR) -> Environment:
    """An environment that anna had, of which the disks are kept."""
    lease = await scene.acquire("pair")
    await scene.people.hold(lease.environment, ttl=ttl, disks=True, identity=ANNA)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    return scene.environment(lease.environment)


async def forked(scene: Virtual, origin: str) -> str:
    lease = await scene.people.fork(origin, holder="anna", ttl=None, wait=None, identity=ANNA)
    await scene.settle()
    return scene.lease(lease.id).environment


async def test_its_disks_are_kept_once_it_is_held(room: Virtual) -> None:
    environment = await saved(room)
    assert room.states("environments", environment.id)[-3:] == ["held", "saving", "saved"]
    assert [(one.machine, one.params["saved"]) for one in room.orders("machine.save")] == [
        ("one", "pair-1.one"),
        ("two", "pair-1.two"),
    ]
    assert {one.fence for one in room.orders("machine.save")} == {environment.fence}


async def test_memory_and_vcpus_are_free_again_and_the_copies_are_booked(room: Virtual) -> None:
    environment = await saved(room)
    assert environment.size == Size(disk=10)
    assert room.booked() == Size(disk=10)


async def test_another_may_be_built_although_the_pool_may_have_only_one(room: Virtual) -> None:
    await saved(room)
    assert (await room.acquire("pair")).state == "granted"


async def test_while_it_is_lent_it_is_only_a_wish_that_can_be_taken_back(room: Virtual) -> None:
    lease = await room.acquire("pair")
    await room.people.hold(lease.environment, ttl=HOUR, disks=True, identity=ANNA)
    await room.people.release_environment(lease.environment, identity=ANNA)
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    assert room.orders("machine.save") == []


async def test_one_that_cannot_be_saved_stays_held_with_the_reason(room: Virtual) -> None:
    room.carrier("vm-1").on("machine.save", Reply(code="refused"))
    environment = await saved(room)
    assert environment.state == "held"
    assert environment.reason == "not saved: one: machine.save refused: so it was"
    await room.people.release_environment(environment.id, identity=ANNA)
    await room.settle()
    assert room.environment(environment.id).state == "gone"


async def test_a_pool_says_how_much_is_kept(room: Virtual) -> None:
    pool = pool_of("pair", machines=("one", "two"), max=1, hold=Hold(longest=HOUR, space=100))
    room.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"pair": pool})
    lease = await room.acquire("pair")
    with pytest.raises(Refused, match="pool pair holds for at most 1h 00m 00s"):
        await room.people.hold(lease.environment, ttl=2 * HOUR, identity=ANNA)


def limited(scene: Virtual, *, space: int = 100, most: int = 1) -> None:
    """The pool's saved disks may take so many bytes together."""
    pool = pool_of("pair", machines=("one", "two"), max=most, hold=Hold(longest=HOUR, space=space))
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"pair": pool})


def weigh(scene: Virtual, *sizes: int) -> None:
    """What the disks of the next machines take, each as it is told before and after they are put aside."""
    for method in ("machine.weigh", "machine.save"):
        scene.carrier("vm-1").on(method, *(Reply(result={"bytes": size}) for size in sizes))


async def test_every_machine_goes_off_and_is_weighed_before_the_first_disk_is_put_aside(room: Virtual) -> None:
    carrier = room.carrier("vm-1")
    carrier.on("machine.weigh", Reply(result={"bytes": 5}), Reply(is_running=True))
    environment = await saved(room)
    assert (environment.state, environment.has_saved) == ("saving", False)
    assert room.orders("machine.save") == []
    for command in list(carrier.running.values()):
        await carrier.finish(command)
    await room.settle()
    assert room.environment(environment.id).state == "saved"
    told = [(one.method, one.machine, one.params["saved"]) for one in carrier.received[-4:]]
    assert told == [
        (method, name, f"pair-1.{name}") for method in ("machine.weigh", "machine.save") for name in ("one", "two")
    ]


async def test_the_machines_of_one_share_its_space_as_they_need_it(room: Virtual) -> None:
    limited(room)
    weigh(room, 60, 40)
    environment = await saved(room)
    assert (environment.state, environment.size) == ("saved", Size(disk=100))


async def test_one_that_takes_more_than_is_left_stays_held_whole_and_can_be_switched_on(room: Virtual) -> None:
    limited(room)
    weigh(room, 60, 41)
    carrier = room.carrier("vm-1")
    environment = await saved(room)
    assert environment.state == "held"
    assert environment.reason == "not saved: its disks take 101B, and pool pair has 100B left for saved disks"
    assert room.orders("machine.save") == []
    assert (sorted(carrier.carried), carrier.kept) == ([(environment.id, "one"), (environment.id, "two")], {})

    await room.later(seconds=1)
    await carrier.leave()
    await room.settle()
    await carrier.say_hello()
    await room.settle()
    assert room.environment(environment.id) == environment

    wish = Wish(id="on-1", method="machine.power", params={"action": "on"})
    await room.people.press(environment.id, "one", wish, fence=environment.fence, identity=ANNA)
    await room.settle()
    assert [one.state for one in room.commands(method="machine.power")] == ["complete"]
    await room.people.release_environment(environment.id, identity=ANNA)
    await room.settle()
    assert room.environment(environment.id).state == "ready", "its machines are cleaned like others: none is missing"


async def test_one_that_cannot_be_weighed_stays_held_whole(room: Virtual) -> None:
    room.carrier("vm-1").on("machine.weigh", Reply(), Reply(code="failed"))
    environment = await saved(room)
    assert (environment.state, environment.reason) == ("held", "not saved: two: machine.weigh failed: so it was")
    assert room.orders("machine.save") == []


async def test_one_that_waits_for_another_is_saved_when_that_one_does_not_fit(room: Virtual) -> None:
    limited(room, most=2)
    carrier = room.carrier("vm-1")
    carrier.on("machine.weigh", Reply(is_running=True))
    first, second = await saved(room), await saved(room)
    assert (first.state, second.state) == ("saving", "held")
    carrier.on("machine.weigh", Reply(result={"bytes": 5}))
    for command in list(carrier.running.values()):
        await carrier.finish(command, Reply(result={"bytes": 99}))
    await room.settle()
    assert [room.environment(one.id).state for one in (first, second)] == ["held", "saved"]


async def test_of_two_that_are_saved_at_once_the_later_has_what_the_first_leaves(room: Virtual) -> None:
    limited(room, most=2)
    carrier = room.carrier("vm-1")
    carrier.on("machine.weigh", Reply(result={"bytes": 40}))
    carrier.on("machine.save", Reply(is_running=True))
    first, second = await saved(room), await saved(room)
    assert (first.state, second.state) == ("saving", "held")
    carrier.on("machine.save", Reply(result={"bytes": 5}))
    for command in list(carrier.running.values()):
        await carrier.finish(command, Reply(result={"bytes": 40}))
    await room.settle()
    assert [room.environment(one.id).state for one in (first, second)] == ["saved", "held"]
    reason = "not saved: its disks take 80B, and pool pair has 20B left for saved disks"
    assert room.environment(second.id).reason == reason


async def test_disks_that_are_given_up_take_their_space_until_the_last_fork_of_them_is_gone(room: Virtual) -> None:
    limited(room, most=2)
    weigh(room, 45, 45)
    origin = await saved(room)
    lease = room.lease(room.environment(await forked(room, origin.id)).lease)
    await room.people.release_environment(origin.id, identity=ANNA)
    await room.settle()
    environment = await saved(room)
    assert environment.state == "held"
    assert environment.reason == "not saved: its disks take 90B, and pool pair has 10B left for saved disks"

    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    assert room.environment(origin.id).state == "gone"
    await room.people.hold(environment.id, ttl=HOUR, disks=True, identity=ANNA)
    await room.settle()
    assert room.environment(environment.id).state == "saved"


async def test_one_that_was_saved_in_part_takes_space_of_others_and_none_of_its_own(room: Virtual) -> None:
    limited(room, space=8 * GIB, most=2)
    weigh(room, 3 * GIB, 3 * GIB)
    room.carrier("vm-1").on("machine.save", Reply(result={"bytes": 3 * GIB}), Reply(code="failed"))
    first = await saved(room)
    assert (first.state, first.reason) == ("held", "not saved: two: machine.save failed: so it was")
    second = await saved(room)
    assert second.reason == "not saved: its disks take 6GiB, and pool pair has 4GiB left for saved disks"
    room.carrier("vm-1").on("machine.save", Reply(result={"bytes": 3 * GIB}))
    await room.people.hold(first.id, ttl=HOUR, disks=True, identity=ANNA)
    await room.settle()
    assert room.environment(first.id).size == Size(disk=6 * GIB)


@pytest.mark.parametrize("space", [100, 60], ids=["used up", "lowered since"])
async def test_where_no_space_is_left_nothing_is_saved_and_it_stays_held(room: Virtual, space: int) -> None:
    limited(room)
    weigh(room, 50, 50)
    await saved(room)
    limited(room, space=space)
    environment = await saved(room)
    assert len(room.orders("machine.weigh")) == len(room.orders("machine.save")) == 2, "of the first only"
    assert environment.state == "held"
    assert environment.reason == "not saved: pool pair has no space left for saved disks"


async def test_where_a_pool_has_no_limit_all_is_kept(room: Virtual) -> None:
    weigh(room, 60 * GIB, 60 * GIB)
    assert (await saved(room)).size == Size(disk=120 * GIB)


async def test_it_ends_with_its_time_and_its_copies_are_removed(room: Virtual) -> None:
    environment = await saved(room)
    await room.later(hours=1)
    assert room.environment(environment.id).state == "gone"
    assert [one.params["saved"] for one in room.orders("machine.forget")] == ["pair-1.one", "pair-1.two"]
    assert room.booked() == Size()


async def test_it_can_be_kept_longer_and_given_up_earlier(room: Virtual) -> None:
    environment = await saved(room)
    await room.later(minutes=50)
    await room.people.hold(environment.id, ttl=HOUR, identity=ANNA)
    await room.later(minutes=50)
    assert room.environment(environment.id).state == "saved"
    await room.people.release_environment(environment.id, identity=ANNA)
    await room.settle()
    assert room.environment(environment.id).state == "gone"


async def test_a_fork_is_a_new_environment_of_the_copies_booted_cold(room: Virtual) -> None:
    origin = await saved(room)
    id = await forked(room, origin.id)
    environment = room.environment(id)
    assert (environment.state, environment.fork_of, environment.host) == ("leased", "pair-1", "vm-1")
    assert environment.size == Size(memory=2 * GIB, vcpus=2, disk=4 * GIB)
    made = room.orders("machine.build")[-2:]
    specs = [MachineSpec.read(one.params["spec"], "spec") for one in made]
    assert [(spec.saved, spec.start) for spec in specs] == [("pair-1.one", Start.BOOT), ("pair-1.two", Start.BOOT)]
    assert [one.params["limit"] for one in made] == [600, 600], "it needs no layer of its image"


async def test_several_forks_are_each_their_own(room: Virtual) -> None:
    origin = await saved(room)
    assert len({await forked(room, origin.id), await forked(room, origin.id)} - {""}) == 2


async def test_a_fork_goes_to_nobody_else_and_is_destroyed_afterwards(room: Virtual) -> None:
    origin = await saved(room)
    room.carrier("vm-1").on("machine.build", Reply(is_running=True))
    forking = await room.people.fork(origin.id, holder="anna", ttl=None, wait=None, identity=ANNA)
    other = await room.acquire("pair", owner=BO)
    for command in list(room.carrier("vm-1").running.values()):
        await room.carrier("vm-1").finish(command)
    await room.settle()
    lease = room.lease(forking.id)
    assert room.environment(lease.environment).fork_of == origin.id
    assert room.environment(room.lease(other.id).environment).fork_of == ""
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    assert room.environment(lease.environment).state == "gone"


async def test_the_copies_stay_until_the_last_fork_of_them_is_gone(room: Virtual) -> None:
    origin = await saved(room)
    id = await forked(room, origin.id)
    await room.people.release_environment(origin.id, identity=ANNA)
    await room.settle()
    assert room.orders("machine.forget") == []
    lease = room.lease(room.environment(id).lease)
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    assert len(room.orders("machine.forget")) == 2
    assert room.environment(origin.id).state == "gone"


async def test_a_fork_waits_for_room_like_everybody(room: Virtual) -> None:
    origin = await saved(room)
    room.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": VM, **room.configuration.pools})
    held = [await room.acquire("vm") for _ in range(6)]
    lease = await room.people.fork(origin.id, holder="anna", ttl=None, wait=None, identity=ANNA)
    await room.settle()
    assert room.lease(lease.id).state == "queued"
    for one in held[:2]:
        await room.people.release(one.id, fence=one.fence, identity=ROOT)
    await room.settle()
    assert room.lease(lease.id).state == "granted"
    assert room.booked().fits(ROOM)


async def test_who_waits_for_disks_that_are_given_up_is_told(room: Virtual) -> None:
    origin = await saved(room)
    await room.people.drain_host("vm-1", identity=ROOT)
    lease = await room.people.fork(origin.id, holder="anna", ttl=None, wait=None, identity=ANNA)
    await room.people.release_environment(origin.id, identity=ANNA)
    await room.settle()
    ended = room.lease(lease.id)
    assert (ended.state, ended.reason) == ("impossible", "pair-1: its disks are gone")


@pytest.mark.parametrize("by", ["a person", "time"])
async def test_who_waits_for_room_for_a_fork_of_them_is_told_in_that_moment(room: Virtual, by: str) -> None:
    origin = await saved(room)
    pools = {**room.configuration.pools, "big": pool_of("big", memory=ROOM.memory)}
    room.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools=pools)
    big = await room.acquire("big", ttl=DAY)
    forking = [await room.people.fork(origin.id, holder="anna", ttl=None, wait=None, identity=ANNA) for _ in range(2)]
    await room.settle()
    assert [room.lease(one.id).state for one in forking] == ["queued", "queued"]
    if by == "time":
        await room.later(hours=1)
    else:
        await room.people.release_environment(origin.id, identity=ANNA)
        await room.settle()
    assert room.environment(origin.id).state == "gone"
    assert {room.lease(one.id).reason for one in forking} == {"pair-1: its disks are gone"}
    await room.people.release(big.id, fence=big.fence, identity=ANNA)
    await room.settle()
    assert [one.id for one in room.living()] == ["big-1"], "nothing is made of disks that are gone"


async def test_of_disks_that_are_not_kept_any_more_nothing_is_made_whoever_waits(room: Virtual) -> None:
    """As a server may find it in its store that did not say so when they were given up."""
    origin = await saved(room)
    waiting = Lease(id="old", pool="pair", holder="anna", asked=room.clock.now(), ttl=HOUR, fork_of=origin.id)

    def give_up(tables: Tables) -> None:
        row = tables.environments.find(origin.id)
        assert row is not None
        tables.environments.swap(row, replace(row, state=State.CLEANING, retiring=True))
        tables.leases.add(waiting)
        stock(tables, room.configuration, maker="", now=room.clock.now())
        assert tables.environments.where(fork_of=origin.id) == []

    await room.write(give_up)
    assert room.lease("old").reason == "pair-1: its disks are gone"


async def test_who_waits_for_a_fork_that_cannot_be_made_is_told_and_no_other_one_is_tried(room: Virtual) -> None:
    origin = await saved(room)
    room.carrier("vm-1").on("machine.build", Reply(code="failed"))
    lease = await room.people.fork(origin.id, holder="anna", ttl=None, wait=None, identity=ANNA)
    await room.later(minutes=5)
    ended = room.lease(lease.id)
    assert ended.state == "impossible"
    assert ended.reason == "pair-2, made of the disks of pair-1: one: machine.build failed: so it was"
    assert [(one.id, one.state) for one in room.living()] == [("pair-1", "saved"), ("pair-2", "quarantined")]


@pytest.mark.parametrize("cancelled", [False, True], ids=["both still wait", "one does not wait any more"])
async def test_who_has_another_fork_coming_goes_on_waiting_for_that(room: Virtual, cancelled: bool) -> None:
    origin = await saved(room)
    carrier = room.carrier("vm-1")
    carrier.on("machine.build", Reply(is_running=True))
    forking = [await room.people.fork(origin.id, holder="anna", ttl=None, wait=None, identity=ANNA) for _ in range(2)]
    await room.settle()
    if cancelled:
        await room.people.cancel_lease(forking[0].id, identity=ANNA)
    carrier.on("machine.build", Reply(code="failed"))
    first, second = ([one for one in carrier.running.values() if one.environment == id] for id in ("pair-2", "pair-3"))
    for command in first:
        await carrier.finish(command, Reply(code="failed"))
    await room.settle()
    assert [room.lease(one.id).state for one in forking] == ["cancelled" if cancelled else "impossible", "queued"]
    for command in second:
        await carrier.finish(command)
    await room.settle()
    assert room.lease(forking[1].id).environment == "pair-3"


async def test_what_has_no_copies_cannot_be_forked(room: Virtual) -> None:
    lease = await room.acquire("pair")
    with pytest.raises(Refused, match="pair-1: it is leased, its disks are not saved") as refused:
        await room.people.fork(lease.environment, holder="anna", ttl=None, wait=None, identity=ANNA)
    assert refused.value.hint == "paddock env hold pair-1 --disks"


async def test_another_person_forks_nothing_that_is_held_by_one(room: Virtual) -> None:
    origin = await saved(room)
    with pytest.raises(Refused, match="it is held by anna"):
        await room.people.fork(origin.id, holder="bo", ttl=None, wait=None, identity=BO)


async def test_processes_have_no_disks_to_keep(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    with pytest.raises(Refused, match="its machines are processes, without disks of their own"):
        await scene.people.hold(lease.environment, ttl=HOUR, disks=True, identity=ANNA)


async def test_a_changed_image_does_not_keep_copies_from_being_forked(room: Virtual) -> None:
    origin = await saved(room)
    other = replace(DEBIAN, kernel="/srv/other")
    room.configure(hosts=hosts("vm-1"), images={"debian": other}, pools=room.configuration.pools)
    await room.settle()
    assert room.environment(await forked(room, origin.id)).state == "leased"


@pytest.mark.parametrize("change", ["another kernel", "image gone", "image lost"])
async def test_a_fork_boots_with_the_kernel_that_its_disks_had(room: Virtual, change: str) -> None:
    own = replace(DEBIAN, kernel="/srv/vmlinuz", initrd="/srv/initrd", cmdline="root=/dev/vda")
    pools = {"pair": pool_of("pair", machines=("one", "two"), max=2)}
    room.configure(hosts=hosts("vm-1"), images={"debian": own}, pools=pools)
    environment = await saved(room)
    images = {"debian": own}
    if change == "another kernel":
        images = {"debian": replace(own, kernel="/srv/other")}
    if change == "image gone":
        images, pools = {"other": replace(own, name="other")}, {"pair": replace(pools["pair"], settings=OTHER)}
    if change == "image lost":
        await room.later(minutes=5)
        room.carrier("vm-1").on("image.build", Reply(is_running=True))
        room.carrier("vm-1").on("machine.build", Reply(code="unbuilt"), Reply())
        await room.acquire("pair")
        assert not room.image().serves
    room.configure(hosts=hosts("vm-1"), images=images, pools=pools)
    await room.settle()
    await forked(room, environment.id)
    last = MachineSpec.read(room.orders("machine.build")[-1].params["spec"], "spec")
    assert last.saved
    assert [(one.kernel, one.initrd, one.cmdline) for one in last.image] == [
        ("/srv/vmlinuz", "/srv/initrd", "root=/dev/vda")
    ]


async def test_one_that_is_given_up_while_it_is_saved_leaves_no_order_open(room: Virtual) -> None:
    room.carrier("vm-1").on("machine.save", Reply(is_running=True))
    environment = await saved(room)
    assert environment.state == "saving"
    await room.people.release_environment(environment.id, identity=ANNA)
    await room.settle()
    assert room.environment(environment.id).state == "gone"
    assert {one.state for one in room.commands(method="machine.save")} == {"failed"}


async def test_one_that_is_held_already_is_saved_when_somebody_says_so(room: Virtual) -> None:
    lease = await room.acquire("pair")
    await room.people.hold(lease.environment, ttl=HOUR, identity=ANNA)
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    assert room.environment(lease.environment).state == "held"
    await room.people.hold(lease.environment, ttl=HOUR, disks=True, identity=ANNA)
    await room.settle()
    assert room.environment(lease.environment).state == "saved"
