"""A comment becomes a round, its runs and one report, end to end on fakes; and whatever may come between."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from paddock.core.job import Job, Limits, Step
from paddock.core.run import Run, Verdict
from tests.engine.fake_agent import Reply
from tests.engine.scene import GREET, JOB, ROOT, SAVE, Scene, configuration

HANG = Reply(is_running=True)
FETCH = Step(name="fetch", run="fetch", on=("two",))


def use(scene: Scene, **rest: Any) -> Job:
    """Configure the job `pair-job` otherwise."""
    job = replace(JOB, **rest)
    scene.configure(jobs={**configuration().jobs, "pair-job": job})
    return job


async def begin(scene: Scene, **replies: Reply) -> None:
    """A recheck, with machines that answer scripts as told."""
    for text, reply in replies.items():
        scene.machine_replies[text] = (reply,)
    await scene.comment()


async def end(scene: Scene) -> Run:
    await scene.until(lambda: bool(scene.forge.sent))
    return scene.run("2")


async def finish_all(scene: Scene, reply: Reply | None = None) -> None:
    for agent in scene.agents.values():
        for command in list(agent.running.values()):
            await agent.finish(command, reply)
    await scene.settle()


async def test_a_recheck_becomes_a_round_of_runs_and_one_report(scene: Scene) -> None:
    await scene.comment("recheck")
    await end(scene)
    assert [(run.job, run.verdict) for run in scene.runs()] == [("noop", "success"), ("pair-job", "success")]
    assert scene.machine("one").scripts() == scene.machine("two").scripts() == ["greet", "save"]
    assert [report.message for report in scene.forge.sent] == [
        "Build succeeded.\n\n"
        "- noop https://ci.example.org/runs/1/ : SUCCESS in 0s\n"
        "- pair-job https://ci.example.org/runs/2/ : SUCCESS in 0s\n\n"
        "https://ci.example.org/rounds/1"
    ]


async def test_a_run_goes_through_its_states_in_order(scene: Scene) -> None:
    await scene.comment()
    await end(scene)
    assert scene.states("runs", "2") == ["leasing", "preparing", "running", "collecting", "done"]
    assert [span.phase for span in scene.run("2").spans] == [
        "hello",
        "sources",
        "before",
        "main",
        "after",
        "collect",
    ]
    assert all(span.ended is not None for span in scene.run("2").spans)


async def test_what_a_run_held_is_cleaned_and_lent_again(scene: Scene) -> None:
    await scene.comment()
    await end(scene)
    assert scene.environment("pair-1").state == "ready"
    assert scene.lease(scene.run("2").lease).state == "released"
    assert "machine.clean" in scene.host.methods()


async def test_a_step_is_told_its_variables_and_its_limit(scene: Scene) -> None:
    await scene.comment()
    await end(scene)
    params = scene.machine("one").received[0].params
    env: Any = params["env"]
    assert (env["PADDOCK_CHANGE"], env["PADDOCK_MACHINE"], env["PADDOCK_ADDRESS_TWO"]) == ("189221", "one", "127.0.0.1")
    assert params["limit"] == 3600
    assert (params["environment"], params["fence"]) == ("pair-1", scene.run("2").fence)


async def test_the_log_of_each_step_on_each_machine_is_in_the_archive(scene: Scene) -> None:
    await scene.comment()
    await end(scene)
    prefix = "review/sandbox/189221/1/1/pair-job/1/logs/"
    names = [name.removeprefix(prefix) for name in await scene.archive.list(prefix.rstrip("/"))]
    assert [name for name in names if name.endswith(".log")] == [
        "after-1-one.log",
        "after-1-two.log",
        "main-1-one.log",
        "main-1-two.log",
    ]


async def test_steps_follow_each_other_and_not_before_all_have_ended(scene: Scene) -> None:
    use(scene, steps=(GREET, FETCH))
    await begin(scene, greet=HANG)
    first, second = scene.machine("one"), scene.machine("two")
    await first.finish(next(iter(first.running.values())))
    await scene.settle()
    assert second.scripts() == ["greet"]
    await second.finish(next(iter(second.running.values())))
    await end(scene)
    assert second.scripts() == ["greet", "fetch", "save"]
    assert first.scripts() == ["greet", "save"]


@pytest.mark.parametrize(
    ("reply", "verdict", "reason"),
    [
        (Reply(exit=7), Verdict.FAILURE, "main 1 (greet) on one exited 7"),
        (Reply(code="timed_out"), Verdict.TIMED_OUT, "main 1 (greet) on one was ended by its limit"),
        (
            Reply(code="interrupted"),
            Verdict.ERROR,
            "main 1 (greet) on one did not run to its end: interrupted: so it was",
        ),
        (
            Reply(code="bad_params", is_refused=True),
            Verdict.ERROR,
            "main 1 (greet) on one did not run to its end: bad_params: so it was",
        ),
    ],
)
async def test_when_a_step_does_not_succeed_the_next_does_not_run_and_after_does(
    scene: Scene, reply: Reply, verdict: Verdict, reason: str
) -> None:
    use(scene, steps=(GREET, FETCH))
    await begin(scene, greet=reply)
    run = await end(scene)
    assert (run.verdict, run.reason) == (verdict, reason)
    assert scene.machine("two").scripts() == ["greet", "save"]


async def test_after_sees_the_verdict_so_far(scene: Scene) -> None:
    await begin(scene, greet=Reply(exit=1))
    await end(scene)
    env: Any = scene.machine("one").received[1].params["env"]
    assert env["PADDOCK_VERDICT"] == "failure"


async def test_a_background_step_is_ended_after_main_and_its_end_is_no_failure(scene: Scene) -> None:
    serve = Step(name="serve", run="serve", on=("one",), background=True)
    use(scene, before=(serve,), steps=(FETCH,))
    await begin(scene, serve=HANG)
    run = await end(scene)
    assert run.verdict is Verdict.SUCCESS
    assert len(scene.machine("one").cancelled) == 1
    assert scene.machine("two").scripts()[0] == "fetch"
    serving = scene.machine("one").received[0]
    assert serving.params["limit"] == 600 + 3600


async def test_cancelling_ends_the_trees_and_after_still_happens(scene: Scene) -> None:
    await begin(scene, greet=HANG)
    await scene.people.cancel("2", identity=ROOT, reason="enough")
    run = await end(scene)
    assert (run.verdict, run.reason) == (Verdict.CANCELLED, "cancelled by root: enough")
    assert scene.machine("one").scripts() == ["greet", "save"]
    assert len(scene.machine("one").cancelled) == 1


async def test_a_run_cancelled_while_it_waits_gives_its_place_up(empty: Scene) -> None:
    await empty.comment()
    assert empty.run("2").state == "leasing"
    await empty.people.cancel("2", identity=ROOT, reason="enough")
    await empty.settle()
    assert (empty.run("2").verdict, empty.lease(empty.run("2").lease).state) == (Verdict.CANCELLED, "cancelled")


async def test_a_machine_that_never_says_hello_is_an_error(scene: Scene) -> None:
    scene.machines_come_by_themselves = False
    await scene.comment()
    assert scene.run("2").phase == "hello"
    await scene.later(minutes=2)
    run = await end(scene)
    assert run.verdict is Verdict.ERROR
    assert run.reason == "no hello from the agent of one, two within 2m 00s"


async def test_a_machine_that_is_lost_is_an_error_when_its_grace_is_over_however_long_the_phase_may_last(
    scene: Scene,
) -> None:
    use(scene, limits=Limits(main=timedelta(hours=10)))
    await begin(scene, greet=HANG)
    await scene.machine("two").leave()
    await scene.later(minutes=5)
    run = await end(scene)
    assert (run.verdict, run.reason) == (Verdict.ERROR, "the agent of two has been away since 00:00:00 UTC")


async def test_a_machine_that_returns_within_its_grace_goes_on(scene: Scene) -> None:
    await begin(scene, greet=HANG)
    await scene.machine("two").leave()
    await scene.later(minutes=4)
    await scene.machine("two").say_hello()
    await finish_all(scene)
    assert (await end(scene)).verdict is Verdict.SUCCESS


async def test_an_agent_that_does_not_keep_its_limit_is_not_waited_for(scene: Scene) -> None:
    use(scene, limits=Limits(main=timedelta(minutes=1)), after=())
    await begin(scene, greet=HANG)
    await scene.later(minutes=1, seconds=30)
    run = await end(scene)
    assert (run.verdict, run.reason) == (Verdict.ERROR, "main did not end on one, two within its limit and 30s")
    assert scene.commands(run="2", state=["queued", "sent", "accepted", "running"]) == []


async def test_a_step_for_a_machine_that_is_not_there_ends_the_run_and_not_the_server(scene: Scene) -> None:
    use(scene, steps=(Step(name="odd", run="odd", on=("three",)),))
    await scene.comment()
    run = await end(scene)
    assert (run.verdict, run.reason) == (Verdict.ERROR, "main 1 (odd): the environment has no machine three")


async def test_sources_are_checked_out_before_anything_else(scene: Scene) -> None:
    forge = replace(configuration().forges["review"], sources="https://git.example.org/{project}")
    job = replace(JOB, sources=True)
    scene.configure(jobs={**configuration().jobs, "pair-job": job}, forges={"review": forge})
    await scene.comment()
    await end(scene)
    first = scene.machine("one").received[0]
    assert first.method == "sources.checkout"
    assert first.params["url"] == "https://git.example.org/sandbox"
    assert (first.params["ref"], first.params["revision"]) == ("refs/changes/21/189221/1", "a" * 40)


async def test_runs_go_on_where_they_were_after_a_restart(scene: Scene) -> None:
    await begin(scene, greet=HANG)
    await scene.restart()
    await scene.everybody_returns()
    assert scene.run("2").state == "running"
    await finish_all(scene)
    run = await end(scene)
    assert run.verdict is Verdict.SUCCESS
    assert scene.machine("one").scripts() == ["greet", "save"]


async def test_two_runs_of_one_round_go_on_side_by_side(scene: Scene) -> None:
    again = replace(JOB, name="again")
    project = configuration().projects[0]
    both = replace(project, jobs=(*project.jobs, replace(project.jobs[1], job="again")))
    scene.configure(jobs={**configuration().jobs, "again": again}, projects=(both,))
    await begin(scene, greet=HANG)
    assert [run.state for run in scene.runs()] == ["done", "running", "running"]
    await finish_all(scene)
    await end(scene)
    assert [run.verdict for run in scene.runs()] == [Verdict.SUCCESS] * 3


async def test_a_run_that_cannot_go_on_keeps_no_other_from_it(scene: Scene) -> None:
    """One run's round is missing, as after a defect; the next run starts all the same."""
    use(scene, steps=(GREET, SAVE))
    await begin(scene, greet=HANG)
    await scene.write(lambda tables: tables.rounds.remove("1"))
    await finish_all(scene)
    scene.machine_replies.clear()
    await scene.comment(change=replace(scene.look(lambda tables: tables.events.where()[0].change), number=2))
    await scene.until(lambda: scene.runs()[-1].is_done)
    assert scene.runs()[-1].verdict is Verdict.SUCCESS
