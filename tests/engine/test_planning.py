"""Planning: events become rounds; newer patch sets supersede older rounds."""

from dataclasses import replace

from paddock.core.round import State
from paddock.core.run import Verdict
from tests.engine.fake_agent import Reply
from tests.engine.scene import CHANGE, Scene, configuration


def rounds(scene: Scene) -> list[tuple[str, int, State]]:
    return scene.look(lambda tables: [(one.id, one.patchset, one.state) for one in tables.rounds.where()])


async def hang(scene: Scene) -> None:
    """Make every machine's steps run until somebody ends them."""
    scene.machine_replies["greet"] = (Reply(is_running=True),)


async def test_an_event_that_starts_nothing_says_why(empty: Scene) -> None:
    await empty.comment("looks good to me")
    event = empty.look(lambda tables: tables.events.where()[0])
    assert event.state == "ignored"
    assert event.outcome
    assert rounds(empty) == []


async def test_an_event_that_starts_a_round_names_it_and_its_jobs(empty: Scene) -> None:
    await empty.comment()
    event = empty.look(lambda tables: tables.events.where()[0])
    assert (event.state, event.round, event.outcome) == ("planned", "1", "round 1: noop, pair-job")


async def test_a_run_keeps_its_job_as_it_was_planned(scene: Scene) -> None:
    await hang(scene)
    await scene.comment()
    scene.configure(jobs={"noop": configuration().jobs["noop"]}, projects=())
    await scene.settle()
    running = scene.machine("one").received[-1]
    await scene.machine("one").finish(running)
    await scene.machine("two").finish(scene.machine("two").received[-1])
    await scene.until(lambda: bool(scene.forge.sent))
    assert scene.run("2").verdict is Verdict.SUCCESS


async def test_a_newer_patch_set_supersedes_the_round_and_nothing_is_reported_for_it(scene: Scene) -> None:
    await hang(scene)
    await scene.push(1)
    await scene.push(2)
    assert rounds(scene)[0] == ("1", 1, State.SUPERSEDED)
    await scene.later(minutes=2)
    assert scene.run("2").verdict is Verdict.SUPERSEDED
    for name in ("one", "two"):
        for command in list(scene.machine(name, "pair-2").running.values()):
            await scene.machine(name, "pair-2").finish(command)
    await scene.until(lambda: bool(scene.forge.sent))
    assert [report.change.patchset for report in scene.forge.sent] == [2]


async def test_superseding_ends_the_running_trees(scene: Scene) -> None:
    await hang(scene)
    await scene.push(1)
    running = [scene.machine(name).received[-1].id for name in ("one", "two")]
    await scene.push(2)
    assert [scene.machine("one").cancelled, scene.machine("two").cancelled] == [[running[0]], [running[1]]]


async def test_superseding_asks_every_run_of_the_round_to_end(scene: Scene) -> None:
    await hang(scene)
    jobs = {**configuration().jobs, "again": replace(configuration().jobs["pair-job"], name="again")}
    project = configuration().projects[0]
    projects = (replace(project, jobs=(*project.jobs, replace(project.jobs[1], job="again"))),)
    scene.configure(jobs=jobs, projects=projects)
    await scene.push(1)
    await scene.push(2)
    await scene.later(minutes=1)
    assert [run.verdict for run in scene.runs()[:3]] == [Verdict.SUCCESS, Verdict.SUPERSEDED, Verdict.SUPERSEDED]


async def test_a_newer_patch_set_for_which_nothing_runs_supersedes_all_the_same(scene: Scene) -> None:
    await hang(scene)
    await scene.push(1)
    scene.configure(projects=())
    await scene.push(2)
    assert rounds(scene) == [("1", 1, State.SUPERSEDED)]


async def test_a_recheck_while_the_round_lives_starts_nothing(scene: Scene) -> None:
    await hang(scene)
    await scene.comment()
    await scene.comment()
    assert len(rounds(scene)) == 1


async def test_a_recheck_after_the_report_starts_a_round_of_its_own(scene: Scene) -> None:
    await scene.comment()
    await scene.until(lambda: len(scene.forge.sent) == 1)
    await scene.comment()
    await scene.until(lambda: len(scene.forge.sent) == 2)
    assert [one[2] for one in rounds(scene)] == [State.DONE, State.DONE]


async def test_a_superseded_run_that_still_waits_for_an_environment_ends_at_once(empty: Scene) -> None:
    await empty.push(1)
    assert empty.run("2").state == "leasing"
    await empty.push(2)
    assert empty.run("2").verdict is Verdict.SUPERSEDED
    assert empty.lease(empty.run("2").lease).state == "cancelled"


async def test_a_burst_of_events_is_planned_in_batches_to_the_last(empty: Scene) -> None:
    for number in range(200):
        empty.forge.say_comment(replace(CHANGE, number=1000 + number), "thanks")
    await empty.settle()
    assert empty.look(lambda tables: tables.events.count(state="ignored")) == 200
