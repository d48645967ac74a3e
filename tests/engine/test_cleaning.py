"""Cleaning: under a higher fence, by the host's agent, proven; only then it is lent again."""

from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, PAIR, ROOT, SLOT, Scene


async def lend_and_release(scene: Scene) -> tuple[str, int]:
    lease = await scene.acquire("pair")
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    return lease.environment, lease.fence


def cleanings(scene: Scene, method: str = "machine.clean") -> list[tuple[str, int]]:
    return [(one.machine, one.fence) for one in scene.host.received if one.method == method]


async def test_what_comes_back_is_cleaned_on_every_machine_under_a_higher_fence(scene: Scene) -> None:
    name, fence = await lend_and_release(scene)
    assert scene.environment(name).state == "ready"
    assert [machine for machine, _ in cleanings(scene)] == ["one", "two"]
    assert all(higher > fence for _, higher in cleanings(scene))


async def test_it_is_not_lent_before_the_agent_has_said_that_it_is_clean(scene: Scene) -> None:
    scene.host.on("machine.clean", Reply(is_running=True))
    scene.configure(pools={"pair": PAIR.__class__(name="pair", host="local", machines=("one", "two"), max=1)})
    name, _ = await lend_and_release(scene)
    waiting = await scene.acquire("pair")
    assert (scene.environment(name).state, waiting.state) == ("cleaning", "queued")
    await scene.later(hours=20)
    assert scene.lease(waiting.id).state == "queued"
    for command in list(scene.host.running.values()):
        await scene.host.finish(command)
    await scene.settle()
    assert (scene.lease(waiting.id).environment, scene.lease(waiting.id).state) == (name, "granted")


async def test_a_cleaning_that_was_interrupted_is_asked_for_again_under_a_new_id(scene: Scene) -> None:
    scene.host.on("machine.clean", Reply(code="interrupted"), Reply())
    name, _ = await lend_and_release(scene)
    assert scene.environment(name).state == "ready"
    asked = scene.commands(environment=name, method="machine.clean")
    assert len(asked) == len({one.id for one in asked}) == 3
    assert len({one.fence for one in asked}) == 1


async def test_a_cleaning_that_did_not_succeed_proves_nothing_and_quarantines(scene: Scene) -> None:
    scene.host.on("machine.clean", Reply(code="failed"))
    name, _ = await lend_and_release(scene)
    assert scene.environment(name).state == "quarantined"
    assert scene.environment(name).reason == "one: machine.clean failed: so it was"


async def test_a_quarantined_environment_is_destroyed_when_a_person_has_it_cleaned(scene: Scene) -> None:
    scene.host.on("machine.clean", Reply(code="failed"))
    name, _ = await lend_and_release(scene)
    await scene.people.clean(name, identity=ROOT)
    await scene.settle()
    assert scene.environment(name).state == "gone"
    assert [machine for machine, _ in cleanings(scene, "machine.destroy")] == ["one", "two"]


async def test_a_destruction_that_did_not_succeed_is_no_end_either(scene: Scene) -> None:
    name, _ = await lend_and_release(scene)
    scene.host.on("machine.destroy", Reply(code="failed"))
    scene.configure(pools={"slot": SLOT})
    await scene.settle()
    assert scene.environment(name).state == "quarantined"


async def test_a_free_environment_can_be_cleaned_by_hand_and_is_lent_again(scene: Scene) -> None:
    name, _ = await lend_and_release(scene)
    await scene.people.clean(name, identity=ROOT)
    await scene.settle()
    assert scene.environment(name).state == "ready"
    assert len(cleanings(scene)) == 4


async def test_what_comes_back_while_the_host_is_away_waits_for_it(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.host.leave()
    await scene.settle()
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert scene.environment("pair-1").state == "cleaning"
    await scene.host.say_hello()
    await scene.settle()
    assert scene.environment("pair-1").state == "ready"


async def test_the_cleaning_of_a_dirty_environment_survives_a_restart(scene: Scene) -> None:
    scene.host.on("machine.clean", Reply(is_silent=True))
    name, _ = await lend_and_release(scene)
    scene.host.on("machine.clean", Reply())
    await scene.restart()
    await scene.everybody_returns()
    assert scene.environment(name).state == "ready"
    assert len(scene.commands(environment=name, method="machine.clean")) == 2
