"""Imaging: images are built where they are needed, once, anew when they change; who waits is told why."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from paddock.core.errors import Missing, Refused
from paddock.core.image import INTERRUPTIONS, BuildScript, recipe
from paddock.core.machine import Size
from paddock.wire.specs import read_image
from tests.engine.fake_agent import Reply
from tests.engine.scene import ROOT
from tests.engine.virtual import DEBIAN, GIB, ROOM, STACK, VM, Virtual, hosts, open_virtual, pool_of

LAYERS = [
    {"digest": "d1", "image": "debian", "script": "", "bytes": 5, "seconds": 1.5, "built": "2026-01-01T00:00:00Z"}
]


@pytest.fixture
async def empty() -> AsyncIterator[Virtual]:
    async with open_virtual() as scene:
        yield scene


@pytest.fixture
async def scene(empty: Virtual) -> Virtual:
    await empty.host_arrives("vm-1", capacity=ROOM)
    return empty


async def test_nothing_is_built_that_nobody_wants(scene: Virtual) -> None:
    assert scene.look(lambda tables: tables.images.where()) == []


async def test_who_asks_has_the_image_built_first_and_then_the_machine(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    assert lease.state == "granted"
    methods = [method for method in scene.carrier("vm-1").methods() if method != "machine.list"]
    assert methods == ["image.build", "machine.build"]
    assert scene.image().state == "ready"


async def test_a_stock_has_its_images_built_ahead(scene: Virtual) -> None:
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=1)})
    await scene.settle()
    assert [one.state for one in scene.living()] == ["ready"]


async def test_the_whole_chain_is_told_first_things_first(scene: Virtual) -> None:
    scene.configure(
        hosts=hosts("vm-1"), images={"debian": DEBIAN, "stack": STACK}, pools={"vm": pool_of("vm", image="stack")}
    )
    await scene.acquire("vm")
    (order,) = scene.orders("image.build")
    told = [read_image(one, "chain") for one in order.params["chain"]]
    assert told == [DEBIAN, STACK]
    assert scene.image("stack@vm-1").recipe == recipe((DEBIAN, STACK))


async def test_two_pools_that_want_one_image_have_it_built_once(scene: Virtual) -> None:
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"a": pool_of("a"), "b": pool_of("b")})
    scene.carrier("vm-1").on("image.build", Reply(is_running=True))
    await scene.acquire("a")
    await scene.acquire("b")
    assert len(scene.orders("image.build")) == 1


async def test_what_its_host_tells_of_it_is_kept(scene: Virtual) -> None:
    told = {"digest": "d1", "bytes": 5, "apparent": 2 * GIB, "layers": LAYERS}
    scene.carrier("vm-1").on("image.build", Reply(result=told))
    await scene.acquire("vm")
    image = scene.image()
    assert (image.digest, image.bytes, image.apparent, image.built) == ("d1", 5, 2 * GIB, scene.clock.now())
    assert [(layer.digest, layer.image, layer.seconds) for layer in image.layers] == [("d1", "debian", 1.5)]


@pytest.mark.parametrize(
    "told", [{"layers": 5, "bytes": -1, "digest": ""}, {"layers": [5, {"built": "x", "bytes": "y"}]}]
)
async def test_nonsense_of_a_host_breaks_nothing(scene: Virtual, told: dict[str, object]) -> None:
    scene.carrier("vm-1").on("image.build", Reply(result=told))
    assert (await scene.acquire("vm")).state == "granted"
    assert scene.image().digest == scene.image().recipe


async def test_what_builds_it_is_booked_while_it_is_built(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(is_running=True))
    await scene.acquire("vm")
    assert scene.booked() == Size(memory=GIB, vcpus=1, disk=2 * GIB)


async def test_a_build_whose_size_nobody_has_said_is_booked_as_large_as_was_seen(scene: Virtual) -> None:
    unsaid = {"debian": replace(DEBIAN, size=0), "stack": STACK}
    scene.configure(hosts=hosts("vm-1"), images=unsaid, pools={"vm": VM, "stack": pool_of("stack", image="stack")})
    scene.carrier("vm-1").on("image.build", Reply(is_running=True))
    first = await scene.acquire("vm")
    assert scene.booked() == Size(memory=GIB, vcpus=1, disk=4 * GIB), "nobody knows: a stated amount"
    (order,) = scene.orders("image.build")
    await scene.carrier("vm-1").finish(order, Reply(result={"apparent": 30 * GIB, "bytes": GIB}))
    await scene.settle()
    before = scene.booked()
    assert scene.lease(first.id).state == "granted"

    scene.carrier("vm-1").on("image.build", Reply(is_running=True))
    await scene.acquire("stack")
    assert scene.booked() - before == Size(memory=GIB, vcpus=1, disk=30 * GIB), "as large as what it stands on"


async def test_a_build_whose_size_nobody_has_said_needs_room_on_the_disk(scene: Virtual) -> None:
    unsaid = {"debian": replace(DEBIAN, size=0)}
    scene.configure(hosts=hosts("vm-1", disk=3 * GIB), images=unsaid, pools={"vm": VM})
    lease = await scene.acquire("vm")
    assert lease.reason == "pool vm fits no host: host vm-1 has 3GiB disk, 4GiB are wanted to build its image"
    assert scene.orders("image.build") == []
    scene.configure(hosts=hosts("vm-1", disk=3 * GIB), images={"debian": replace(DEBIAN, size=GIB)}, pools={"vm": VM})
    await scene.settle()
    assert (await scene.acquire("vm")).state == "granted"


async def test_who_waits_for_an_image_is_told_so(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(is_running=True))
    lease = await scene.acquire("vm")
    await scene.later(minutes=3)
    said = await scene.people.why(lease.id)
    assert said.waits_for == "image debian is being built on host vm-1 for 3m 00s"
    assert said.would_help == "waiting until it is built: paddock image list"


async def test_an_image_that_failed_is_told_with_its_reason_and_tried_again_later(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(code="failed"), Reply())
    lease = await scene.acquire("vm")
    assert (scene.image().state, scene.image().reason) == ("failed", "failed: so it was")
    said = await scene.people.why(lease.id)
    assert said.waits_for == "image debian failed on host vm-1: failed: so it was, tried again at 00:05 UTC"
    assert said.would_help == "look at its log: paddock image log debian"
    await scene.later(minutes=5)
    assert scene.lease(lease.id).state == "granted"


async def test_it_is_tried_again_later_and_later(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(code="failed"))
    await scene.acquire("vm")
    await scene.later(minutes=5)
    await scene.later(minutes=9, seconds=59)
    assert len(scene.orders("image.build")) == 2
    await scene.later(seconds=1)
    assert len(scene.orders("image.build")) == 3


async def test_a_person_need_not_wait_for_that(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(code="failed"), Reply())
    lease = await scene.acquire("vm")
    await scene.people.build_image("debian", host="", identity=ROOT)
    await scene.settle()
    assert scene.lease(lease.id).state == "granted"


@pytest.mark.parametrize("code", ["interrupted", "expired"])
async def test_an_interrupted_build_is_asked_for_once_more_under_a_new_id(scene: Virtual, code: str) -> None:
    scene.carrier("vm-1").on("image.build", Reply(code=code), Reply())
    assert (await scene.acquire("vm")).state == "granted"
    assert len({order.id for order in scene.orders("image.build")}) == 2


@pytest.mark.parametrize("code", ["interrupted", "expired", "busy"])
async def test_a_build_that_always_comes_to_nothing_is_asked_for_later_and_later_and_fails_in_the_end(
    scene: Virtual, code: str
) -> None:
    began = scene.clock.now()
    scene.carrier("vm-1").on("image.build", Reply(code=code))
    await scene.acquire("vm")
    asked = [0, 0, 10, 30, 70, 150, 310, 610, 910, 1210]
    if code == "busy":
        asked = [*asked[1:], 1510]
    await scene.later(seconds=asked[-1])
    assert [(one.asked - began).total_seconds() for one in scene.commands(method="image.build")] == asked
    assert (scene.image().state, scene.image().reason) == ("failed", f"{code}: so it was")
    assert scene.image().attempts == 1
    scene.carrier("vm-1").on("image.build", Reply(code=code), Reply())
    await scene.later(minutes=5, seconds=10)
    assert scene.image().state == "ready", "it begins anew"
    assert len(scene.orders("image.build")) == INTERRUPTIONS + 2


async def test_a_busy_host_is_asked_again_after_a_pause(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(code="busy", is_refused=True), Reply())
    lease = await scene.acquire("vm")
    assert lease.state == "queued"
    await scene.later(seconds=10)
    assert scene.lease(lease.id).state == "granted"


def changed() -> dict[str, object]:
    other = replace(DEBIAN, scripts=(BuildScript(name="more", run="true"),))
    return {"hosts": hosts("vm-1"), "images": {"debian": other}, "pools": {"vm": replace(VM, min_ready=1)}}


async def test_the_image_before_serves_until_the_new_one_is_whole(scene: Virtual) -> None:
    await scene.acquire("vm")
    scene.carrier("vm-1").on("image.build", Reply(is_running=True))
    scene.configure(**changed())
    await scene.settle()
    assert (scene.image().state, scene.image().serves) == ("building", True)
    assert (await scene.acquire("vm")).state == "granted"
    last = scene.orders("machine.build")[-1]
    assert [read_image(one, "image") for one in last.params["spec"]["image"]] == [DEBIAN]


async def test_once_the_new_one_is_whole_what_was_made_of_the_old_one_is_retired(scene: Virtual) -> None:
    scene.configure(hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=1)})
    await scene.settle()
    carrier = scene.carrier("vm-1")
    carrier.on("image.build", Reply(is_running=True))
    scene.configure(**changed())
    await scene.settle()
    assert [one.id for one in scene.living()] == ["vm-1"]
    for command in list(carrier.running.values()):
        await carrier.finish(command)
    await scene.settle()
    assert [(one.id, one.state) for one in scene.living()] == [("vm-2", "ready")]
    assert scene.states("environments", "vm-1")[-2:] == ["cleaning", "gone"]


async def test_what_is_lent_meanwhile_is_destroyed_when_it_comes_back(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    scene.configure(**changed())
    await scene.settle()
    assert scene.environment(lease.environment).state == "leased"
    await scene.people.release(lease.id, fence=lease.fence, identity=ROOT)
    await scene.settle()
    assert scene.environment(lease.environment).state == "gone"


async def test_a_change_that_makes_no_other_disk_builds_nothing(scene: Virtual) -> None:
    await scene.acquire("vm")
    scene.configure(hosts=hosts("vm-1"), images={"debian": replace(DEBIAN, limit=timedelta(hours=1))}, pools={"vm": VM})
    await scene.settle()
    assert len(scene.orders("image.build")) == 1
    assert scene.image().chain[0].limit == timedelta(hours=1)


async def test_what_is_told_of_the_same_disk_otherwise_holds_for_the_next_machine(scene: Virtual) -> None:
    await scene.acquire("vm")
    other = replace(DEBIAN, restart=("ssh",), egress=("a.org:443",))
    scene.configure(hosts=hosts("vm-1"), images={"debian": other}, pools={"vm": VM})
    await scene.acquire("vm")

    assert len(scene.orders("image.build")) == 1
    last = scene.orders("machine.build")[-1]
    assert [read_image(one, "image") for one in last.params["spec"]["image"]] == [other]


async def test_another_egress_or_limit_may_help_what_failed_and_has_it_tried_at_once(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(code="failed"), Reply())
    lease = await scene.acquire("vm")
    assert scene.image().state == "failed"

    scene.configure(hosts=hosts("vm-1"), images={"debian": replace(DEBIAN, where="p.yaml:9")}, pools={"vm": VM})
    await scene.settle()
    assert scene.image().state == "failed", "it is the same, and stands elsewhere in the file"
    scene.configure(hosts=hosts("vm-1"), images={"debian": replace(DEBIAN, egress=("a.org:443",))}, pools={"vm": VM})
    await scene.settle()

    assert scene.lease(lease.id).state == "granted"
    (told,) = scene.orders("image.build")[-1].params["chain"]
    assert told["egress"] == ["a.org:443"]


async def test_an_image_that_is_no_longer_configured_is_forgotten(scene: Virtual) -> None:
    await scene.acquire("vm")
    scene.configure(hosts=hosts("vm-1"), images={}, pools={})
    await scene.settle()
    assert scene.look(lambda tables: tables.images.where()) == []


async def test_what_was_removed_on_its_host_is_built_again_before_another_machine_is_made(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    await scene.later(minutes=2)
    carrier = scene.carrier("vm-1")
    carrier.on("machine.build", Reply(code="unbuilt"), Reply())
    other = await scene.acquire("vm")
    assert (lease.state, other.state) == ("granted", "granted")
    assert [method for method in carrier.methods() if method in ("image.build", "machine.build")] == [
        *("image.build", "machine.build"),
        *("machine.build", "image.build", "machine.build"),
    ]
    assert scene.environment("vm-2").state == "gone"
    notes = scene.look(lambda tables: [line.note for line in tables.history.of("environments", "vm-2")])
    assert "its host lacks a part of debian" in notes
    assert scene.environment(lease.environment).state == "leased"


async def test_what_was_removed_waits_for_room_like_every_build(scene: Virtual) -> None:
    image = replace(DEBIAN, memory=4 * GIB)
    scene.configure(hosts=hosts("vm-1"), images={"debian": image}, pools={"vm": VM})
    leases = [await scene.acquire("vm") for _ in range(3)]
    await scene.later(minutes=2)
    scene.carrier("vm-1").on("machine.build", Reply(code="unbuilt"), Reply())
    waiting = await scene.acquire("vm")
    assert (scene.image().state, scene.image().serves, waiting.state) == ("wanted", False, "queued")
    assert len(scene.living()) == 3
    assert "debian" in (await scene.people.why(waiting.id)).waits_for
    await scene.people.release(leases[0].id, fence=leases[0].fence, identity=ROOT)
    await scene.settle()
    assert (scene.image().state, scene.lease(waiting.id).state) == ("ready", "granted")


async def test_what_was_removed_while_a_machine_is_cleaned_is_built_again(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    await scene.later(minutes=2)
    scene.carrier("vm-1").on("machine.clean", Reply(code="unbuilt"))
    await scene.people.release(lease.id, fence=lease.fence, identity=ROOT)
    await scene.settle()
    assert scene.environment(lease.environment).state == "gone"
    assert len(scene.orders("image.build")) == 2
    assert (await scene.acquire("vm")).state == "granted"


async def test_an_image_that_is_lost_as_soon_as_it_is_built_waits_like_one_that_failed(scene: Virtual) -> None:
    scene.carrier("vm-1").on("machine.build", Reply(code="unbuilt"))
    lease = await scene.acquire("vm")
    assert (scene.image().state, scene.image().reason) == ("failed", "its host lacks a part of it")
    await scene.later(minutes=4)
    assert len(scene.orders("machine.build")) == 1
    scene.carrier("vm-1").on("machine.build", Reply())
    await scene.later(minutes=2)
    assert scene.lease(lease.id).state == "granted"


async def test_who_lost_it_before_it_was_built_again_has_it_built_only_once(scene: Virtual) -> None:
    await scene.acquire("vm")
    await scene.later(minutes=2)
    carrier = scene.carrier("vm-1")
    carrier.on("machine.build", Reply(is_running=True))
    waiting = await scene.acquire("vm")
    (command,) = carrier.running.values()
    await scene.later(minutes=2)
    await scene.people.build_image("debian", host="", identity=ROOT)
    await scene.settle()
    carrier.on("machine.build", Reply())
    await carrier.finish(command, Reply(code="unbuilt"))
    await scene.settle()
    assert len(scene.orders("image.build")) == 2
    assert scene.lease(waiting.id).state == "granted"


async def test_the_machine_that_builds_waits_for_room_and_comes_before_new_environments(scene: Virtual) -> None:
    first = [await scene.acquire("vm") for _ in range(6)]
    assert {lease.state for lease in first} == {"granted"}
    scene.configure(**changed() | {"pools": {"vm": VM}})
    await scene.settle()
    assert scene.image().state == "wanted"
    waiting = await scene.acquire("vm")
    await scene.people.release(first[0].id, fence=first[0].fence, identity=ROOT)
    await scene.settle()
    assert scene.image().state == "ready"
    assert scene.lease(waiting.id).state == "granted"


async def test_a_host_that_is_drained_builds_nothing_new(scene: Virtual) -> None:
    await scene.people.drain_host("vm-1", identity=ROOT)
    await scene.people.build_image("debian", host="vm-1", identity=ROOT)
    await scene.settle()
    assert scene.image().state == "wanted"
    await scene.people.resume_host("vm-1", identity=ROOT)
    await scene.settle()
    assert scene.image().state == "ready"


async def test_a_build_by_hand_is_refused_where_it_cannot_be(scene: Virtual) -> None:
    with pytest.raises(Missing, match="image debain: it is not configured"):
        await scene.people.build_image("debain", host="", identity=ROOT)
    with pytest.raises(Refused, match="host vm-9: it builds no images"):
        await scene.people.build_image("debian", host="vm-9", identity=ROOT)


async def test_collecting_keeps_what_serves_and_what_machines_are_made_of(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", Reply(result={"digest": "d1", "layers": LAYERS}))
    await scene.acquire("vm")
    (command,) = await scene.people.collect_images(host="", params={"dry_run": True, "unused": 5.0}, identity=ROOT)
    assert (command.method, command.by) == ("image.collect", "root")
    assert command.params == {"dry_run": True, "unused": 5.0, "keep": ["d1"]}


async def test_the_log_of_a_build_is_kept_and_only_the_last_ones(scene: Virtual) -> None:
    await scene.acquire("vm")
    assert scene.image().log == "images/debian@vm-1/1"
    await scene.archive.append("images/debian@vm-1/1.log", 0, b"hello\n")
    for _ in range(5):
        await scene.people.build_image("debian", host="", identity=ROOT)
        await scene.settle()
    assert scene.image().log == "images/debian@vm-1/6"
    assert await scene.archive.length("images/debian@vm-1/1.log") is None


async def test_each_order_of_a_build_that_came_to_nothing_takes_the_place_of_an_old_log(scene: Virtual) -> None:
    scene.carrier("vm-1").on("image.build", *[Reply(code="interrupted")] * 6, Reply(is_running=True))
    logs = [f"images/debian@vm-1/{number}.log" for number in range(1, 7)]
    for log in logs:
        await scene.archive.append(log, 0, b"hello\n")
    await scene.acquire("vm")
    await scene.later(minutes=6)
    assert scene.image().log == "images/debian@vm-1/7"
    assert list(await scene.archive.list("images/debian@vm-1")) == logs[2:]
