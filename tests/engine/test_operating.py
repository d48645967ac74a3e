"""Operating: what people ask for, what they may not, and what follows from it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from paddock.core.access import Role
from paddock.core.errors import Missing, Refused
from paddock.core.job import Step
from paddock.core.run import Verdict
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, BO, HOUR, JOB, ROOT, Scene, configuration

# --- holding ---


async def test_a_hold_asked_for_while_it_is_lent_begins_when_the_lease_ends(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.hold("pair-1", ttl=2 * HOUR, identity=BO)
    assert scene.environment("pair-1").state == "leased"
    await scene.later(minutes=30)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    held = scene.environment("pair-1")
    assert (held.state, held.held_by, held.fence) == ("held", "bo", lease.fence + 1)
    await scene.later(hours=1, minutes=59)
    assert scene.environment("pair-1").state == "held"


async def test_a_hold_ends_by_time_into_cleaning(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.later(hours=1)
    assert scene.states("environments", "pair-1")[-4:] == ["held", "dirty", "cleaning", "ready"]


async def test_a_run_whose_environment_is_to_be_held_leaves_it_as_it_is(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    for agent in (scene.machine("one"), scene.machine("two")):
        await agent.finish(next(iter(agent.running.values())), Reply(exit=1))
    await scene.until(lambda: scene.run("2").is_done)
    await scene.settle()
    assert scene.environment("pair-1").state == "held"
    assert "machine.clean" not in scene.host.methods()


async def test_a_held_environment_can_be_held_longer_and_given_back_by_its_holder(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.later(minutes=59)
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    await scene.later(minutes=59)
    assert scene.environment("pair-1").state == "held"
    await scene.people.release_environment("pair-1", identity=BO)
    await scene.settle()
    assert scene.environment("pair-1").state == "ready"


async def test_nobody_takes_or_ends_the_hold_of_somebody_else_but_an_operator(scene: Scene) -> None:
    await scene.acquire("pair")
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    for act in (
        scene.people.hold("pair-1", ttl=HOUR, identity=ANNA),
        scene.people.release_environment("pair-1", identity=ANNA),
    ):
        with pytest.raises(Refused, match="it is held by bo"):
            await act
    await scene.people.release_environment("pair-1", identity=ROOT)
    assert scene.environment("pair-1").hold_ttl is None


async def test_a_wish_to_hold_can_be_taken_back(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    await scene.people.release_environment("pair-1", identity=BO)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert scene.environment("pair-1").state == "ready"


async def test_what_is_free_cannot_be_held_or_given_back(scene: Scene) -> None:
    with pytest.raises(Refused):
        await scene.people.hold("slot-1", ttl=HOUR, identity=BO)
    with pytest.raises(Refused, match="it is ready, not held"):
        await scene.people.release_environment("slot-1", identity=BO)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(days=31)])
async def test_a_hold_has_bounds(scene: Scene, ttl: timedelta) -> None:
    with pytest.raises(Refused, match="a hold lasts between 1s and 30d"):
        await scene.people.hold("slot-1", ttl=ttl, identity=BO)


# --- quarantine and cleaning ---


async def test_quarantine_takes_it_from_whoever_has_it(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.quarantine("pair-1", reason="odd noises", identity=ROOT)
    await scene.settle()
    told = scene.lease(lease.id)
    assert (told.state, told.reason) == ("revoked", "odd noises")
    assert scene.environment("pair-1").state == "quarantined"
    assert scene.environment("pair-1").fence > lease.fence


async def test_a_run_in_quarantine_has_lost_its_lease(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    await scene.people.quarantine("pair-1", reason="odd noises", identity=ROOT)
    await scene.until(lambda: bool(scene.forge.sent))
    assert (scene.run("2").verdict, scene.run("2").reason) == (Verdict.LEASE_LOST, "odd noises")
    assert "LEASE_LOST" in scene.forge.sent[0].message


async def test_a_run_that_was_cancelled_and_then_quarantined_ends_cancelled_at_once(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    scene.machine("one").is_away = True  # it does not hear of the cancel
    await scene.people.cancel("2", identity=ROOT, reason="enough")
    await scene.people.quarantine("pair-1", reason="odd noises", identity=ROOT)
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.run("2").verdict is Verdict.CANCELLED


async def test_quarantine_while_cleaning_stops_the_cleaning_from_counting(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    scene.host.on("machine.clean", Reply(is_running=True))
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    await scene.people.quarantine("pair-1", reason="", identity=ROOT)
    for command in list(scene.host.running.values()):
        with pytest.raises(Refused):
            await scene.host.finish(command)
    await scene.settle()
    assert scene.environment("pair-1").state == "quarantined"
    assert scene.environment("pair-1").reason == "quarantined by root"


async def test_what_is_lent_is_not_cleaned_under_its_holder(scene: Scene) -> None:
    await scene.acquire("pair")
    with pytest.raises(Refused):
        await scene.people.clean("pair-1", identity=ROOT)


async def test_what_there_is_not_is_missing(scene: Scene) -> None:
    for act in (
        scene.people.quarantine("pair-9", reason="", identity=ROOT),
        scene.people.clean("pair-9", identity=ROOT),
        scene.people.hold("pair-9", ttl=HOUR, identity=ROOT),
        scene.people.cancel("9", identity=ROOT, reason=""),
        scene.people.retry("9", identity=ROOT),
        scene.people.drain_host("elsewhere", identity=ROOT),
        scene.people.enrolment(host="elsewhere", ttl=HOUR, identity=ROOT),
        scene.people.revoke_token("nobody", identity=ROOT),
    ):
        with pytest.raises(Missing):
            await act


# --- cancelling and retrying ---


async def test_what_is_done_cannot_be_cancelled(scene: Scene) -> None:
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    with pytest.raises(Refused, match="it is done: success"):
        await scene.people.cancel("2", identity=ROOT, reason="")


async def test_what_goes_on_cannot_be_retried(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    with pytest.raises(Refused, match="it is running, not done"):
        await scene.people.retry("2", identity=ROOT)


async def test_a_retry_in_a_live_round_is_another_attempt_and_the_last_counts(scene: Scene) -> None:
    slow = replace(JOB, name="slow", steps=(Step(name="linger", run="linger"),))
    project = configuration().projects[0]
    both = replace(project, jobs=(*project.jobs, replace(project.jobs[1], job="slow")))
    scene.configure(jobs={**configuration().jobs, "slow": slow}, projects=(both,))
    scene.machine_replies = {"linger": (Reply(is_running=True),), "greet": (Reply(exit=1), Reply())}
    await scene.comment()
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.run("2").verdict is Verdict.FAILURE
    again = await scene.people.retry("2", identity=ROOT)
    assert (again.round, again.attempt) == ("1", 2)
    with pytest.raises(Refused, match="attempt 2 of pair-job is there already"):
        await scene.people.retry("2", identity=ROOT)
    await scene.until(lambda: scene.run(again.id).is_done)
    for agent in list(scene.agents.values()):
        for command in list(agent.running.values()):
            await agent.finish(command)
    await scene.until(lambda: bool(scene.forge.sent))
    assert f"runs/{again.id}/ : SUCCESS" in scene.forge.sent[0].message
    assert "FAILURE" not in scene.forge.sent[0].message


async def test_a_retry_after_the_report_is_an_event_by_hand_with_a_round_of_its_own(scene: Scene) -> None:
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    again = await scene.people.retry("2", identity=ROOT)
    assert (again.round, again.attempt, again.job) == ("2", 1, "pair-job")
    event = scene.look(lambda tables: tables.events.where(newest=True)[0])
    assert (event.kind, event.author, event.state) == ("manual", "root", "planned")
    await scene.until(lambda: len(scene.forge.sent) == 2)


async def test_a_job_that_is_no_longer_configured_is_not_retried(scene: Scene) -> None:
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    scene.configure(jobs={"noop": configuration().jobs["noop"]}, projects=())
    with pytest.raises(Refused, match="job pair-job is no longer configured"):
        await scene.people.retry("2", identity=ROOT)


# --- tokens ---


async def make(scene: Scene, name: str = "anna", ttl: timedelta | None = None) -> str:
    return await scene.people.make_token(name=name, role=Role.PERSON, ttl=ttl, identity=ROOT)


async def test_a_token_says_who_asks(scene: Scene) -> None:
    secret = await make(scene)
    for _ in range(2):
        assert await scene.people.identify(secret) == ANNA


async def test_what_is_no_token_is_refused(scene: Scene) -> None:
    with pytest.raises(Refused, match="it is not known, over or revoked"):
        await scene.people.identify("guess")


async def test_a_revoked_token_is_refused_from_that_moment_on(scene: Scene) -> None:
    secret = await make(scene)
    await scene.people.identify(secret)
    await scene.people.revoke_token("anna", identity=ROOT)
    with pytest.raises(Refused):
        await scene.people.identify(secret)
    await scene.people.revoke_token("anna", identity=ROOT)


async def test_a_token_that_is_revoked_while_it_is_looked_up_is_not_remembered(scene: Scene) -> None:
    secret = await make(scene)
    read = scene.store.read

    async def read_slowly(step):  # type: ignore[no-untyped-def]
        found = await read(step)
        scene.store.read = read  # type: ignore[method-assign]
        await scene.people.revoke_token("anna", identity=ROOT)
        return found

    scene.store.read = read_slowly  # type: ignore[method-assign]
    await scene.people.identify(secret)
    with pytest.raises(Refused):
        await scene.people.identify(secret)


async def test_a_token_ends_with_its_ttl(scene: Scene) -> None:
    secret = await make(scene, ttl=HOUR)
    await scene.people.identify(secret)
    scene.clock.advance(hours=1)
    with pytest.raises(Refused):
        await scene.people.identify(secret)


async def test_a_name_is_given_again_only_after_its_token_has_ended(scene: Scene) -> None:
    old = await make(scene)
    with pytest.raises(Refused, match="token anna: there is one of that name"):
        await make(scene)
    await scene.people.revoke_token("anna", identity=ROOT)
    new = await make(scene)
    assert await scene.people.identify(new) == ANNA
    with pytest.raises(Refused):
        await scene.people.identify(old)


# --- draining ---


async def test_draining_twice_and_resuming_twice_is_harmless(scene: Scene) -> None:
    for _ in range(2):
        assert (await scene.people.drain_host("local", identity=ROOT)).state == "draining"
    for _ in range(2):
        assert (await scene.people.resume_host("local", identity=ROOT)).state == "online"


async def test_a_host_that_is_away_is_drained_when_it_returns_unless_somebody_resumed_it(scene: Scene) -> None:
    await scene.host.leave()
    await scene.settle()
    await scene.people.drain_host("local", identity=ROOT)
    await scene.host.say_hello()
    await scene.settle()
    assert scene.look(lambda tables: tables.hosts.find("local").state) == "draining"
    await scene.host.leave()
    await scene.settle()
    await scene.people.resume_host("local", identity=ROOT)
    await scene.host.say_hello()
    await scene.settle()
    assert scene.look(lambda tables: tables.hosts.find("local").state) == "online"


async def test_a_drain_counts_what_is_still_under_way(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    said = await scene.people.drain(identity=ROOT)
    assert (said.running, said.waiting) == (1, 0)
