"""Attending: hosts come, go and are given up; nothing that a lost host carried is lent twice or forgotten."""

from dataclasses import replace

from paddock.core.host import State as HostState
from paddock.core.run import Verdict
from tests.engine.fake_agent import Reply
from tests.engine.scene import PAIR, ROOT, Scene


async def begin(scene: Scene) -> None:
    """A run whose step goes on and on."""
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    assert scene.run("2").state == "running"


async def test_a_configured_host_waits_for_its_agent(empty: Scene) -> None:
    assert await empty.is_host(HostState.JOINING)
    await empty.host_arrives()
    assert await empty.is_host(HostState.ONLINE)


async def test_within_its_grace_a_host_that_left_keeps_what_it_carries(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.host.leave()
    await scene.later(minutes=4, seconds=59)
    assert await scene.is_host(HostState.OFFLINE)
    assert scene.environment(lease.environment).state == "leased"
    await scene.host.say_hello()
    assert await scene.is_host(HostState.ONLINE)
    assert scene.lease(lease.id).state == "granted"


async def test_past_its_grace_it_is_lost_and_the_lease_is_revoked_with_the_reason(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.host.leave()
    await scene.later(minutes=5)
    assert await scene.is_host(HostState.LOST)
    assert scene.environment(lease.environment).state == "broken"
    told = scene.lease(lease.id)
    assert (told.state, told.reason) == ("revoked", "host local has been away since 00:00:00 UTC")


async def test_a_run_on_a_lost_host_ends_as_an_error(scene: Scene) -> None:
    await begin(scene)
    await scene.host.leave()
    await scene.later(minutes=5)
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.run("2").verdict is Verdict.ERROR
    assert scene.run("2").reason == "host local has been away since 00:00:00 UTC"
    assert scene.commands(run="2", state=["queued", "sent", "accepted", "running"]) == []


async def test_a_run_that_was_being_cancelled_ends_too_when_its_host_is_lost(scene: Scene) -> None:
    await begin(scene)
    await scene.host.leave()
    scene.machine("one").is_away = scene.machine("two").is_away = True  # connected, and silent for ever
    await scene.people.cancel("2", identity=ROOT, reason="enough")
    await scene.later(minutes=5)
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.run("2").verdict is Verdict.CANCELLED


async def test_losing_a_host_raises_the_fence_of_all_that_it_carried(scene: Scene) -> None:
    scene.configure(pools={"pair": replace(PAIR, min_ready=2)})
    await scene.settle()
    before = [one.fence for one in scene.environments()]
    await scene.host.leave()
    await scene.later(minutes=5)
    assert [one.fence for one in scene.environments()] == [fence + 1 for fence in before]
    assert {one.state for one in scene.environments()} == {"broken"}


async def test_when_a_lost_host_returns_what_it_carried_is_destroyed_and_built_anew_without_a_person(
    scene: Scene,
) -> None:
    scene.configure(pools={"pair": replace(PAIR, min_ready=1, max=1)})
    await scene.settle()
    lease = await scene.acquire("pair")
    await scene.host.leave()
    await scene.later(hours=2)
    waiting = await scene.acquire("pair")
    assert waiting.state == "queued"
    await scene.host.say_hello()
    await scene.settle()
    assert scene.environment(lease.environment).state == "gone"
    assert scene.states("environments", lease.environment)[-3:] == ["broken", "cleaning", "gone"]
    assert scene.lease(waiting.id).environment == "pair-2"


async def test_a_host_that_was_drained_and_lost_is_drained_when_it_returns(scene: Scene) -> None:
    await scene.people.drain_host("local", identity=ROOT)
    await scene.host.leave()
    await scene.later(minutes=5)
    await scene.host.say_hello()
    assert await scene.is_host(HostState.DRAINING)


async def test_a_new_agent_that_takes_a_host_over_does_what_the_old_one_was_asked(scene: Scene) -> None:
    scene.host.on("machine.build", Reply(is_silent=True))
    lease = await scene.acquire("pair")
    old = scene.host
    await scene.host_arrives()
    await scene.settle()
    assert scene.host is not old
    assert scene.lease(lease.id).state == "granted"
    assert (old.id, "another agent enrolled for its host") in scene.links.dropped


async def test_after_a_restart_the_grace_begins_anew(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.later(minutes=30)
    await scene.restart()
    await scene.later(minutes=4)
    assert scene.lease(lease.id).state == "granted"
    await scene.later(minutes=1)
    assert scene.lease(lease.id).state == "revoked"
