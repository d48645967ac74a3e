"""Building: pools are stocked, environments built on demand, retired when nobody wants them."""

from dataclasses import replace
from datetime import timedelta

from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, PAIR, ROOT, SLOT, Scene


async def test_nothing_is_built_ahead_unless_asked(scene: Scene) -> None:
    assert scene.environments("pair") == []


async def test_a_stock_is_built_as_soon_as_the_host_is_there(empty: Scene) -> None:
    empty.configure(pools={"pair": replace(PAIR, min_ready=2)})
    await empty.settle()
    assert empty.environments() == []
    await empty.host_arrives()
    assert [one.state for one in empty.environments()] == ["ready", "ready"]
    assert [one.state for one in empty.environments()] == ["ready", "ready"]


async def test_a_stock_that_was_lent_is_filled_up(scene: Scene) -> None:
    scene.configure(pools={"pair": replace(PAIR, min_ready=1, max=3)})
    await scene.settle()
    await scene.acquire("pair")
    assert [one.state for one in scene.environments()] == ["leased", "ready"]


async def test_one_is_built_on_demand_with_every_machine(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    assert (lease.state, lease.environment) == ("granted", "pair-1")
    built = [command.machine for command in scene.host.received if command.method == "machine.build"]
    assert built == ["one", "two"]
    assert [machine.address for machine in scene.environment("pair-1").machines] == ["127.0.0.1", "127.0.0.1"]


async def test_no_more_are_built_than_the_pool_may_have(scene: Scene) -> None:
    leases = [await scene.acquire("pair") for _ in range(4)]
    assert [lease.state for lease in leases] == ["granted", "granted", "queued", "queued"]
    assert len(scene.environments()) == 2


async def test_a_build_that_was_interrupted_is_asked_for_again_under_a_new_id(scene: Scene) -> None:
    scene.host.on("machine.build", Reply(code="interrupted"), Reply())
    assert (await scene.acquire("pair")).state == "granted"
    builds = [command for command in scene.host.received if command.method == "machine.build"]
    assert len(builds) == len({command.id for command in builds}) == 3


async def test_a_build_that_fails_is_tried_three_times_and_then_quarantined(scene: Scene) -> None:
    scene.configure(pools={"pair": replace(PAIR, max=1)})
    scene.host.on("machine.build", Reply(code="failed"))
    lease = await scene.acquire("pair")
    broken = scene.environments()[0]
    assert broken.state == "quarantined"
    assert broken.reason == "one: machine.build failed: so it was"
    tries = [command for command in scene.commands(environment=broken.id) if command.machine == "one"]
    assert len(tries) == 3
    said = await scene.people.why(lease.id)
    assert said.would_help == "look at pair-1 (quarantined), then: paddock env clean pair-1"


async def test_when_a_build_is_given_up_another_is_begun_for_who_waits(scene: Scene) -> None:
    failing = Reply(code="failed")
    scene.host.on("machine.build", *[failing] * 6, Reply())
    lease = await scene.acquire("pair")
    assert [one.state for one in scene.environments()] == ["quarantined", "leased"]
    assert lease.environment == "pair-2"


async def test_a_busy_host_is_asked_again_after_a_pause(scene: Scene) -> None:
    scene.host.on("machine.build", Reply(code="busy", is_refused=True), Reply())
    lease = await scene.acquire("pair")
    assert lease.state == "queued"
    await scene.later(seconds=1)
    assert scene.lease(lease.id).state == "granted"


async def test_an_environment_that_its_pool_no_longer_wants_is_destroyed(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert scene.environment("pair-1").state == "ready"
    scene.configure(pools={"slot": SLOT})
    await scene.settle()
    assert scene.environment("pair-1").state == "gone"
    assert "machine.destroy" in scene.host.methods()


async def test_an_environment_that_does_not_fit_its_pool_any_more_makes_way_for_one_that_does(scene: Scene) -> None:
    scene.configure(pools={"pair": replace(PAIR, min_ready=1, max=1)})
    await scene.settle()
    scene.configure(pools={"pair": replace(PAIR, min_ready=1, max=1, machines=("solo",))})
    await scene.settle()
    assert [one.state for one in scene.environments()] == ["gone", "ready"]
    assert [machine.name for machine in scene.environment("pair-2").machines] == ["solo"]


async def test_a_lent_environment_that_does_not_fit_any_more_is_destroyed_after_its_lease(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    scene.configure(pools={"pair": replace(PAIR, machines=("solo",))})
    await scene.settle()
    assert scene.environment("pair-1").state == "leased"
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert scene.environment("pair-1").state == "gone"


async def test_nothing_is_begun_on_a_draining_host_but_what_was_begun_is_finished(scene: Scene) -> None:
    scene.host.on("machine.build", Reply(is_running=True))
    await scene.acquire("pair")
    await scene.people.drain_host("local", identity=ROOT)
    await scene.acquire("pair")
    assert len(scene.environments()) == 1
    for command in list(scene.host.running.values()):
        await scene.host.finish(command)
    await scene.settle()
    assert scene.environment("pair-1").state == "ready"


async def test_what_a_release_of_a_stocked_pool_leads_to_is_no_look_of_building(scene: Scene) -> None:
    steps = []
    building = next(stage for stage in scene.stages if stage.name == "building")
    step = building.step

    async def counted(now):  # type: ignore[no-untyped-def]
        steps.append(now)
        return await step(now)

    building.step = counted  # type: ignore[method-assign]
    for _ in range(5):
        lease = await scene.acquire("slot", ttl=timedelta(minutes=5))
        await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
        await scene.settle()
    assert steps == []
