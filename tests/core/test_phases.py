"""What a run does next: phase by phase, in every way in which a phase may end."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.core import phases
from paddock.core.command import Command, State
from paddock.core.job import Job, Limits, Phase, Step
from paddock.core.phases import Cancel, Enter, Finish, Order, Presence, Wait, advance
from paddock.core.run import STATE_OF, Run, Verdict

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
GRACE = timedelta(minutes=5)
HERE = Presence(is_connected=True)
TWO = {"one": HERE, "two": HERE}
SERVE = Step(name="serve", run="serve", on=("one",), background=True)
FETCH = Step(name="fetch", run="fetch", on=("two",))
BOTH = Step(name="both", run="both")
SAVE = Step(name="save", run="save")
JOB = Job(name="dsvm", environment="two-node", steps=(BOTH,), limits=Limits(main=timedelta(minutes=10)))


def run_in(phase: Phase, job: Job = JOB, **rest: Any) -> Run:
    return Run(
        id="1",
        round="1",
        job=job.name,
        spec=job,
        forge="review",
        project="p",
        number=1,
        patchset=1,
        created=T0,
        state=STATE_OF[phase],
        phase=phase,
        phase_since=T0,
        fence=2,
        environment="two-node-1",
        **rest,
    )


def command(step: int = 1, machine: str = "one", state: State = State.RUNNING, **rest: Any) -> Command:
    given: dict[str, Any] = {
        "id": f"{rest.get('phase', Phase.MAIN)}-{step}-{machine}",
        "agent": f"two-node-1.{machine}",
        "seq": step,
        "method": "script.run",
        "asked": T0,
        "phase": Phase.MAIN,
        **rest,
    }
    return Command(step=step, machine=machine, state=state, **given)


def exited(code: int, **rest: Any) -> Command:
    return command(state=State.COMPLETE, result={"exit": code}, **rest)


def failed(code: str, **rest: Any) -> Command:
    return command(state=State.FAILED, code=code, message="so it was", **rest)


def cancel_of(target: Command, *, asked: datetime = T0) -> Command:
    return replace(
        target, id=f"cancel-{target.id}", method=phases.CANCEL, target=target.id, state=State.COMPLETE, asked=asked
    )


def next_act(run: Run, *commands: Command, machines: Any = None, now: datetime = T0, **rest: Any) -> phases.Act:
    return advance(run, commands, TWO if machines is None else machines, grace=GRACE, now=now, **rest)


# --- hello ---


def test_a_run_waits_for_the_hello_of_every_machine() -> None:
    away = {"one": HERE, "two": Presence(is_connected=False, away=T0)}
    assert next_act(run_in(Phase.HELLO), machines=away) == Wait(until=T0 + timedelta(minutes=2))


def test_once_all_said_hello_the_sources_come() -> None:
    assert next_act(run_in(Phase.HELLO)) == Enter(phase=Phase.SOURCES)


def test_a_machine_that_never_says_hello_is_an_error_that_names_it() -> None:
    away = {"one": HERE, "two": Presence(is_connected=False, away=T0)}
    act = next_act(run_in(Phase.HELLO), machines=away, now=T0 + timedelta(minutes=2))
    assert act == Finish(verdict=Verdict.ERROR, reason="no hello from the agent of two within 2m 00s")


def test_a_run_cancelled_while_a_machine_is_silent_ends_at_once() -> None:
    away = {"one": HERE, "two": Presence(is_connected=False, away=T0)}
    run = run_in(Phase.HELLO, ending=Verdict.CANCELLED, reason="enough")
    assert next_act(run, machines=away) == Finish(verdict=Verdict.CANCELLED, reason="enough")


# --- sources ---


def test_a_job_without_sources_goes_on_to_before() -> None:
    assert next_act(run_in(Phase.SOURCES)) == Enter(phase=Phase.BEFORE)


def test_sources_are_checked_out_on_every_machine() -> None:
    assert next_act(run_in(Phase.SOURCES, replace(JOB, sources=True))) == Order(step=1, machines=("one", "two"))


@pytest.mark.parametrize("ended", [exited(128, phase=Phase.SOURCES), failed("timed_out", phase=Phase.SOURCES)])
def test_a_checkout_that_did_not_succeed_is_our_trouble_not_the_changes(ended: Command) -> None:
    act = next_act(run_in(Phase.SOURCES, replace(JOB, sources=True)), ended)
    assert isinstance(act, Enter)
    assert (act.phase, act.verdict) == (Phase.AFTER, Verdict.ERROR)


# --- steps, in before and main alike ---


@pytest.mark.parametrize(("phase", "following"), [(Phase.BEFORE, Phase.MAIN), (Phase.MAIN, Phase.AFTER)])
def test_a_phase_without_steps_leads_to_the_next(phase: Phase, following: Phase) -> None:
    assert next_act(run_in(phase, replace(JOB, steps=()))) == Enter(phase=following)


def test_a_step_without_names_runs_on_all_machines_at_once() -> None:
    assert next_act(run_in(Phase.MAIN)) == Order(step=1, machines=("one", "two"))


def test_a_step_runs_on_the_machines_that_it_names() -> None:
    assert next_act(run_in(Phase.MAIN, replace(JOB, steps=(FETCH,)))) == Order(step=1, machines=("two",))


def test_the_next_step_starts_when_all_have_ended() -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(BOTH, FETCH)))
    assert isinstance(next_act(run, exited(0), command(machine="two")), Wait)
    assert next_act(run, exited(0), exited(0, machine="two")) == Order(step=2, machines=("two",))


def test_while_a_step_runs_the_server_waits_for_limit_and_slack() -> None:
    assert next_act(run_in(Phase.MAIN), command()) == Wait(until=T0 + timedelta(minutes=10) + phases.SLACK)


@pytest.mark.parametrize("phase", [Phase.BEFORE, Phase.MAIN])
@pytest.mark.parametrize(
    ("ended", "verdict", "why"),
    [
        (exited(1), Verdict.FAILURE, "exited 1"),
        (command(state=State.COMPLETE, result={"signal": 9}), Verdict.FAILURE, "was ended by signal 9"),
        (failed("timed_out"), Verdict.TIMED_OUT, "was ended by its limit"),
        (failed("interrupted"), Verdict.ERROR, "did not run to its end: interrupted: so it was"),
        (failed("expired"), Verdict.ERROR, "did not run to its end: expired: so it was"),
        (failed("cancelled"), Verdict.ERROR, "did not run to its end: cancelled: so it was"),
    ],
)
def test_a_step_that_did_not_succeed_leads_to_after(phase: Phase, ended: Command, verdict: Verdict, why: str) -> None:
    run = run_in(phase, replace(JOB, before=(BOTH, FETCH), steps=(BOTH, FETCH)))
    act = next_act(run, replace(ended, phase=phase))
    assert act == Enter(phase=Phase.AFTER, verdict=verdict, reason=f"{phase} 1 (both) on one {why}")


def test_a_step_waits_for_its_other_machines_before_its_failure_counts() -> None:
    assert isinstance(next_act(run_in(Phase.MAIN), exited(1), command(machine="two")), Wait)


def test_a_command_that_runs_no_program_needs_no_exit_code() -> None:
    done = command(state=State.COMPLETE, method="file.put", result={"size": 1})
    assert next_act(run_in(Phase.MAIN), done) == Enter(phase=Phase.AFTER)


@pytest.mark.parametrize("result", [{}, {"exit": None}, {"exit": "0"}, {"exit": True}, {"exit": [0]}])
def test_a_program_whose_end_was_not_told_did_not_succeed(result: dict[str, object]) -> None:
    act = next_act(run_in(Phase.MAIN), command(state=State.COMPLETE, result=result))
    assert isinstance(act, Enter)
    assert (act.phase, act.verdict) == (Phase.AFTER, Verdict.ERROR)


def test_a_step_for_a_machine_that_the_environment_does_not_have_is_an_error_by_name() -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(Step(name="odd", run="x", on=("one", "three")),)))
    reason = "main 1 (odd): the environment has no machine three"
    assert next_act(run) == Enter(phase=Phase.AFTER, verdict=Verdict.ERROR, reason=reason)


def test_steps_on_a_mere_reservation_are_an_error_and_end() -> None:
    act = next_act(run_in(Phase.MAIN), machines={})
    assert isinstance(act, Enter)
    assert (act.phase, act.verdict) == (Phase.AFTER, Verdict.ERROR)
    assert next_act(run_in(Phase.AFTER, replace(JOB, after=(SAVE,))), machines={}) == Enter(phase=Phase.COLLECT)
    assert isinstance(next_act(run_in(Phase.COLLECT, replace(JOB, artifacts=("*",))), machines={}), Finish)


@pytest.mark.parametrize(
    ("phase", "following"), [(Phase.SOURCES, Phase.AFTER), (Phase.MAIN, Phase.AFTER), (Phase.AFTER, Phase.COLLECT)]
)
def test_an_agent_that_does_not_keep_the_limit_costs_the_verdict_but_not_what_comes_after(
    phase: Phase, following: Phase
) -> None:
    run = run_in(phase, replace(JOB, sources=True, after=(SAVE,)))
    late = T0 + run.spec.limits.of(phase) + phases.SLACK
    act = next_act(run, command(phase=phase), now=late)
    assert act == Enter(
        phase=following, verdict=Verdict.ERROR, reason=f"{phase} did not end on one within its limit and 30s"
    )


# --- background ---


def test_the_next_step_waits_until_a_background_step_has_started() -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(SERVE, FETCH)))
    assert isinstance(next_act(run, command(state=State.ACCEPTED, background=True)), Wait)
    assert next_act(run, command(background=True)) == Order(step=2, machines=("two",))


def test_background_steps_are_ended_after_main() -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(SERVE, FETCH)))
    serving, fetched = command(background=True), exited(0, step=2, machine="two")
    assert next_act(run, serving, fetched) == Cancel(commands=(serving.id,))
    assert isinstance(next_act(run, serving, fetched, cancel_of(serving)), Wait)
    over = replace(serving, state=State.FAILED, code="cancelled", started=T0)
    assert next_act(run, over, fetched, cancel_of(serving)) == Enter(phase=Phase.AFTER)


def test_a_background_step_of_before_runs_on_through_main_and_is_ended_after_it() -> None:
    job = replace(JOB, before=(SERVE,), steps=(FETCH,))
    serving = command(background=True, phase=Phase.BEFORE)
    assert next_act(run_in(Phase.BEFORE, job), serving) == Enter(phase=Phase.MAIN)
    assert next_act(run_in(Phase.MAIN, job), serving) == Order(step=1, machines=("two",))
    assert next_act(run_in(Phase.MAIN, job), serving, exited(0, machine="two")) == Cancel(commands=(serving.id,))


def test_when_before_does_not_succeed_its_background_steps_are_ended() -> None:
    job = replace(JOB, before=(SERVE, FETCH))
    serving = command(background=True, phase=Phase.BEFORE)
    act = next_act(run_in(Phase.BEFORE, job), serving, exited(1, step=2, machine="two", phase=Phase.BEFORE))
    assert act == Cancel(commands=(serving.id,))


@pytest.mark.parametrize(
    "ended",
    [
        exited(1, background=True),
        command(state=State.COMPLETE, result={"signal": 15}, background=True),
        failed("interrupted", background=True, started=T0),
        failed("timed_out", background=True, started=T0),
    ],
)
def test_a_background_step_that_dies_is_no_failure(ended: Command) -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(SERVE, FETCH)))
    assert next_act(run, ended) == Order(step=2, machines=("two",))


def test_a_background_step_that_did_not_start_is_an_error() -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(SERVE, FETCH)))
    act = next_act(run, failed("failed", background=True))
    assert isinstance(act, Enter)
    assert (act.phase, act.verdict) == (Phase.AFTER, Verdict.ERROR)


def test_a_background_step_that_nobody_can_end_is_left_behind_in_the_end() -> None:
    run = run_in(Phase.MAIN, replace(JOB, steps=(SERVE,)))
    serving = command(background=True)
    act = next_act(run, serving, cancel_of(serving), now=T0 + phases.CANCEL_SLACK)
    reason = "what was cancelled on one did not end within 1m 00s"
    assert act == Enter(phase=Phase.AFTER, verdict=Verdict.ERROR, reason=reason)


# --- after and collect happen in every outcome ---


@pytest.mark.parametrize("verdict", [None, Verdict.FAILURE, Verdict.ERROR, Verdict.TIMED_OUT])
@pytest.mark.parametrize("ending", [None, Verdict.CANCELLED, Verdict.SUPERSEDED])
def test_after_happens_whatever_came_before(verdict: Verdict | None, ending: Verdict | None) -> None:
    run = run_in(Phase.AFTER, replace(JOB, after=(SAVE,)), verdict=verdict, ending=ending)
    assert next_act(run) == Order(step=1, machines=("one", "two"))


def test_a_step_of_after_that_does_not_succeed_keeps_no_other_from_running() -> None:
    run = run_in(Phase.AFTER, replace(JOB, after=(SAVE, FETCH)))
    assert next_act(run, exited(1, phase=Phase.AFTER)) == Order(step=2, machines=("two",))


def test_a_failure_in_after_is_the_verdict_of_a_run_that_was_good_so_far() -> None:
    run = run_in(Phase.AFTER, replace(JOB, after=(SAVE,)))
    act = next_act(run, exited(3, phase=Phase.AFTER))
    assert act == Enter(phase=Phase.COLLECT, verdict=Verdict.FAILURE, reason="after 1 (save) on one exited 3")


def test_a_failure_in_after_does_not_hide_what_went_wrong_before() -> None:
    run = run_in(Phase.AFTER, replace(JOB, after=(SAVE,)), verdict=Verdict.TIMED_OUT, reason="slow")
    act = next_act(run, exited(3, phase=Phase.AFTER))
    assert act == Enter(phase=Phase.COLLECT, verdict=Verdict.TIMED_OUT, reason="slow")


@pytest.mark.parametrize("verdict", [None, *Verdict])
def test_collecting_happens_whatever_came_before(verdict: Verdict | None) -> None:
    run = run_in(Phase.COLLECT, replace(JOB, results=("*.xml",), artifacts=("logs/**",)), verdict=verdict)
    assert next_act(run) == Order(step=1, machines=("one", "two"))
    asked = command(1, phase=Phase.COLLECT)
    assert next_act(run, asked) == Order(step=2, machines=("one", "two"))


def test_a_run_without_anything_to_collect_is_a_success() -> None:
    assert next_act(run_in(Phase.COLLECT)) == Finish(verdict=Verdict.SUCCESS)


def test_output_that_has_not_arrived_is_waited_for() -> None:
    run = run_in(Phase.COLLECT)
    assert next_act(run, missing=["logs/a"]) == Wait(until=T0 + timedelta(minutes=5) + phases.SLACK)


def test_output_that_never_arrives_is_an_error_that_names_it() -> None:
    late = T0 + timedelta(minutes=5) + phases.SLACK
    act = next_act(run_in(Phase.COLLECT), missing=["logs/a", "logs/b"], now=late)
    assert act == Finish(verdict=Verdict.ERROR, reason="output did not arrive: logs/a, logs/b")


def test_a_machine_that_cannot_be_collected_from_makes_a_good_run_an_error() -> None:
    run = run_in(Phase.COLLECT, replace(JOB, artifacts=("*",)))
    act = next_act(run, failed("interrupted", phase=Phase.COLLECT, step=2))
    reason = "collecting from one did not succeed: interrupted: so it was"
    assert act == Finish(verdict=Verdict.ERROR, reason=reason)


def test_a_machine_that_cannot_be_collected_from_does_not_change_a_bad_runs_verdict() -> None:
    run = run_in(Phase.COLLECT, replace(JOB, artifacts=("*",)), verdict=Verdict.FAILURE, reason="main 1")
    act = next_act(run, failed("interrupted", phase=Phase.COLLECT, step=2))
    assert act == Finish(verdict=Verdict.FAILURE, reason="main 1")


def test_collecting_that_does_not_end_is_ended_by_its_limit() -> None:
    run = run_in(Phase.COLLECT, replace(JOB, artifacts=("*",)))
    late = T0 + timedelta(minutes=5) + phases.SLACK
    act = next_act(run, command(2, phase=Phase.COLLECT), now=late)
    assert act == Finish(verdict=Verdict.ERROR, reason="collect did not end on one within its limit and 30s")


# --- asked to end ---


@pytest.mark.parametrize("ending", [Verdict.CANCELLED, Verdict.SUPERSEDED])
@pytest.mark.parametrize("phase", [Phase.SOURCES, Phase.BEFORE, Phase.MAIN])
def test_a_run_that_is_to_end_has_its_trees_ended_and_goes_to_after(phase: Phase, ending: Verdict) -> None:
    job = replace(JOB, sources=True, before=(BOTH, FETCH), steps=(BOTH, FETCH))
    run = run_in(phase, job, ending=ending, reason="enough")
    running = command(phase=phase)
    assert next_act(run, running) == Cancel(commands=(running.id,))
    assert isinstance(next_act(run, running, cancel_of(running)), Wait)
    over = replace(running, state=State.FAILED, code="cancelled")
    act = next_act(run, over, cancel_of(running))
    assert act == Enter(phase=Phase.AFTER, verdict=ending, reason="enough")


def test_no_step_is_started_in_a_run_that_is_to_end() -> None:
    run = run_in(Phase.MAIN, ending=Verdict.CANCELLED, reason="enough")
    assert next_act(run) == Enter(phase=Phase.AFTER, verdict=Verdict.CANCELLED, reason="enough")


def test_what_cannot_be_cancelled_is_not_waited_for_until_the_phases_limit() -> None:
    run = run_in(Phase.MAIN, ending=Verdict.CANCELLED, reason="enough")
    running = command()
    act = next_act(run, running, cancel_of(running), now=T0 + phases.CANCEL_SLACK)
    assert act == Enter(phase=Phase.AFTER, verdict=Verdict.CANCELLED, reason="enough")


@pytest.mark.parametrize("phase", [Phase.AFTER, Phase.COLLECT])
def test_a_run_cancelled_near_its_end_is_cancelled_and_ends_in_order(phase: Phase) -> None:
    run = run_in(phase, replace(JOB, after=(SAVE,)), ending=Verdict.CANCELLED, reason="enough")
    if phase is Phase.AFTER:
        assert isinstance(next_act(run, command(phase=phase)), Wait)
        act = next_act(run, exited(0, phase=phase))
        assert act == Enter(phase=Phase.COLLECT, verdict=Verdict.CANCELLED, reason="enough")
    else:
        assert next_act(run) == Finish(verdict=Verdict.CANCELLED, reason="enough")


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("ending", [Verdict.ERROR, Verdict.LEASE_LOST])
def test_a_run_whose_environment_is_gone_ends_at_once(phase: Phase, ending: Verdict) -> None:
    run = run_in(phase, replace(JOB, after=(SAVE,)), ending=ending, reason="host local is lost")
    assert next_act(run, command(phase=phase)) == Finish(verdict=ending, reason="host local is lost")


def test_a_run_that_had_failed_when_its_environment_went_stays_failed() -> None:
    run = run_in(Phase.AFTER, verdict=Verdict.FAILURE, reason="main 1", ending=Verdict.ERROR)
    assert next_act(run) == Finish(verdict=Verdict.FAILURE, reason="main 1")


# --- agents that are away ---


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.HELLO])
def test_a_machine_that_is_away_past_its_grace_is_lost_and_the_run_an_error(phase: Phase) -> None:
    gone = {"one": HERE, "two": Presence(is_connected=False, away=T0)}
    act = next_act(run_in(phase), command(machine="two", phase=phase), machines=gone, now=T0 + GRACE)
    assert act == Finish(verdict=Verdict.ERROR, reason="the agent of two has been away since 12:00:00 UTC")


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.HELLO])
def test_a_run_looks_again_when_the_grace_of_an_absent_machine_ends(phase: Phase) -> None:
    gone = {"one": HERE, "two": Presence(is_connected=False, away=T0 - timedelta(minutes=4))}
    run = run_in(phase, replace(JOB, artifacts=("*",), limits=Limits(main=timedelta(hours=3))))
    waiting = [command(phase=phase, step=step) for step in (1, 2)]
    assert next_act(run, *waiting, machines=gone) == Wait(until=T0 + timedelta(minutes=1))


@pytest.mark.parametrize(("passed", "left"), [(0, 600), (599, 1), (700, 1), (599.9, 1)])
def test_a_step_is_given_what_is_left_of_its_phases_limit(passed: float, left: int) -> None:
    assert phases.remaining(run_in(Phase.MAIN), now=T0 + timedelta(seconds=passed)) == left


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("ending", [None, Verdict.CANCELLED, Verdict.ERROR])
@pytest.mark.parametrize("state", list(State))
def test_in_every_phase_and_state_there_is_a_next_act_and_none_waits_for_the_past(
    phase: Phase, ending: Verdict | None, state: State
) -> None:
    job = replace(JOB, sources=True, before=(BOTH,), after=(SAVE,), results=("*",), artifacts=("*",))
    run = run_in(phase, job, ending=ending)
    for now in (T0, T0 + timedelta(hours=2)):
        act = next_act(run, command(phase=phase, state=state, code="failed"), now=now)
        assert not isinstance(act, Wait) or act.until > now
