"""Booking: on the host that has room, never beyond it, first come first served; and what is told who does not fit."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from paddock.core.capacity import DEVICES
from paddock.core.errors import Refused
from paddock.core.machine import Overcommit, Size, Start
from paddock.wire.specs import MachineSpec
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, HOUR, PROJECT, ROOT
from tests.engine.virtual import DEBIAN, GIB, ROOM, STACK, VM, Virtual, hosts, open_virtual, pool_of


@pytest.fixture
async def empty() -> AsyncIterator[Virtual]:
    async with open_virtual() as scene:
        yield scene


@pytest.fixture
async def scene(empty: Virtual) -> Virtual:
    await empty.host_arrives("vm-1", capacity=ROOM)
    return empty


async def give_back(scene: Virtual, id: str) -> None:
    lease = scene.lease(id)
    await scene.people.release(id, fence=lease.fence, identity=ROOT)
    await scene.settle()


async def test_what_one_takes_is_booked_with_its_row(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    assert scene.environment(lease.environment).size == Size(memory=GIB, vcpus=1, disk=2 * GIB)
    assert scene.booked() == Size(memory=GIB, vcpus=1, disk=2 * GIB)


async def test_nothing_is_booked_on_a_host_that_has_not_said_what_it_has(empty: Virtual) -> None:
    await empty.host_arrives("vm-1")
    assert (await empty.acquire("vm")).state == "queued"
    assert empty.living() == []


async def test_what_the_configuration_says_goes_before_what_the_agent_says(scene: Virtual) -> None:
    scene.configure(hosts=hosts("vm-1", memory=2 * GIB), images={"debian": DEBIAN}, pools={"vm": VM})
    states = [(await scene.acquire("vm")).state for _ in range(3)]
    assert states == ["granted", "granted", "queued"]


async def test_an_overcommit_is_as_much_more(scene: Virtual) -> None:
    twice = hosts("vm-1", overcommit=Overcommit(memory=2))
    scene.configure(hosts=twice, images={"debian": DEBIAN}, pools={"vm": VM})
    assert [(await scene.acquire("vm")).state for _ in range(13)].count("granted") == 12


async def test_a_disk_is_as_large_as_its_host_saw_it(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(result={"apparent": 30 * GIB, "bytes": GIB}))
    states = [(await scene.acquire("vm")).state for _ in range(4)]
    assert states == ["granted", "granted", "granted", "queued"]
    assert scene.booked().disk == 91 * GIB


async def test_a_template_is_booked_while_machines_are_made_that_may_need_one(scene: Virtual) -> None:
    carrier = scene.carrier("vm-1")
    for method in ("machine.build", "machine.clean"):
        carrier.on(method, Reply(is_running=True))
    lease = await scene.acquire("vm")
    (command,) = carrier.running.values()
    assert MachineSpec.read(command.params["spec"], "spec").template
    assert scene.booked() == Size(memory=GIB, vcpus=1, disk=5 * GIB + DEVICES)
    await carrier.finish(command)
    await scene.settle()
    assert scene.booked() == Size(memory=GIB, vcpus=1, disk=2 * GIB)

    given = scene.lease(lease.id)
    await scene.people.release(given.id, fence=given.fence, identity=ROOT)
    await scene.settle()
    assert scene.booked().disk == 5 * GIB + DEVICES
    (command,) = carrier.running.values()
    await carrier.finish(command)
    await scene.settle()
    assert scene.booked().disk == 2 * GIB


async def test_where_there_is_no_room_for_a_template_none_is_made(empty: Virtual) -> None:
    await empty.host_arrives("vm-1", capacity=replace(ROOM, disk=4 * GIB))
    assert (await empty.acquire("vm")).state == "granted"
    (order,) = empty.orders("machine.build")
    assert not MachineSpec.read(order.params["spec"], "spec").template
    assert empty.booked().disk == 2 * GIB


async def test_what_is_never_forked_has_nothing_booked_for_a_template(scene: Virtual) -> None:
    pools = {"vm": replace(VM, start=Start.BOOT)}
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools=pools)
    scene.carrier("vm-1").on("machine.build", Reply(is_running=True))
    await scene.acquire("vm")
    assert scene.booked().disk == 2 * GIB


async def test_fifty_on_a_host_for_six_are_served_one_after_another(scene: Virtual) -> None:
    waiting = [(await scene.acquire("vm")).id for _ in range(50)]
    served: list[str] = []
    while len(served) < 50:
        granted = [id for id in waiting if scene.lease(id).state == "granted"]
        assert len(scene.living()) <= 6
        assert scene.booked().fits(ROOM)
        assert granted
        served += granted
        waiting = [id for id in waiting if id not in granted]
        for id in granted:
            await give_back(scene, id)
    assert waiting == []
    assert served == [lease.id for lease in scene.look(lambda tables: tables.leases.where())]


async def test_who_waits_for_room_is_told_what_each_host_lacks(scene: Virtual) -> None:
    for _ in range(6):
        await scene.acquire("vm")
    lease = await scene.acquire("vm")
    said = await scene.people.why(lease.id)
    assert said.waits_for == "host vm-1 has 0B memory, 1GiB are wanted"
    assert said.would_help == "somebody gives one back, or a host with more room"
    assert scene.living()[-1].state == "leased"


async def test_what_fits_no_host_is_impossible_at_once_with_the_reason(scene: Virtual) -> None:
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"big": pool_of("big", memory=7 * GIB)})
    lease = await scene.acquire("big")
    assert lease.state == "impossible"
    assert lease.reason == "pool big fits no host: host vm-1 has 6GiB memory, 7GiB are wanted"


async def test_an_image_that_no_host_can_build_is_impossible_too(scene: Virtual) -> None:
    images = {"debian": replace(DEBIAN, memory=8 * GIB)}
    scene.configure(hosts=hosts("vm-1"), images=images, pools={"vm": VM})
    lease = await scene.acquire("vm")
    assert lease.reason == "pool vm fits no host: host vm-1 has 6GiB memory, 8GiB are wanted to build its image"


async def test_it_is_not_impossible_while_a_host_has_not_said_what_it_has(scene: Virtual) -> None:
    pools = {"big": pool_of("big", memory=7 * GIB, host="", labels=())}
    scene.configure(hosts=hosts("vm-1", "vm-2"), images={"debian": DEBIAN}, pools=pools)
    await scene.settle()
    lease = await scene.acquire("big")
    assert lease.state == "queued"
    await scene.host_arrives("vm-2", capacity=ROOM)
    assert scene.lease(lease.id).state == "impossible"


async def test_labels_name_the_hosts_that_may_carry_it() -> None:
    pools = {"vm": replace(VM, host="", labels=("kvm",))}
    async with open_virtual("vm-1", "vm-2", pools=pools) as scene:
        scene.configure(
            hosts={**hosts("vm-1"), **hosts("vm-2", labels=("kvm", "big"))}, images={"debian": DEBIAN}, pools=pools
        )
        for name in ("vm-1", "vm-2"):
            await scene.host_arrives(name, capacity=ROOM)
        lease = await scene.acquire("vm")
        assert scene.environment(lease.environment).host == "vm-2"


async def test_of_hosts_that_have_the_image_the_one_with_most_room_gets_it() -> None:
    pools = {"vm": replace(VM, host="")}
    async with open_virtual("vm-1", "vm-2", pools=pools) as scene:
        for name in ("vm-1", "vm-2"):
            await scene.host_arrives(name, capacity=ROOM)
            await scene.people.build_image("debian", host=name, identity=ROOT)
            await scene.settle()
        leases = [await scene.acquire("vm") for _ in range(4)]
        assert [scene.environment(one.environment).host for one in leases] == ["vm-1", "vm-2", "vm-1", "vm-2"]


async def test_another_host_builds_the_image_only_when_those_that_have_it_are_full() -> None:
    pools = {"vm": replace(VM, host="")}
    async with open_virtual("vm-1", "vm-2", pools=pools) as scene:
        for name in ("vm-1", "vm-2"):
            await scene.host_arrives(name, capacity=Size(memory=2 * GIB, vcpus=4, disk=90 * GIB))
        for _ in range(2):
            await scene.acquire("vm")
        assert scene.orders("image.build", "vm-2") == []
        lease = await scene.acquire("vm")
        assert len(scene.orders("image.build", "vm-2")) == 1
        assert scene.environment(lease.environment).host == "vm-2"


async def test_a_drained_host_gets_nothing_new_and_who_waits_is_told(scene: Virtual) -> None:
    await scene.people.drain_host("vm-1", identity=ROOT)
    lease = await scene.acquire("vm")
    said = await scene.people.why(lease.id)
    assert said.waits_for == "host vm-1: it is draining"
    await scene.people.resume_host("vm-1", identity=ROOT)
    await scene.settle()
    assert scene.lease(lease.id).state == "granted"


async def test_small_ones_do_not_keep_a_large_one_waiting_for_ever(scene: Virtual) -> None:
    pools = {"small": pool_of("small"), "large": pool_of("large", memory=5 * GIB)}
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools=pools)
    held = [await scene.acquire("small") for _ in range(3)]
    large = await scene.acquire("large")
    scene.clock.advance(seconds=1)
    later = [await scene.acquire("small") for _ in range(3)]
    assert [one.state for one in later] == ["queued"] * 3
    for lease in held[:2]:
        await give_back(scene, lease.id)
    assert scene.lease(large.id).state == "granted"
    assert {scene.lease(one.id).state for one in later} == {"queued"}
    await give_back(scene, large.id)
    assert {scene.lease(one.id).state for one in later} == {"granted"}


async def test_what_idles_makes_room_for_who_waits(scene: Virtual) -> None:
    pools = {"shelf": pool_of("shelf", min_ready=6), "large": pool_of("large", memory=2 * GIB)}
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools=pools)
    await scene.settle()
    assert [one.state for one in scene.living()] == ["ready"] * 6
    lease = await scene.acquire("large")
    assert lease.state == "granted"
    assert sorted(one.pool for one in scene.living()) == ["large"] + ["shelf"] * 4
    gone = scene.look(lambda tables: tables.environments.where(state="gone"))
    assert [one.id for one in gone] == ["shelf-1", "shelf-2"]
    await give_back(scene, lease.id)
    assert scene.booked().fits(ROOM)


async def test_a_shelf_takes_only_what_nobody_waits_for(scene: Virtual) -> None:
    pools = {"shelf": pool_of("shelf", min_ready=3), "vm": pool_of("vm")}
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools=pools)
    await scene.settle()
    for _ in range(6):
        assert (await scene.acquire("vm")).state == "granted"
    assert {one.pool for one in scene.living()} == {"vm"}


async def test_a_host_is_told_all_that_a_machine_is(scene: Virtual) -> None:
    pair = pool_of("pair", machines=("one", "two"))
    nets = tuple(replace(each, nets=VM.settings[0].nets) for each in pair.settings)
    pair = replace(pair, settings=nets, networks=VM.networks, egress=("example.org:443",), start=Start.BOOT)
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"pair": pair})
    lease = await scene.acquire("pair")
    one, two = scene.orders("machine.build")
    spec = MachineSpec.read(two.params["spec"], "spec")
    assert (spec.image, spec.memory, spec.vcpus, spec.start) == ((DEBIAN,), GIB, 1, Start.BOOT)
    assert [(nic.network, nic.address) for nic in spec.nics] == [("private", "192.168.80.11/24")]
    assert [(peer.machine, peer.addresses) for peer in spec.peers] == [("one", ("192.168.80.10",))]
    assert (spec.networks[0].name, spec.egress) == ("private", ("example.org:443",))
    assert one.params["spec"]["nics"][0]["mac"] != two.params["spec"]["nics"][0]["mac"]
    assert (one.environment, one.fence) == (lease.environment, 1)


async def test_a_machine_may_take_what_warming_up_its_template_takes(scene: Virtual) -> None:
    warm = replace(DEBIAN, limit=HOUR, warm_up="true")
    stack = replace(STACK, limit=5 * HOUR, warm_up="true")
    images = {"debian": warm, "stack": stack}
    scene.configure(hosts=hosts("vm-1"), images=images, pools={"s": pool_of("s", image="stack")})
    lease = await scene.acquire("s")
    await give_back(scene, lease.id)

    (built,) = scene.orders("image.build")
    (made,) = scene.orders("machine.build")
    (cleaned,) = scene.orders("machine.clean")
    assert built.params["limit"] == 3600 * (2 + 1 + 2 * 5), "its download, the agent put in, and two boots of a script"
    assert made.params["limit"] == cleaned.params["limit"] == 600 + 2 * 600


async def test_what_became_of_a_machine_is_in_its_row(scene: Virtual) -> None:
    told = {
        "address": "192.168.80.10",
        "addresses": ["192.168.80.10"],
        "start": "boot",
        "why": "no template yet",
        "host_key": "ssh-ed25519 AAAA",
    }
    scene.carrier("vm-1").on("machine.build", Reply(result=told))
    scene.carrier("vm-1").on(
        "machine.clean", Reply(result={"start": "fork", "why": "", "host_key": "ssh-ed25519 BBBB"})
    )
    lease = await scene.acquire("vm")
    (machine,) = scene.environment(lease.environment).machines
    assert (machine.address, machine.start, machine.why) == ("192.168.80.10", "boot", "no template yet")
    assert machine.host_key == "ssh-ed25519 AAAA"
    await give_back(scene, lease.id)
    (clean,) = scene.orders("machine.clean")
    assert MachineSpec.read(clean.params["spec"], "spec").image == (DEBIAN,)
    (machine,) = scene.environment(lease.environment).machines
    assert (machine.start, machine.why, machine.host_key) == ("fork", "", "ssh-ed25519 BBBB")


async def test_a_pool_lends_for_at_most_its_ttl_and_gives_it_to_who_does_not_say(scene: Virtual) -> None:
    short = replace(VM, ttl=timedelta(minutes=30))
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": short})
    lease = await scene.people.acquire(pool="vm", holder="anna", owner="anna", ttl=None, wait=None)
    assert lease.ttl == timedelta(minutes=30)
    with pytest.raises(Refused, match="ttl 1h 00m 00s is more than pool vm lends for, 30m 00s"):
        await scene.acquire("vm", ttl=HOUR)
    await scene.settle()
    granted = scene.lease(lease.id)
    with pytest.raises(Refused, match="more than pool vm lends for"):
        await scene.people.renew(lease.id, fence=granted.fence, ttl=HOUR, identity=ANNA)


async def test_a_pool_whose_machines_changed_is_made_anew_once_its_images_are_there(scene: Virtual) -> None:
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=1)})
    await scene.settle()
    larger = replace(VM, min_ready=1, settings=(replace(VM.settings[0], memory=2 * GIB),))
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": larger})
    await scene.settle()
    assert [(one.id, one.size and one.size.memory) for one in scene.living()] == [("vm-2", 2 * GIB)]


async def test_a_run_that_no_host_could_ever_carry_ends_as_our_error(scene: Virtual) -> None:
    scene.configure(
        hosts=hosts("vm-1"),
        images={"debian": DEBIAN},
        pools={"pair": pool_of("pair", machines=("one", "two"), memory=4 * GIB)},
        projects=(replace(PROJECT, jobs=PROJECT.jobs[1:]),),
    )
    await scene.comment()
    (run,) = scene.runs()
    assert (run.verdict, run.reason) == ("error", "pool pair fits no host: host vm-1 has 6GiB memory, 8GiB are wanted")


async def test_what_a_machine_was_made_of_is_not_kept_with_its_command(scene: Virtual) -> None:
    await scene.acquire("vm")
    assert scene.orders("machine.build")[0].params["spec"]
    (build,) = scene.commands(method="machine.build")
    (image,) = scene.commands(method="image.build")
    assert build.params.keys() == {"machine", "limit", "environment", "fence"}
    assert image.params.keys() == {"limit"}
