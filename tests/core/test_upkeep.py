"""What an environment needs from its host: asked for until every machine has it, or given up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from paddock.core.command import Command, State
from paddock.core.environment import Environment, Machine
from paddock.core.upkeep import BUILD, CLEAN, DESTROY, INTERRUPTIONS, Ask, Done, GiveUp, Unbuilt, Waiting, progress

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ENVIRONMENT = Environment(
    id="two-node-1",
    pool="two-node",
    host="local",
    since=T0,
    fence=3,
    machines=(Machine(name="one", agent="a"), Machine(name="two", agent="b")),
)


def tried(machine: str, state: State, code: str = "", *, method: str = CLEAN, fence: int = 3) -> Command:
    return Command(
        id=f"{machine}-{state}-{code}",
        agent="h",
        seq=1,
        method=method,
        asked=T0,
        machine=machine,
        fence=fence,
        state=state,
        code=code,
        message="so it was",
        ended=None if state in (State.SENT, State.RUNNING) else T0,
    )


def test_every_machine_is_asked_for_at_first() -> None:
    assert progress(ENVIRONMENT, CLEAN, [], now=T0) == Ask(machines=("one", "two"))


def test_what_is_under_way_is_waited_for() -> None:
    tries = [tried("one", State.COMPLETE), tried("two", State.RUNNING)]
    assert progress(ENVIRONMENT, CLEAN, tries, now=T0) == Waiting()


def test_done_is_when_every_machine_is() -> None:
    tries = [tried("one", State.COMPLETE), tried("two", State.COMPLETE)]
    assert progress(ENVIRONMENT, CLEAN, tries, now=T0) == Done(commands=tuple(tries))


def test_what_was_done_under_another_fence_proves_nothing() -> None:
    tries = [tried("one", State.COMPLETE, fence=2), tried("two", State.COMPLETE, fence=2)]
    assert progress(ENVIRONMENT, CLEAN, tries, now=T0) == Ask(machines=("one", "two"))


def test_another_method_proves_nothing() -> None:
    tries = [tried("one", State.COMPLETE, method=BUILD), tried("two", State.COMPLETE, method=BUILD)]
    assert progress(ENVIRONMENT, CLEAN, tries, now=T0) == Ask(machines=("one", "two"))


@pytest.mark.parametrize("code", ["interrupted", "expired"])
def test_what_was_interrupted_is_asked_for_again_at_once(code: str) -> None:
    tries = [tried("one", State.FAILED, code), tried("two", State.COMPLETE)]
    assert progress(ENVIRONMENT, CLEAN, tries, now=T0) == Ask(machines=("one",))


def test_a_busy_host_is_left_alone_for_longer_each_time() -> None:
    busy = tried("one", State.FAILED, "busy")
    done = tried("two", State.COMPLETE)
    assert progress(ENVIRONMENT, CLEAN, [busy, done], now=T0) == Waiting(until=T0 + timedelta(seconds=1))
    assert progress(ENVIRONMENT, CLEAN, [busy, done], now=T0 + timedelta(seconds=1)) == Ask(machines=("one",))
    assert progress(ENVIRONMENT, CLEAN, [busy, busy, busy, done], now=T0) == Waiting(until=T0 + timedelta(seconds=4))


def test_a_busy_machine_does_not_keep_the_other_from_being_asked() -> None:
    assert progress(ENVIRONMENT, CLEAN, [tried("one", State.FAILED, "busy")], now=T0) == Ask(machines=("two",))


@pytest.mark.parametrize(("method", "tries"), [(BUILD, 3), (CLEAN, 1), (DESTROY, 1)])
def test_an_answer_that_means_it_is_taken_so_often_and_no_more(method: str, tries: int) -> None:
    no = tried("one", State.FAILED, "failed", method=method)
    yes = tried("two", State.COMPLETE, method=method)
    if tries > 1:
        assert progress(ENVIRONMENT, method, [*[no] * (tries - 1), yes], now=T0) == Ask(machines=("one",))
    given_up = GiveUp(reason=f"one: {method} failed: so it was")
    assert progress(ENVIRONMENT, method, [*[no] * tries, yes], now=T0) == given_up


@pytest.mark.parametrize("method", [BUILD, CLEAN])
def test_what_is_to_be_built_first_is_no_attempt(method: str) -> None:
    no = tried("two", State.FAILED, "unbuilt", method=method)
    yes = tried("one", State.COMPLETE, method=method)
    assert progress(ENVIRONMENT, method, [yes, no], now=T0) == Unbuilt(machines=("two",))
    assert progress(ENVIRONMENT, method, [no], now=T0) == Unbuilt(machines=("two",))


def test_what_makes_nothing_can_lack_nothing() -> None:
    no = tried("two", State.FAILED, "unbuilt", method=DESTROY)
    assert isinstance(progress(ENVIRONMENT, DESTROY, [no], now=T0), GiveUp)


def test_a_host_that_is_always_interrupted_is_given_up_in_the_end() -> None:
    tries = [tried("one", State.FAILED, "interrupted")] * INTERRUPTIONS
    assert isinstance(progress(ENVIRONMENT, CLEAN, tries, now=T0), GiveUp)


def test_a_mere_reservation_needs_nothing() -> None:
    assert progress(replace(ENVIRONMENT, machines=()), CLEAN, [], now=T0) == Done(commands=())
