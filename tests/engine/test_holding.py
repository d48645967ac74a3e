"""Holding: what a failed run leaves is kept where its job wants that, one a job, for whoever looks at it first."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from paddock.core.access import Identity, Role
from paddock.core.environment import Hold, Left
from paddock.core.errors import Refused
from paddock.core.job import Job, Step
from paddock.core.run import Verdict
from paddock.ports import Touched
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, BO, CHANGE, GREET, HOUR, JOB, PAIR, PROJECT, Scene, configuration, open_scene
from tests.engine.virtual import DEBIAN, ROOM, Virtual, hosts, open_virtual, pool_of

LAB = Identity(name="lab", role=Role.LAB)
FAILS = (Reply(exit=1),)


def wanting(scene: Scene, job: Job = JOB, **rest: object) -> None:
    """The job wants what fails held for two hours."""
    wants = replace(job, **{"hold_on_failure": 2 * HOUR, **rest})
    scene.configure(jobs={**configuration().jobs, job.name: wants})


async def ended(scene: Scene, *, rounds: int = 1) -> Verdict | None:
    """Ask for the job, see it through; how its last run ended."""
    await scene.comment()
    await scene.until(lambda: len(scene.forge.sent) == rounds)
    await scene.settle()
    return [run for run in scene.runs() if run.job == "pair-job"][-1].verdict


async def test_what_a_failed_run_had_is_held_and_not_cleaned(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = FAILS
    assert await ended(scene) is Verdict.FAILURE
    held, run = scene.environment("pair-1"), scene.run("2")
    assert (held.state, held.held_by, held.reason) == ("held", "run 2 of pair-job", "held by run 2 of pair-job")
    assert (held.hold_until, held.fence) == (run.ended + 2 * HOUR if run.ended else None, run.fence + 1)
    assert scene.lease(run.lease).state == "released"
    assert "machine.clean" not in scene.host.methods()


async def test_it_is_cleaned_when_its_time_is_over(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    await scene.later(hours=2)
    assert scene.states("environments", "pair-1")[-4:] == ["held", "dirty", "cleaning", "ready"]
    assert scene.environment("pair-1").held_by == ""


async def test_what_a_run_had_that_went_well_is_cleaned(scene: Scene) -> None:
    wanting(scene)
    assert await ended(scene) is Verdict.SUCCESS
    assert "held" not in scene.states("environments", "pair-1")
    assert scene.environment("pair-1").state == "ready"


async def test_a_job_that_does_not_want_it_leaves_nothing(scene: Scene) -> None:
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    assert "held" not in scene.states("environments", "pair-1")


async def test_one_that_never_got_as_far_as_its_steps_is_held_too(scene: Scene) -> None:
    wanting(scene, before=(Step(name="prepare", run="prepare"),))
    scene.machine_replies["prepare"] = (Reply(code="interrupted"),)
    assert await ended(scene) is Verdict.ERROR
    assert scene.environment("pair-1").state == "held"


async def test_one_that_took_too_long_is_held_too(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = (Reply(code="timed_out"),)
    assert await ended(scene) is Verdict.TIMED_OUT
    assert scene.environment("pair-1").state == "held"


async def test_a_job_has_one_at_a_time(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    await ended(scene, rounds=2)
    assert (scene.run("4").verdict, scene.run("4").environment) == (Verdict.FAILURE, "pair-2")
    assert [scene.environment(id).state for id in ("pair-1", "pair-2")] == ["held", "ready"]
    assert "held" not in scene.states("environments", "pair-2")


async def test_the_next_is_held_once_the_first_was_given_back(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    await scene.people.release_environment("pair-1", identity=ANNA)
    await scene.settle()
    await ended(scene, rounds=2)
    held = [one for one in scene.environments() if one.state == "held"]
    assert [one.held_by for one in held] == ["run 4 of pair-job"]


@pytest.mark.parametrize("verdict", [Verdict.SUPERSEDED, Verdict.CANCELLED])
@pytest.mark.parametrize("step", ["greet", "save"])
async def test_one_that_was_asked_to_end_leaves_nothing(scene: Scene, verdict: Verdict, step: str) -> None:
    wanting(scene)
    scene.machine_replies |= {"greet": FAILS, step: (Reply(is_running=True),)}
    await scene.comment()
    run = scene.run("2")
    await scene.store.write(lambda tables: tables.runs.swap(run, replace(run, ending=verdict, reason="so it was")))
    await scene.settle()
    for agent in (scene.machine("one"), scene.machine("two")):
        for task in list(agent.running.values()):
            await agent.finish(task, Reply(exit=0))
    await scene.until(lambda: scene.run("2").is_done)
    await scene.settle()
    assert "held" not in scene.states("environments", "pair-1")


async def test_what_was_taken_from_its_run_is_not_held(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    await scene.people.quarantine("pair-1", reason="odd noises", identity=Identity(name="root", role=Role.OPERATOR))
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.environment("pair-1").state == "quarantined"
    assert scene.environment("pair-1").held_by == ""


async def test_the_wish_of_a_person_goes_before_it(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    await scene.people.hold("pair-1", ttl=HOUR, identity=BO)
    for agent in (scene.machine("one"), scene.machine("two")):
        await agent.finish(next(iter(agent.running.values())), Reply(exit=1))
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.environment("pair-1").held_by == "bo"


async def test_a_pool_is_held_no_longer_than_it_allows_today(scene: Scene) -> None:
    pools = {**configuration().pools, "pair": replace(PAIR, hold=Hold(longest=HOUR))}
    wants = replace(JOB, hold_on_failure=2 * HOUR)
    scene.configure(pools=pools, jobs={**configuration().jobs, "pair-job": wants})
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    await scene.later(minutes=59)
    assert scene.environment("pair-1").state == "held"
    await scene.later(minutes=1)
    assert scene.environment("pair-1").state == "ready"


async def test_whoever_looks_at_it_first_takes_it_over(scene: Scene) -> None:
    wanting(scene)
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    with pytest.raises(Refused, match="it is held by run 2 of pair-job"):
        await scene.people.hold("pair-1", ttl=HOUR, identity=LAB)
    held = await scene.people.hold("pair-1", ttl=HOUR, identity=ANNA)
    assert (held.state, held.held_by, held.held_for) == ("held", "anna", None)
    with pytest.raises(Refused, match="it is held by anna"):
        await scene.people.release_environment("pair-1", identity=BO)


async def test_a_person_who_is_called_like_a_run_is_a_person(scene: Scene) -> None:
    called = Identity(name="run 2 of pair-job", role=Role.PERSON)
    lease = await scene.people.acquire(pool="pair", holder="bo", owner="bo", ttl=HOUR, wait=None)
    await scene.settle()
    await scene.people.hold("pair-1", ttl=HOUR, identity=called)
    await scene.people.release(lease.id, fence=scene.lease(lease.id).fence, identity=BO)
    await scene.settle()
    assert scene.environment("pair-1").held_for is None
    with pytest.raises(Refused, match="it is held by run 2 of pair-job"):
        await scene.people.release_environment("pair-1", identity=ANNA)
    wanting(scene)
    scene.machine_replies["greet"] = FAILS
    await ended(scene)
    assert scene.environment("pair-2").held_for == Left(run="2", job="pair-job")


# --- disks ---


@pytest.fixture
async def room() -> AsyncIterator[Virtual]:
    job = Job(name="pair-job", environment="pair", steps=(GREET,), hold_on_failure=2 * HOUR, hold_disks=True)
    pools = {"pair": pool_of("pair", machines=("one", "two"), max=2)}
    async with open_virtual(pools=pools) as scene:
        scene.configure(
            hosts=hosts("vm-1"), images={"debian": DEBIAN}, pools=pools, jobs={job.name: job}, projects=(PROJECT,)
        )
        carrier = await scene.host_arrives("vm-1", capacity=ROOM)
        carrier.on("machine.save", Reply(result={"bytes": 5}))
        carrier.on("machine.console", Reply(is_running=True))
        scene.machine_replies["greet"] = FAILS
        yield scene


async def failed(scene: Virtual) -> str:
    """An environment that a run of the job left."""
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    await scene.settle()
    return scene.runs()[-1].environment


async def test_of_what_it_had_only_the_disks_are_kept(room: Virtual) -> None:
    id = await failed(room)
    assert room.states("environments", id)[-3:] == ["held", "saving", "saved"]
    left = room.environment(id).held_for
    assert left is not None
    assert left.job == "pair-job"
    await room.later(hours=2)
    assert room.environment(id).state == "gone"


async def test_a_person_forks_what_a_run_left_and_gives_it_back(room: Virtual) -> None:
    id = await failed(room)
    with pytest.raises(Refused, match="it is held by run"):
        await room.people.fork(id, holder="lab", ttl=None, wait=None, identity=LAB)
    lease = await room.people.fork(id, holder="anna", ttl=None, wait=None, identity=ANNA)
    await room.settle()
    assert room.environment(room.lease(lease.id).environment).fork_of == id
    await room.people.release_environment(id, identity=ANNA)
    await room.settle()
    assert room.environment(id).state in ("dirty", "cleaning", "gone")


# --- a server that dies ---


def is_over(scene: Scene) -> bool:
    return bool(scene.forge.sent) and [str(one.state) for one in scene.environments()] == ["held"]


async def writes_until_it_is_held() -> int:
    async with open_scene() as scene:
        await scene.host_arrives()
        wanting(scene)
        scene.machine_replies["greet"] = FAILS
        counted: list[Sequence[Touched]] = []
        scene.store.subscribe(counted.append)
        await scene.comment()
        await scene.until(lambda: is_over(scene))
        return len(counted)


async def die_at(number: int) -> None:
    async with open_scene() as scene:
        await scene.host_arrives()
        wanting(scene)
        scene.machine_replies["greet"] = FAILS
        scene.die_at(number)
        scene.forge.say_comment(CHANGE, "recheck")
        await scene.until_dead()
        await scene.begin_again()
        await scene.until(lambda: is_over(scene))
        await scene.settle()
        assert "machine.clean" not in scene.host.methods()
        assert scene.states("environments", "pair-1").count("held") == 1


@pytest.mark.slow
async def test_the_server_may_die_after_any_write_of_a_run_that_fails() -> None:
    total = await writes_until_it_is_held()
    assert total > 10
    for number in range(1, total + 1):
        await die_at(number)
