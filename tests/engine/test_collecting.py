"""Collecting: every announced byte is waited for, results are read, names are kept inside."""

from dataclasses import replace
from typing import Any

import pytest

from paddock.core.results import Outcome, Results
from paddock.core.run import Run, Verdict
from tests.engine.fake_agent import Reply
from tests.engine.scene import JOB, Scene, configuration

GOOD = b'<testsuite><testcase classname="a.B" name="test_c" time="1.5"/></testsuite>'
BAD = b'<testsuite><testcase name="test_c"><failure message="no">because</failure></testcase></testsuite>'


async def collect(scene: Scene, *files: dict[str, bytes], ends: bool = True, **rest: Any) -> Run:
    """A run whose machines one and two have these result files; with `artifacts` these are sent twice."""
    job = replace(JOB, results=("*.xml",), **rest)
    scene.configure(jobs={**configuration().jobs, "pair-job": job})
    scene.machines_come_by_themselves = False
    await scene.comment()
    for machine, found in zip(("one", "two"), files, strict=True):
        agent = await scene.machine_arrives("pair-1", machine)
        if "file.collect" not in scene.machine_replies:
            agent.on("file.collect", Reply(files=found))
    await scene.settle()
    if ends:
        await scene.until(lambda: bool(scene.forge.sent))
    return scene.run("2")


def results(scene: Scene) -> Results:
    found: Results = scene.look(lambda tables: tables.results.find("2"))
    return found


async def test_the_cases_of_every_machine_are_the_results_of_the_run(scene: Scene) -> None:
    run = await collect(scene, {"result.xml": GOOD}, {"result.xml": GOOD})
    assert run.verdict is Verdict.SUCCESS
    assert [(case.suite, case.name, case.seconds) for case in results(scene).cases] == [
        ("one: a.B", "test_c", 1.5),
        ("two: a.B", "test_c", 1.5),
    ]


async def test_a_test_that_failed_makes_the_run_a_failure(scene: Scene) -> None:
    run = await collect(scene, {"result.xml": GOOD}, {"result.xml": BAD})
    assert (run.verdict, run.reason) == (Verdict.FAILURE, "1 of 2 tests did not pass")
    assert results(scene).cases[1].message == "no\nbecause"


async def test_a_job_that_promises_results_and_has_none_is_a_failure(scene: Scene) -> None:
    run = await collect(scene, {}, {})
    assert (run.verdict, run.reason) == (Verdict.FAILURE, "no test results were found in *.xml")


async def test_results_that_cannot_be_read_are_no_success(scene: Scene) -> None:
    run = await collect(scene, {"result.xml": GOOD}, {"result.xml": b"<testsuite>"})
    assert run.verdict is Verdict.FAILURE
    assert run.reason.startswith("test results could not be read: two/result.xml: not XML that can be trusted")


async def test_results_that_the_agent_refused_to_send_are_no_success(scene: Scene) -> None:
    refused = Reply(files={"a.xml": GOOD}, result={"refused": [{"path": "b.xml", "why": "a symbolic link"}]})
    scene.machine_replies["file.collect"] = (refused,)
    run = await collect(scene, {}, {})
    assert (run.verdict, run.reason) == (
        Verdict.FAILURE,
        "test results could not be read: one/b.xml: a symbolic link",
    )


async def test_artifacts_that_were_refused_are_said_by_name_and_no_failure(scene: Scene) -> None:
    refused = Reply(result={"refused": [{"path": "../../etc/passwd", "why": "leads outside"}]})
    scene.machine_replies["file.collect"] = (Reply(files={"a.xml": GOOD}), refused)
    run = await collect(scene, {}, {}, artifacts=("**",))
    assert run.verdict is Verdict.SUCCESS
    assert results(scene).problems == (
        "one/../../etc/passwd: leads outside",
        "two/../../etc/passwd: leads outside",
    )


