"""A comment becomes a round, its runs and one report, end to end on fakes."""

from tests.engine.scene import Scene


async def test_a_recheck_becomes_a_round_of_runs_and_one_report(scene: Scene) -> None:
    await scene.comment("recheck")
    await scene.until(lambda: bool(scene.forge.sent))
    assert [(run.job, run.verdict) for run in scene.runs()] == [("noop", "success"), ("pair-job", "success")]
    assert scene.machine("one").scripts() == ["greet", "save"]
    assert len(scene.forge.sent) == 1
