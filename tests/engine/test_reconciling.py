"""Reconciling: a host that comes back is asked what it carries; nothing of nobody's stays, nothing lost is lent."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, ROOT, Scene
from tests.engine.virtual import DAY, DEBIAN, ROOM, VM, Virtual, open_virtual, pool_of


@pytest.fixture
async def scene() -> AsyncIterator[Virtual]:
    async with open_virtual() as scene:
        await scene.host_arrives("vm-1", capacity=ROOM)
        yield scene


async def come_back(scene: Virtual) -> None:
    carrier = scene.carrier("vm-1")
    await carrier.leave()
    await scene.settle()
    await carrier.say_hello()
    await scene.settle()


async def test_a_host_is_asked_each_time_it_comes_back(scene: Virtual) -> None:
    assert len(scene.orders("machine.list")) == 1
    await come_back(scene)
    assert len(scene.orders("machine.list")) == 2


async def test_a_machine_that_nobody_ever_heard_of_is_destroyed(scene: Virtual) -> None:
    scene.carrier("vm-1").carried["other-9", "one"] = 4
    await come_back(scene)
    (order,) = scene.orders("machine.destroy")
    assert (order.environment, order.machine, order.fence) == ("other-9", "one", 4)
    assert scene.command(order.id).state == "complete"
    assert scene.carrier("vm-1").carried == {}


async def test_a_machine_of_an_environment_that_is_gone_is_destroyed(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    scene.configure(hosts=scene.configuration.hosts, images={}, pools={})
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    gone = scene.environment(lease.environment)
    assert gone.state == "gone"
    scene.carrier("vm-1").carried[gone.id, "node"] = 1
    await come_back(scene)
    assert [(one.environment, one.fence) for one in scene.orders("machine.destroy")][-1] == (gone.id, gone.fence)
    assert scene.carrier("vm-1").carried == {}


async def test_a_machine_that_is_lent_is_left_alone(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    await come_back(scene)
    assert scene.orders("machine.destroy") == []
    assert scene.lease(lease.id).state == "granted"


async def test_an_environment_whose_machine_is_lost_is_broken_and_made_anew(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    scene.carrier("vm-1").carried.clear()
    await come_back(scene)
    assert scene.lease(lease.id).state == "revoked"
    assert scene.lease(lease.id).reason == "host vm-1 has not all of its machines any more"
    assert scene.environment(lease.environment).state == "gone"


async def test_one_that_was_built_after_the_question_is_not_missed(scene: Virtual) -> None:
    carrier = scene.carrier("vm-1")
    carrier.on("machine.list", Reply(is_running=True, result={"machines": []}))
    await come_back(scene)
    await scene.later(seconds=1)
    lease = await scene.acquire("vm")
    (asked,) = [one for one in carrier.running.values() if one.method == "machine.list"]
    await carrier.finish(asked, Reply(result={"machines": []}))
    await scene.settle()
    assert scene.lease(lease.id).state == "granted"


@pytest.mark.parametrize("told", [None, 5, [5, {"environment": 7}, {"machine": "x"}]])
async def test_nonsense_is_nothing(scene: Virtual, told: object) -> None:
    scene.carrier("vm-1").on("machine.list", Reply(result={"machines": told}))
    await come_back(scene)
    assert scene.orders("machine.destroy") == []


async def test_a_question_that_was_interrupted_is_asked_at_the_next_arrival(scene: Virtual) -> None:
    scene.carrier("vm-1").on("machine.list", Reply(code="interrupted"), Reply())
    await come_back(scene)
    scene.carrier("vm-1").carried["other-9", "one"] = 4
    await come_back(scene)
    assert len(scene.orders("machine.destroy")) == 1


async def test_a_lost_host_breaks_what_it_carried_and_it_is_destroyed_when_it_is_back(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    await scene.carrier("vm-1").leave()
    await scene.later(minutes=6)
    assert scene.environment(lease.environment).state == "broken"
    assert scene.booked().memory > 0
    await scene.carrier("vm-1").say_hello()
    await scene.settle()
    assert scene.environment(lease.environment).state == "gone"
    assert scene.booked().memory == 0


async def test_a_host_of_processes_is_not_asked(scene: Virtual) -> None:
    plain = Scene()
    await plain.start()
    try:
        agent = await plain.host_arrives()
        assert "machine.list" not in agent.methods()
    finally:
        await plain.stop()


async def test_a_free_machine_that_is_off_is_not_lent(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    listed = {"environment": lease.environment, "machine": "node", "fence": 3, "state": "off"}
    scene.carrier("vm-1").on("machine.list", Reply(result={"machines": [listed]}))
    await come_back(scene)
    assert scene.environment(lease.environment).state == "gone"


async def test_one_that_its_holder_switched_off_is_left_alone(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    listed = {"environment": lease.environment, "machine": "node", "fence": 2, "state": "off"}
    scene.carrier("vm-1").on("machine.list", Reply(result={"machines": [listed]}))
    await come_back(scene)
    assert scene.lease(lease.id).state == "granted"


async def test_a_free_machine_whose_agent_is_silent_past_the_grace_is_made_anew(scene: Virtual) -> None:
    scene.configure(hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=1)})
    await scene.settle()
    await scene.machine("node", "vm-1").leave()
    await scene.later(minutes=4)
    assert [one.id for one in scene.living()] == ["vm-1"]
    await scene.later(minutes=1)
    assert [(one.id, one.state) for one in scene.living()] == [("vm-2", "ready")]


async def test_one_that_never_said_hello_is_made_anew_past_the_grace_and_lent_to_who_waits(scene: Virtual) -> None:
    _stocked(scene, max=1)
    scene.machines_come_by_themselves = False
    scene.carrier("vm-1").on("machine.list", Reply(result={"machines": [_listed("vm-1", state="away")]}))
    lease = await scene.acquire("vm")
    assert [(one.id, one.state) for one in scene.living()] == [("vm-1", "ready")]
    scene.machines_come_by_themselves = True
    await scene.later(minutes=4)
    assert scene.lease(lease.id).state == "queued"
    await scene.later(minutes=1)
    assert [command.environment for command in scene.orders("machine.destroy")] == ["vm-1"]
    assert scene.lease(lease.id).environment == "vm-2"


async def test_one_that_hangs_while_somebody_has_it_is_not_lent_again(scene: Virtual) -> None:
    _stocked(scene, max=1)
    await scene.settle()
    lease = await scene.acquire("vm")
    await scene.machine("node", "vm-1").leave()
    _listing(scene, state="away")
    await scene.later(minutes=6)
    assert scene.lease(lease.id).state == "granted"
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert [command.fence for command in scene.orders("machine.clean")] == [scene.environment("vm-1").fence]
    waiting = await scene.acquire("vm")
    assert scene.lease(waiting.id).state == "queued"
    await scene.later(minutes=6)
    assert scene.lease(waiting.id).environment == "vm-2"


async def test_one_that_comes_back_in_time_is_lent_on(scene: Virtual) -> None:
    scene.configure(hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=1)})
    await scene.settle()
    await scene.machine("node", "vm-1").leave()
    await scene.later(minutes=4)
    await scene.machine("node", "vm-1").say_hello()
    await scene.later(minutes=4)
    assert [(one.id, one.state) for one in scene.living()] == [("vm-1", "ready")]


def _stocked(scene: Virtual, **rest: Any) -> None:
    scene.configure(
        hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=1, **rest)}
    )


def _listing(scene: Virtual, *, state: str) -> None:
    scene.carrier("vm-1").on("machine.list", Reply(result={"machines": [_listed("vm-1", state=state)]}))


def _listed(environment: str, *, state: str) -> dict[str, Any]:
    return {"environment": environment, "machine": "node", "fence": 1, "state": state}


async def test_a_free_one_whose_machine_is_silent_is_not_lent_and_who_waits_is_told_why(scene: Virtual) -> None:
    _stocked(scene, max=1)
    await scene.settle()
    await scene.machine("node", "vm-1").leave()
    lease = await scene.acquire("vm")
    assert (lease.state, lease.environment) == ("queued", "")
    told = await scene.people.why(lease.id)
    assert told.waits_for == "vm-1: node not heard by the server"
    assert told.would_help == "nothing to do: its host is asked, and what does not run any more is made anew"


async def test_who_waits_gets_it_as_soon_as_its_machine_is_heard_again(scene: Virtual) -> None:
    _stocked(scene, max=1)
    await scene.settle()
    await scene.machine("node", "vm-1").leave()
    first, second = await scene.acquire("vm"), await scene.acquire("vm")
    await scene.machine("node", "vm-1").say_hello()
    await scene.settle()
    assert scene.lease(first.id).environment == "vm-1"
    assert scene.lease(second.id).state == "queued"


async def test_a_free_one_whose_machine_does_not_run_is_made_anew_soon_and_lent_to_who_waits(scene: Virtual) -> None:
    _stocked(scene, max=1)
    await scene.settle()
    _listing(scene, state="off")
    await scene.machine("node", "vm-1").leave()
    lease = await scene.acquire("vm")
    await scene.later(seconds=20)
    assert [(one.id, one.state) for one in scene.living()] == [("vm-2", "leased")]
    assert scene.lease(lease.id).environment == "vm-2"


async def test_its_host_is_asked_again_while_a_free_machine_stays_silent_and_it_may_come_back(scene: Virtual) -> None:
    _stocked(scene)
    await scene.settle()
    _listing(scene, state="away")
    await scene.machine("node", "vm-1").leave()
    await scene.later(minutes=1)
    asked = len(scene.orders("machine.list"))
    assert asked >= 3
    await scene.machine("node", "vm-1").say_hello()
    await scene.later(minutes=10)
    assert len(scene.orders("machine.list")) == asked
    assert [(one.id, one.state) for one in scene.living()] == [("vm-1", "ready")]


async def test_a_question_that_is_open_is_not_asked_twice(scene: Virtual) -> None:
    _stocked(scene)
    await scene.settle()
    scene.carrier("vm-1").on("machine.list", Reply(is_running=True))
    await scene.machine("node", "vm-1").leave()
    await scene.later(minutes=2)
    assert len(scene.orders("machine.list")) == 2  # one when it arrived


async def test_one_that_is_heard_is_lent_before_older_ones_that_are_silent(scene: Virtual) -> None:
    scene.configure(hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools={"vm": replace(VM, min_ready=10)})
    scene.carrier("vm-1").capacity = replace(ROOM, memory=4 * ROOM.memory)
    await come_back(scene)
    await scene.settle()
    ready = [one.id for one in scene.living() if one.state == "ready"]
    assert len(ready) == 10
    for id in ready[:9]:
        await scene.machine("node", id).leave()
    assert (await scene.acquire("vm")).environment == ready[9]


async def test_one_of_two_machines_that_died_while_the_other_was_built_is_not_lent(scene: Virtual) -> None:
    scene.configure(
        hosts=scene.configuration.hosts,
        images={"debian": DEBIAN},
        pools={"pair": pool_of("pair", machines=("one", "two"), max=1)},
    )
    scene.machines_come_by_themselves = False
    carrier = scene.carrier("vm-1")
    carrier.on("machine.build", Reply(is_running=True))
    lease = await scene.acquire("pair")
    for order in scene.orders("machine.build"):
        await carrier.finish(order)
    await scene.machine_arrives("pair-1", "two")
    await scene.settle()
    assert (scene.environment("pair-1").state, scene.lease(lease.id).state) == ("ready", "queued")
    await scene.machine_arrives("pair-1", "one")
    await scene.settle()
    assert scene.lease(lease.id).environment == "pair-1"


async def test_one_that_is_silent_is_kept_for_who_waits_for_it_and_gives_way_to_who_came_before(scene: Virtual) -> None:
    pools = {"vm": replace(VM, min_ready=1), "large": pool_of("large", memory=ROOM.memory)}
    scene.configure(hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools=pools)
    await scene.settle()
    await scene.machine("node", "vm-1").leave()
    first = await scene.acquire("vm")
    scene.clock.advance(seconds=1)
    later = await scene.acquire("large")
    assert [(one.id, one.state) for one in scene.living()] == [("vm-1", "ready")]
    await scene.machine("node", "vm-1").say_hello()
    await scene.settle()
    assert scene.lease(first.id).environment == "vm-1"
    await scene.people.release(first.id, fence=scene.lease(first.id).fence, identity=ANNA)
    await scene.settle()
    assert scene.lease(later.id).environment == "large-1"


async def test_one_that_is_silent_gives_way_to_who_waited_before_anybody_wanted_it(scene: Virtual) -> None:
    pools = {"vm": replace(VM, min_ready=1), "large": pool_of("large", memory=ROOM.memory)}
    scene.configure(hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools=pools)
    await scene.settle()
    lent = await scene.acquire("vm")
    await scene.machine("node", "vm-2").leave()
    large = await scene.acquire("large")
    scene.clock.advance(seconds=1)
    later = await scene.acquire("vm")
    await scene.people.release(lent.id, fence=scene.lease(lent.id).fence, identity=ANNA)
    await scene.settle()
    assert scene.lease(large.id).environment == "large-1"
    assert scene.lease(later.id).state == "queued"


async def _saved(scene: Virtual) -> str:
    """An environment of which only the disks are kept."""
    lease = await scene.acquire("vm")
    await scene.people.hold(lease.environment, ttl=DAY, identity=ROOT, disks=True)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert scene.environment(lease.environment).state == "saved"
    return lease.environment


async def test_disks_that_are_kept_for_somebody_stay(scene: Virtual) -> None:
    environment = await _saved(scene)
    await come_back(scene)
    assert scene.orders("machine.forget") == []
    assert list(scene.carrier("vm-1").kept) == [(environment, "node")]


async def saved_in_part(scene: Virtual) -> str:
    """The id of a pair that is held: the disks of one of its machines are kept, the other one could not be saved."""
    pools = {"pair": pool_of("pair", machines=("one", "two"))}
    scene.configure(hosts=scene.configuration.hosts, images={"debian": DEBIAN}, pools=pools)
    lease = await scene.acquire("pair")
    await scene.people.hold(lease.environment, ttl=DAY, identity=ROOT, disks=True)
    scene.carrier("vm-1").on("machine.save", Reply(), Reply(code="failed"), Reply())
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    await scene.later(seconds=1)
    return lease.environment


async def test_one_that_was_saved_in_part_keeps_what_its_host_has(scene: Virtual) -> None:
    carrier = scene.carrier("vm-1")
    id = await saved_in_part(scene)
    held = scene.environment(id)
    assert (held.state, held.reason) == ("held", "not saved: two: machine.save failed: so it was")
    await come_back(scene)
    assert scene.environment(held.id) == held
    assert (list(carrier.carried), list(carrier.kept)) == ([(held.id, "two")], [(held.id, "one")])

    await scene.people.hold(held.id, ttl=DAY, identity=ROOT, disks=True)
    await scene.settle()
    assert scene.environment(held.id).state == "saved"
    assert sorted(carrier.kept) == [(held.id, "one"), (held.id, "two")]


async def test_one_that_was_saved_in_part_and_lacks_another_machine_is_broken(scene: Virtual) -> None:
    carrier = scene.carrier("vm-1")
    id = await saved_in_part(scene)
    carrier.carried.clear()
    await come_back(scene)
    assert scene.environment(id).state == "gone"
    assert carrier.kept == {}


async def test_kept_disks_that_nobody_ever_heard_of_are_forgotten(scene: Virtual) -> None:
    scene.carrier("vm-1").kept["other-9", "one"] = 4
    await come_back(scene)
    (order,) = scene.orders("machine.forget")
    assert (order.environment, order.machine, order.fence) == ("other-9", "one", 4)
    assert order.params["saved"] == "other-9.one"
    assert scene.command(order.id).state == "complete"
    assert scene.carrier("vm-1").kept == {}


async def test_kept_disks_of_an_environment_that_saved_none_by_our_rows_are_forgotten(scene: Virtual) -> None:
    lease = await scene.acquire("vm")
    scene.carrier("vm-1").kept[lease.environment, "node"] = 1
    await come_back(scene)
    assert scene.carrier("vm-1").kept == {}
    assert scene.lease(lease.id).state == "granted"


async def test_kept_disks_stay_while_something_is_made_of_them(scene: Virtual) -> None:
    environment = await _saved(scene)
    await scene.people.fork(environment, holder="root", ttl=None, wait=None, identity=ROOT)
    await scene.settle()
    row = scene.environment(environment)
    await scene.write(lambda tables: tables.environments.swap(row, replace(row, has_saved=False)))
    await come_back(scene)
    assert scene.orders("machine.forget") == []
