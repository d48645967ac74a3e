"""Leasing: who asked gets an environment in order, and gives it back dirty, whatever happens."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from paddock.core.errors import Missing, Refused, Stale
from paddock.core.lease import Lease
from paddock.core.run import State as RunState
from paddock.core.run import Verdict
from paddock.engine import leasing
from paddock.engine.leasing import BATCH
from paddock.ports import Tables
from paddock.testing import EPOCH, settle
from tests.engine.scene import ANNA, BO, HOUR, PAIR, ROOT, SLOT, Scene, configuration

MINUTES_10 = timedelta(minutes=10)


async def test_a_free_environment_is_granted_in_the_asking_itself(scene: Scene) -> None:
    lease = await scene.people.acquire(pool="slot", holder="anna@desk", owner="anna", ttl=HOUR, wait=None)
    environment = scene.environment(lease.environment)
    assert (lease.state, lease.deadline) == ("granted", EPOCH + HOUR)
    assert (environment.state, environment.lease, environment.fence) == ("leased", lease.id, lease.fence)


async def test_when_nothing_is_free_it_is_queued(scene: Scene) -> None:
    taken = [await scene.acquire(), await scene.acquire()]
    assert {lease.state for lease in taken} == {"granted"}
    assert (await scene.acquire()).state == "queued"


async def test_the_queue_is_served_in_order_at_each_release(scene: Scene) -> None:
    first, second = await scene.acquire(), await scene.acquire()
    third, fourth = await scene.acquire(), await scene.acquire()
    await scene.people.release(second.id, fence=second.fence, identity=ANNA)
    await scene.settle()
    assert (scene.lease(third.id).state, scene.lease(fourth.id).state) == ("granted", "queued")
    await scene.people.release(first.id, fence=first.fence, identity=ANNA)
    await scene.settle()
    assert scene.lease(fourth.id).state == "granted"


async def test_nobody_overtakes_the_queue(scene: Scene) -> None:
    first, _ = await scene.acquire(), await scene.acquire()
    waiting = await scene.acquire()

    def release_and_ask(tables: Tables) -> str:
        leasing.release(tables, first.id, fence=first.fence, now=EPOCH)
        asked = leasing.acquire(
            tables,
            scene.configuration,
            id="late",
            pool="slot",
            holder="bo",
            owner="bo",
            ttl=HOUR,
            now=EPOCH,
        )
        return asked.state

    assert await scene.write(release_and_ask) == "queued"
    assert scene.lease(waiting.id).state == "granted"


async def test_each_owner_has_a_fence_of_its_own(scene: Scene) -> None:
    fences = []
    for _ in range(5):
        lease = await scene.acquire()
        fences.append((lease.environment, lease.fence))
        await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    assert len(set(fences)) == 5


async def test_a_reservation_goes_from_leased_to_ready_in_one_transaction_with_every_step_written(scene: Scene) -> None:
    lease = await scene.acquire()
    before = len(scene.states("environments", lease.environment))
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    assert scene.states("environments", lease.environment)[before:] == ["dirty", "cleaning", "ready"]


async def test_releasing_twice_is_the_same_answer(scene: Scene) -> None:
    lease = await scene.acquire()
    for _ in range(2):
        released = await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
        assert released.state == "released"


@pytest.mark.parametrize("wrong", [-1, 1])
async def test_who_shows_another_fence_neither_renews_nor_releases(scene: Scene, wrong: int) -> None:
    lease = await scene.acquire()
    for act in (
        scene.people.release(lease.id, fence=lease.fence + wrong, identity=ANNA),
        scene.people.renew(lease.id, fence=lease.fence + wrong, ttl=None, identity=ANNA),
    ):
        with pytest.raises(Stale):
            await act
    assert scene.environment(lease.environment).state == "leased"


async def test_a_lease_of_somebody_else_is_left_alone_but_by_an_operator(scene: Scene) -> None:
    lease = await scene.acquire()
    with pytest.raises(Stale, match="it belongs to anna, not to bo"):
        await scene.people.release(lease.id, fence=lease.fence, identity=BO)
    assert (await scene.people.release(lease.id, fence=lease.fence, identity=ROOT)).state == "released"


async def test_a_lease_that_is_not_renewed_expires_at_its_end_and_not_before(scene: Scene) -> None:
    lease = await scene.acquire(ttl=MINUTES_10)
    await scene.later(minutes=9, seconds=59)
    assert scene.lease(lease.id).state == "granted"
    await scene.later(seconds=1)
    assert scene.lease(lease.id).state == "expired"
    assert scene.environment(lease.environment).state == "ready"


async def test_a_renewed_lease_lives_on(scene: Scene) -> None:
    lease = await scene.acquire(ttl=MINUTES_10)
    for _ in range(3):
        await scene.later(minutes=9)
        lease = await scene.people.renew(lease.id, fence=lease.fence, ttl=None, identity=ANNA)
    assert scene.lease(lease.id).state == "granted"
    await scene.later(minutes=10)
    assert scene.lease(lease.id).state == "expired"


async def test_a_lease_shortened_by_a_renewal_ends_at_its_new_end(scene: Scene) -> None:
    lease = await scene.acquire(ttl=HOUR)
    await scene.people.renew(lease.id, fence=lease.fence, ttl=timedelta(minutes=1), identity=ANNA)
    await scene.later(minutes=1)
    assert scene.lease(lease.id).state == "expired"


async def test_a_lease_granted_while_the_stage_looks_expires_all_the_same(scene: Scene) -> None:
    """The stage computes when to look again; what is granted meanwhile must not fall through."""
    early = await scene.acquire(ttl=timedelta(minutes=1))
    write = scene.store.write
    is_late: list[bool] = []

    def acquire(tables: Tables) -> Lease:
        return leasing.acquire(
            tables,
            scene.configuration,
            id="late",
            pool="slot",
            holder="bo",
            owner="bo",
            ttl=timedelta(minutes=3),
            now=scene.clock.now(),
        )

    async def write_and_grant(step: Any) -> Any:
        answer = await write(step)
        if scene.clock.now() >= EPOCH + timedelta(minutes=1) and not is_late:
            is_late.append(True)
            # Committed after the stage's pass and before the stage is told its answer.
            await write(acquire)
        return answer

    scene.store.write = write_and_grant  # type: ignore[method-assign]
    await scene.later(minutes=1)
    scene.store.write = write  # type: ignore[method-assign]
    assert scene.lease(early.id).state == "expired"
    assert scene.lease("late").state == "granted"
    await scene.later(minutes=3)
    assert scene.lease("late").state == "expired"


async def test_a_lease_whose_holder_never_comes_back_serves_the_next(scene: Scene) -> None:
    await scene.acquire(ttl=MINUTES_10)
    await scene.acquire(ttl=HOUR)
    waiting = await scene.acquire()
    await scene.later(minutes=10)
    assert scene.lease(waiting.id).state == "granted"


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(milliseconds=999), timedelta(days=7, seconds=1)])
async def test_a_ttl_has_bounds(scene: Scene, ttl: timedelta) -> None:
    with pytest.raises(Refused, match="is not between 1s and 7d"):
        await scene.acquire(ttl=ttl)
    lease = await scene.acquire()
    with pytest.raises(Refused, match="is not between 1s and 7d"):
        await scene.people.renew(lease.id, fence=lease.fence, ttl=ttl, identity=ANNA)


async def test_a_pool_that_is_not_configured_cannot_be_asked_for(scene: Scene) -> None:
    with pytest.raises(Missing, match="pool nothing: it is not configured"):
        await scene.acquire("nothing")


async def test_at_a_restart_every_outside_holder_gets_one_full_ttl(scene: Scene) -> None:
    lease = await scene.acquire(ttl=MINUTES_10)
    await scene.stop()
    scene.clock.advance(hours=3)
    await scene.restart()
    await scene.everybody_returns()
    assert scene.lease(lease.id).deadline == EPOCH + timedelta(hours=3) + MINUTES_10
    await scene.later(minutes=10)
    assert scene.lease(lease.id).state == "expired"


async def test_a_draining_host_lends_nothing_until_it_is_resumed(scene: Scene) -> None:
    await scene.people.drain_host("local", identity=ROOT)
    lease = await scene.acquire()
    assert lease.state == "queued"
    await scene.people.resume_host("local", identity=ROOT)
    await scene.settle()
    assert scene.lease(lease.id).state == "granted"


async def test_an_absent_host_lends_nothing_until_it_returns(scene: Scene) -> None:
    await scene.host.leave()
    await scene.settle()
    lease = await scene.acquire()
    assert lease.state == "queued"
    await scene.host.say_hello()
    await scene.settle()
    assert scene.lease(lease.id).state == "granted"


async def test_who_waits_for_a_pool_that_is_removed_is_told_at_once(scene: Scene) -> None:
    await scene.acquire()
    await scene.acquire()
    waiting = await scene.acquire()
    scene.configure(pools={"pair": PAIR})
    await scene.settle()
    told = scene.lease(waiting.id)
    assert (told.state, told.reason) == ("impossible", "pool slot is no longer configured")


async def test_a_run_that_waits_for_a_pool_that_is_removed_is_an_error(empty: Scene) -> None:
    await empty.comment()
    empty.configure(pools={"slot": SLOT})
    await empty.settle()
    assert (empty.run("2").verdict, empty.run("2").reason) == (Verdict.ERROR, "pool pair is no longer configured")


async def test_a_run_without_an_environment_is_a_success_at_once(empty: Scene) -> None:
    await empty.comment()
    assert empty.run("1").verdict is Verdict.SUCCESS


async def test_why_tells_place_and_reason(scene: Scene) -> None:
    await scene.acquire()
    await scene.acquire()
    await scene.acquire()
    waiting = await scene.acquire()
    said = await scene.people.why(waiting.id)
    assert (said.ahead, said.waits_for) == (1, "pool slot: 2 leased, at most 2")


async def test_a_burst_of_runs_is_queued_to_the_last(empty: Scene) -> None:
    job = replace(configuration().jobs["noop"], name="other")
    empty.configure(jobs={**configuration().jobs, "other": job})
    await empty.comment()

    def add_many(tables: Tables) -> None:
        run = tables.runs.find("1")
        assert run is not None
        for number in range(BATCH * 2 + 5):
            again = replace(run, id=f"many-{number}", state=RunState.QUEUED, verdict=None, ended=None)
            tables.runs.add(again)

    await empty.write(add_many)
    assert empty.look(lambda tables: tables.runs.count(state="queued")) == 0


async def test_waiting_for_a_grant_ends_with_the_grant(scene: Scene) -> None:
    first, _ = await scene.acquire(), await scene.acquire()
    asking = scene.people.acquire(pool="slot", holder="bo", owner="bo", ttl=HOUR, wait=timedelta(seconds=5))
    waiting = asyncio.ensure_future(asking)
    await settle()
    assert not waiting.done()
    await scene.people.release(first.id, fence=first.fence, identity=ANNA)
    assert (await waiting).state == "granted"


async def test_a_lease_cancelled_while_it_waits_is_out_of_the_queue(scene: Scene) -> None:
    first, _ = await scene.acquire(), await scene.acquire()
    gone, next_one = await scene.acquire(), await scene.acquire()
    await scene.people.cancel_lease(gone.id, identity=ANNA)
    await scene.people.release(first.id, fence=first.fence, identity=ANNA)
    await scene.settle()
    assert (scene.lease(gone.id).state, scene.lease(next_one.id).state) == ("cancelled", "granted")


async def test_only_an_operator_revokes_a_granted_lease(scene: Scene) -> None:
    lease = await scene.acquire()
    with pytest.raises(Refused):
        await scene.people.cancel_lease(lease.id, identity=ANNA)
    assert (await scene.people.cancel_lease(lease.id, identity=ROOT)).state == "revoked"
    assert scene.environment(lease.environment).state == "ready"


async def test_a_drained_server_starts_no_run_but_ends_those_that_are_cancelled(scene: Scene) -> None:
    await scene.people.drain(identity=ROOT)
    await scene.comment()
    assert [run.state for run in scene.runs()] == ["queued", "queued"]
    await scene.people.cancel("2", identity=ROOT, reason="enough")
    await scene.settle()
    assert scene.run("2").verdict is Verdict.CANCELLED
    with pytest.raises(Refused, match="the server is being drained"):
        await scene.acquire()


async def test_a_drained_server_starts_its_runs_after_its_restart(scene: Scene) -> None:
    await scene.people.drain(identity=ROOT)
    await scene.comment()
    await scene.restart()
    await scene.everybody_returns()
    await scene.until(lambda: bool(scene.forge.sent))
    assert [run.verdict for run in scene.runs()] == [Verdict.SUCCESS, Verdict.SUCCESS]
