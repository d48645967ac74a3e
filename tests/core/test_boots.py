"""Steps that boot machines: done under a new boot id, waited for as long as they say, and what is off stays off."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from paddock.core.command import Command, State
from paddock.core.job import Job, Limits, Phase, Step, StepKind
from paddock.core.phases import CONSOLE, POWER, REBOOT, SLACK, Enter, Finish, Order, Presence, Wait, advance
from paddock.core.run import STATE_OF, Run, Verdict

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
GRACE = timedelta(minutes=1)
WITHIN = timedelta(minutes=5)
BOOT = Step(name="reboot", run="", kind=StepKind.REBOOT, within=WITHIN, on=("one",))
RESET = Step(name="reset", run="", kind=StepKind.POWER, power="reset", within=WITHIN, on=("one",))
OFF = Step(name="off", run="", kind=StepKind.POWER, power="off", within=WITHIN, on=("one",))
CHECK = Step(name="check", run="check")
HERE = Presence(is_connected=True, boot_id="b1")
AGAIN = Presence(is_connected=True, boot_id="b2")
AWAY = Presence(is_connected=False, away=T0, boot_id="b1")


def run(*steps: Step, phase: Phase = Phase.MAIN, **rest: Any) -> Run:
    job = Job(name="j", environment="e", steps=steps, after=(CHECK,), limits=Limits(main=timedelta(hours=1)))
    return Run(
        id="1",
        round="1",
        job="j",
        spec=job,
        forge="review",
        project="p",
        number=1,
        patchset=1,
        created=T0,
        state=STATE_OF[phase],
        phase=phase,
        phase_since=T0,
        **rest,
    )


def boot(method: str = REBOOT, state: State = State.RUNNING, **rest: Any) -> Command:
    given: dict[str, Any] = {"machine": "one", "phase": Phase.MAIN, "step": 1, **rest}
    return Command(id="c1", agent="a", seq=1, method=method, asked=T0, state=state, **given)


def act(of: Run, commands: list[Command], one: Presence, *, minutes: float = 0, two: Presence = HERE) -> Any:
    return advance(of, commands, {"one": one, "two": two}, grace=GRACE, now=T0 + timedelta(minutes=minutes))


def test_a_machine_that_reboots_is_not_lost_however_short_the_grace() -> None:
    found = act(run(BOOT, CHECK), [boot()], AWAY, minutes=4)
    assert found == Wait(until=T0 + WITHIN + SLACK)


def test_another_machine_that_goes_away_meanwhile_is_lost() -> None:
    found = act(run(BOOT, CHECK), [boot()], HERE, two=AWAY, minutes=4)
    assert isinstance(found, Finish)
    assert found.reason == "the agent of two has been away since 12:00:00 UTC"


def test_the_next_step_follows_once_it_is_back() -> None:
    done = boot(state=State.COMPLETE, result={"booted": True})
    assert act(run(BOOT, CHECK), [done], AGAIN, minutes=4) == Order(step=2, machines=("one", "two"))


def test_one_that_does_not_come_back_within_its_time_costs_the_verdict_and_after_happens() -> None:
    found = act(run(BOOT, CHECK), [boot()], AWAY, minutes=5.5)
    reason = "main 1 (reboot): one did not come back within 5m 00s"
    assert found == Enter(phase=Phase.AFTER, verdict=Verdict.TIMED_OUT, reason=reason)


def test_a_button_is_pressed_at_once_but_the_step_ends_with_the_new_boot() -> None:
    pressed = boot(POWER, State.COMPLETE, target="b1", result={"power": "on"})
    waiting = Wait(until=T0 + WITHIN + SLACK)
    # Its old session may not have noticed yet.
    assert act(run(RESET, CHECK), [pressed], HERE) == waiting
    assert act(run(RESET, CHECK), [pressed], AWAY, minutes=3) == waiting
    assert act(run(RESET, CHECK), [pressed], replace(AGAIN, is_connected=False), minutes=3) == waiting
    assert act(run(RESET, CHECK), [pressed], AGAIN, minutes=3) == Order(step=2, machines=("one", "two"))


def test_a_machine_that_was_reset_and_stays_away_is_told() -> None:
    pressed = boot(POWER, State.COMPLETE, target="b1", result={"power": "on"})
    found = act(run(RESET), [pressed], AWAY, minutes=5.5)
    assert (found.verdict, found.phase) == (Verdict.TIMED_OUT, Phase.AFTER)


def test_a_machine_that_a_step_switched_off_is_not_lost_and_nothing_is_asked_of_it_in_the_end() -> None:
    off = boot(POWER, State.COMPLETE, target="b1", result={"power": "off"})
    found = act(run(OFF, replace(CHECK, on=("two",))), [off], AWAY, minutes=30)
    assert found == Order(step=2, machines=("two",))
    assert act(run(OFF, phase=Phase.AFTER), [off], AWAY, minutes=30) == Order(step=1, machines=("two",))


def test_one_that_is_switched_on_again_is_looked_after_again() -> None:
    off = boot(POWER, State.COMPLETE, target="b1", result={"power": "off"})
    on = boot(POWER, State.COMPLETE, step=2, target="b1", result={"power": "on"})
    steps = (OFF, replace(RESET, power="on"), CHECK)
    assert act(run(*steps), [off, on], AGAIN) == Order(step=3, machines=("one", "two"))
    assert isinstance(act(run(*steps), [off, on], replace(AWAY, boot_id="b2"), minutes=7), Enter)


def test_a_button_that_cannot_be_pressed_is_our_error() -> None:
    failed = boot(POWER, State.FAILED, code="failed", message="no such machine")
    found = act(run(RESET), [failed], HERE)
    assert (found.verdict, found.reason) == (
        Verdict.ERROR,
        "main 1 (reset) on one did not run to its end: failed: no such machine",
    )


def test_a_run_that_is_cancelled_does_not_wait_for_a_machine_to_come_back() -> None:
    pressed = boot(POWER, State.COMPLETE, target="b1", result={"power": "on"})
    found = act(run(RESET, ending=Verdict.CANCELLED), [pressed], HERE)
    assert found == Enter(phase=Phase.AFTER, verdict=Verdict.CANCELLED, reason="")


def test_a_console_decides_nothing() -> None:
    for state in State:
        console = Command(
            id="c9",
            agent="h",
            seq=1,
            method=CONSOLE,
            asked=T0,
            machine="one",
            state=state,
            code="failed",
            background=True,
        )
        assert act(run(CHECK), [console], HERE) == Order(step=1, machines=("one", "two"))
        assert act(run(phase=Phase.COLLECT), [console], HERE) == Finish(verdict=Verdict.SUCCESS)
