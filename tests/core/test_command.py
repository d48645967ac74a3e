"""The life of a command: forward only, ended once, told again without harm."""

from datetime import UTC, datetime

import pytest

from paddock.core.command import LIFECYCLE, OPEN, Command, Signal, State
from paddock.core.errors import Refused

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ORDER = [State.QUEUED, State.SENT, State.ACCEPTED, State.RUNNING, State.COMPLETE]


def command(**rest: object) -> Command:
    return Command(id="c", agent="a", seq=1, method="script.run", asked=T0, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "signal"), list(LIFECYCLE.steps))
def test_a_command_never_goes_back(state: State, signal: Signal) -> None:
    after = LIFECYCLE.steps[state, signal]
    if after is not State.FAILED:
        assert ORDER.index(after) >= ORDER.index(state)


@pytest.mark.parametrize("signal", list(Signal))
@pytest.mark.parametrize("state", [State.COMPLETE, State.FAILED])
def test_what_ended_does_not_move_again(state: State, signal: Signal) -> None:
    with pytest.raises(Refused):
        LIFECYCLE.step(state, signal)


def test_nothing_is_accepted_or_done_that_was_not_sent() -> None:
    for signal in (Signal.ACCEPT, Signal.PROGRESS, Signal.COMPLETE):
        with pytest.raises(Refused):
            LIFECYCLE.step(State.QUEUED, signal)


@pytest.mark.parametrize("state", list(OPEN))
def test_whatever_is_open_can_fail(state: State) -> None:
    assert LIFECYCLE.step(state, Signal.FAIL) is State.FAILED


def test_a_late_acceptance_does_not_set_a_running_task_back() -> None:
    assert LIFECYCLE.step(State.RUNNING, Signal.ACCEPT) is State.RUNNING


@pytest.mark.parametrize(("result", "code"), [({"exit": 3}, 3), ({}, None), ({"exit": "3"}, None)])
def test_only_a_number_is_an_exit_code(result: dict[str, object], code: int | None) -> None:
    assert command(result=result).exit == code