async def test_files_with_names_that_lead_elsewhere_are_announced_in_vain(scene: Scene) -> None:
    scene.machine_replies["file.collect"] = (Reply(files={}, lengths={"../../../x": 5, "/etc/x": 5}),)
    run = await collect(scene, {}, {})
    assert run.verdict is Verdict.FAILURE
    assert results(scene).problems[0] == "one: '../../../x': a part of a name cannot be '..'"


async def test_a_run_waits_for_every_byte_that_was_announced(scene: Scene) -> None:
    scene.machine_replies["file.collect"] = (Reply(files={"a.xml": GOOD}, is_withheld=True),)
    run = await collect(scene, {}, {}, ends=False)
    await scene.later(minutes=3)
    assert scene.run("2").state == "collecting"
    await scene.machine("one").deliver()
    await scene.settle()
    assert scene.run("2").state == "collecting"
    await scene.machine("two").deliver()
    await scene.until(lambda: scene.run("2").is_done)
    run = scene.run("2")
    assert run.verdict is Verdict.SUCCESS


async def test_a_command_that_ends_just_before_the_decision_is_waited_for_too(scene: Scene) -> None:
    """What was announced is counted before the transaction that decides; more may be announced between them."""
    scene.machine_replies["file.collect"] = (Reply(is_running=True),)
    await collect(scene, {}, {}, ends=False)
    first, second = scene.machine("one"), scene.machine("two")
    await second.finish(next(iter(second.running.values())), Reply(files={"b.xml": GOOD}))
    await scene.settle()
    write = scene.store.write
    is_told: list[bool] = []

    async def write_late(step: Any) -> Any:
        if not is_told:
            is_told.append(True)
            command = next(iter(first.running.values()))
            await first.finish(command, Reply(files={"a.xml": BAD}, is_withheld=True))
        return await write(step)

    scene.store.write = write_late  # type: ignore[method-assign]
    scene._stir("2")
    await scene.settle()
    scene.store.write = write  # type: ignore[method-assign]
    assert scene.run("2").state == "collecting"
    await first.deliver()
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.run("2").verdict is Verdict.FAILURE


async def test_output_that_never_comes_is_an_error_by_name(scene: Scene) -> None:
    scene.machine_replies["file.collect"] = (Reply(files={"a.xml": GOOD}, is_withheld=True),)
    await collect(scene, {}, {}, ends=False)
    await scene.later(minutes=6)
    await scene.until(lambda: scene.run("2").is_done)
    run = scene.run("2")
    assert run.verdict is Verdict.ERROR
    assert run.reason.startswith("output did not arrive: review/sandbox/189221/1/1/pair-job/1/results/one/a.xml")


async def test_a_step_that_failed_is_the_verdict_whatever_the_results_say(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(exit=2),)
    run = await collect(scene, {"a.xml": GOOD}, {"a.xml": GOOD})
    assert (run.verdict, run.reason) == (Verdict.FAILURE, "main 1 (greet) on one exited 2")
    assert len(results(scene).cases) == 2


async def test_a_full_disk_delays_the_end_and_loses_nothing(scene: Scene) -> None:
    scene.machine_replies["file.collect"] = (Reply(files={"a.xml": GOOD}, is_withheld=True),)
    await collect(scene, {}, {}, ends=False)
    scene.archive.fail()
    withheld = list(scene.machine("one").withheld)
    with pytest.raises(Exception, match="no space left"):
        await scene.machine("one").deliver()
    scene.archive.mend()
    scene.machine("one").withheld = withheld
    await scene.machine("one").deliver()
    await scene.machine("two").deliver()
    await scene.until(lambda: scene.run("2").is_done)
    assert scene.run("2").verdict is Verdict.SUCCESS


async def test_outcomes_are_told_apart(scene: Scene) -> None:
    mixed = (
        b"<testsuites><testsuite>"
        b"<testcase name='p'/><testcase name='s'><skipped/></testcase>"
        b"<testcase name='e'><error>boom</error></testcase></testsuite></testsuites>"
    )
    await collect(scene, {"a.xml": mixed}, {})
    assert [case.outcome for case in results(scene).cases] == [Outcome.PASSED, Outcome.SKIPPED, Outcome.ERROR]
