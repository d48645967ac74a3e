"""Environments: everything lent comes back dirty, and the fence rises with every change of owner."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from paddock.core import environment as environments
from paddock.core.environment import CHANGES_OWNER, LIFECYCLE, Environment, Signal, State
from paddock.core.errors import Refused

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
LATER = T0 + timedelta(minutes=3)


def one(state: State = State.READY, fence: int = 4) -> Environment:
    return Environment(id="two-node-1", pool="two-node", host="local", since=T0, state=state, fence=fence)


def ways(environment: Environment, depth: int) -> Iterator[list[Environment]]:
    """Every way of `depth` steps through the table."""
    if depth == 0:
        yield [environment]
        return
    for state, signal in LIFECYCLE.steps:
        if state is environment.state:
            for rest in ways(environments.move(environment, signal, now=LATER), depth - 1):
                yield [environment, *rest]


@pytest.mark.parametrize(("state", "signal"), list(LIFECYCLE.steps))
def test_the_fence_rises_exactly_where_the_owner_changes(state: State, signal: Signal) -> None:
    moved = environments.move(one(state), signal, now=LATER)
    assert moved.fence == (5 if signal in CHANGES_OWNER else 4)
    assert moved.since == LATER


@pytest.mark.parametrize(
    ("state", "signal", "places"),
    [
        (State.READY, Signal.HOLD, "hold applies to leased, held or saved"),
        (State.READY, Signal.CLEANED, "cleaned applies to cleaning"),
        (State.GONE, Signal.CLEAN, "clean applies to ready, dirty, broken or quarantined"),
    ],
)
def test_a_step_that_leads_nowhere_is_refused_with_the_name_and_where_it_would(
    state: State, signal: Signal, places: str
) -> None:
    with pytest.raises(Refused) as refused:
        environments.move(one(state), signal, now=LATER)
    assert refused.value.message == f"environment two-node-1: it is {state}, and {places}"


def test_on_no_way_does_a_fence_fall() -> None:
    for way in ways(one(State.REQUESTED, fence=1), 5):
        fences = [step.fence for step in way]
        assert fences == sorted(fences)


def test_no_way_leads_from_lent_to_ready_but_through_cleaning() -> None:
    for way in ways(one(State.LEASED), 5):
        states = [step.state for step in way]
        if State.READY in states:
            assert State.CLEANING in states[: states.index(State.READY)]


def test_a_grant_and_the_next_never_have_one_fence() -> None:
    for way in ways(one(State.READY), 4):
        grants = [step.fence for step in way if step.state is State.LEASED]
        assert len(grants) == len(set(grants))


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("signal", list(Signal))
def test_what_the_table_does_not_list_is_refused(state: State, signal: Signal) -> None:
    if (state, signal) in LIFECYCLE.steps:
        assert LIFECYCLE.allows(state, signal)
    else:
        with pytest.raises(Refused):
            environments.move(one(state), signal, now=LATER)


def test_a_released_environment_is_dirty_not_ready() -> None:
    assert environments.move(one(State.LEASED), Signal.RELEASE, now=LATER).state is State.DIRTY


def test_building_ends_before_anything_is_lent() -> None:
    assert not LIFECYCLE.allows(State.REQUESTED, Signal.LEASE)
    assert not LIFECYCLE.allows(State.BUILDING, Signal.LEASE)


def test_a_hold_has_an_owner_an_end_and_a_fence_of_its_own() -> None:
    held = environments.hold(one(State.LEASED), by="anna", ttl=timedelta(hours=2), now=LATER)
    assert (held.state, held.held_by, held.hold_until, held.lease, held.fence) == (
        State.HELD,
        "anna",
        LATER + timedelta(hours=2),
        "",
        5,
    )


def test_only_what_is_lent_or_held_can_be_held() -> None:
    with pytest.raises(Refused):
        environments.hold(one(State.READY), by="anna", ttl=timedelta(hours=2), now=LATER)


def test_whatever_breaks_comes_back_through_cleaning_or_not_at_all() -> None:
    assert {after for (state, _), after in LIFECYCLE.steps.items() if state is State.BROKEN} == {
        State.CLEANING,
        State.QUARANTINED,
    }
