"""Each check fails for what it is there to find."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from paddock.chaos import checks, counting
from paddock.chaos.checks import Evidence, checked, misprint
from paddock.chaos.giving import Given
from paddock.chaos.orders import UNCOUNTED, Kind, Order, content

ONCE, FINAL, PROVEN, REFUSED, LOST, PRINTED, PUT, RUNS, LEFT = (
    "every id was executed at most once",
    "every id has one final state, and keeps it",
    "what is complete was executed, exactly once",
    "what was refused was not executed",
    "nothing that was accepted was lost without a cause",
    "no byte of output is missing, none is invented",
    "no file that was put is missing or half",
    "nothing runs that should not",
    "no file and no descriptor is left behind",
)


def end(state: str = "complete", **rest: Any) -> dict[str, Any]:
    return {"state": state, "code": "", "message": "", "exit": 0, "result": {}, "outputs": {"out": 0}, **rest}


def given(kind: Kind = Kind.SHORT, told: Mapping[str, Any] | None = None, **rest: Any) -> Given:
    order = Order(id="c1", kind=kind, method="script.run", params={}, **rest)
    one = Given(order=order, given=10.0)
    if told is not None:
        one.hear(told)
        one.ended = 20.0
    return one


GOOD = Evidence(
    given={"c1": given(told=end())},
    witness={"c1": 1},
    unknown=frozenset(),
    unsettled=(),
    refused=(),
    said_again=frozenset(),
    printed={},
    files={},
    troubles=(),
    processes=(),
    left=(),
)


def failing(found: Evidence) -> set[str]:
    return {check.name for check in checked(found) if not check.holds}


def of(kind: Kind = Kind.SHORT, told: Mapping[str, Any] | None = None, *, count: int = 1, **rest: Any) -> Evidence:
    return replace(GOOD, given={"c1": given(kind, told, **rest)}, witness={"c1": count} if count else {})


def test_what_went_well_fails_nothing() -> None:
    assert failing(GOOD) == set()


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (replace(GOOD, witness={"c1": 2}), ONCE),
        (replace(GOOD, witness={"c1": 1, "other": 1}), ONCE),
        (replace(GOOD, unsettled=("c1",)), FINAL),
        (replace(GOOD, unknown=frozenset({"c1"})), FINAL),
        (replace(GOOD, refused=("c1: 409 this id was given to another command",)), FINAL),
        (of(told=None), FINAL),
        (of(told=end(), count=0), PROVEN),
        (of(told=end(exit=3)), PROVEN),
        (of(Kind.LATE, end()), PROVEN),
        (of(told=end("failed", code="busy", exit=None)), REFUSED),
        (of(told=end("failed", code="expired", exit=None)), REFUSED),
        (of(told=end("failed", code="failed", exit=None)), LOST),
        (of(told=end("failed", code="interrupted", exit=None)), LOST),
        (of(Kind.SLEEPS, end("failed", code="timed_out", exit=None)), LOST),
        (replace(GOOD, printed={"c1": "5 bytes are missing"}), PRINTED),
        (replace(of(Kind.PUTS, end(), count=0), files={}), PUT),
        (replace(of(Kind.PUTS, end(), count=0), files={"c1": content("c1")[:-1]}), PUT),
        (replace(GOOD, processes=("sleep 60",)), RUNS),
        (replace(GOOD, left=("file c1/",)), LEFT),
    ],
)
def test_each_check_finds_what_it_is_there_for(found: Evidence, name: str) -> None:
    assert name in failing(found)


def test_an_end_that_changes_is_found() -> None:
    one = given(told=end())
    one.hear(end("failed", code="interrupted"))
    assert failing(replace(GOOD, given={"c1": one})) == {FINAL}


def test_an_end_that_is_taken_back_is_found() -> None:
    one = given(told=end())
    one.hear(end("running"))
    assert failing(replace(GOOD, given={"c1": one})) == {FINAL}


@pytest.mark.parametrize(
    "found",
    [
        of(told=end("failed", code="busy", exit=None), count=0),
        of(told=end(exit=UNCOUNTED), count=0),
        of(Kind.LATE, end("failed", code="timed_out", exit=None)),
        of(Kind.CANCELLED, end("failed", code="cancelled", exit=None), count=0),
        of(Kind.FAILS, end(exit=7), exit=7),
        replace(of(Kind.PUTS, end(), count=0), files={"c1": content("c1")}),
        replace(of(Kind.PUTS, end("failed", code="interrupted"), count=0), files={}),
    ],
)
def test_what_is_meant_to_end_like_that_fails_nothing(found: Evidence) -> None:
    assert failing(found) == set()


@pytest.mark.parametrize(
    ("trouble", "is_cause"), [((5, 9), False), ((5, 11), True), ((19, 30), True), ((21, 30), False)]
)
def test_only_a_trouble_that_it_met_excuses_an_interrupted_command(
    trouble: tuple[float, float], is_cause: bool
) -> None:
    found = replace(of(told=end("failed", code="interrupted", exit=None)), troubles=(trouble,))
    assert failing(found) == (set() if is_cause else {LOST})


PATTERN = (b"c1\n" * 100)[:100]


def printer(told: Mapping[str, Any]) -> Given:
    return given(Kind.PRINTS, told, size=100)


@pytest.mark.parametrize(
    ("printed", "told", "is_right"),
    [
        (PATTERN, end(outputs={"out": 100}), True),
        (PATTERN[:99], end(outputs={"out": 100}), False),
        (PATTERN[:99], end(outputs={"out": 99}), False),
        (PATTERN[:50] + b"x" + PATTERN[51:], end(outputs={"out": 100}), False),
        (PATTERN + b"c", end(outputs={"out": 101}), False),
        (PATTERN[:60], end("failed", code="interrupted", outputs={"out": 60}), True),
        (b"x" * 60, end("failed", code="interrupted", outputs={"out": 60}), False),
        (b"", end(result={"dropped": 100}), True),
        (b"", end(result={"dropped": 99}), False),
        (PATTERN[:60] + b"\n[paddock: 40 bytes", end(result={"dropped": 40}, outputs={"out": 79}), True),
        (b"xy" + PATTERN[:60] + b"\n[paddock: 40 bytes", end(result={"dropped": 40}, outputs={"out": 81}), False),
    ],
)
def test_output_is_compared_byte_by_byte(printed: bytes, told: Mapping[str, Any], is_right: bool) -> None:
    assert (misprint(printed, printer(told), is_said_again=False) == "") is is_right


BUSY = end("failed", code="busy", exit=None, outputs={})


@pytest.mark.parametrize("printed", [b"", PATTERN[:60], PATTERN])
@pytest.mark.parametrize("code", ["busy", "expired", "refused", "stale"])
def test_what_a_refused_command_prints_that_the_proxy_said_again_is_no_invention(printed: bytes, code: str) -> None:
    assert misprint(printed, printer({**BUSY, "code": code}), is_said_again=True) == ""


def test_what_a_refused_command_prints_that_nobody_said_again_is_one() -> None:
    assert misprint(PATTERN, printer(BUSY), is_said_again=False) == "the server has 100 bytes, the agent told of 0"


def test_other_bytes_are_an_invention_whoever_said_the_command() -> None:
    assert misprint(b"x" * 60, printer(BUSY), is_said_again=True)
    assert misprint(PATTERN + b"c", printer(BUSY), is_said_again=True)


@pytest.mark.parametrize("told", [end(outputs={"out": 99}), end("failed", code="interrupted", outputs={})])
def test_what_ran_at_the_first_time_is_compared_with_what_it_told_however_often_it_was_said(
    told: Mapping[str, Any],
) -> None:
    assert "the agent told of" in misprint(PATTERN, printer(told), is_said_again=True)


@pytest.mark.parametrize(("said_again", "is_right"), [({"c1"}, True), ({"c2"}, False), (set(), False)])
async def test_each_output_is_compared_knowing_what_the_proxy_said_again(said_again: set[str], is_right: bool) -> None:
    async def output(id: str) -> bytes:
        return PATTERN if id == "c1" else b""

    found = await counting.compare(output, [printer(BUSY)], said_again=said_again)
    assert (found == {"c1": ""}) is is_right


def test_a_refused_command_that_the_proxy_said_again_may_run_once() -> None:
    found = replace(of(told=end("failed", code="busy", exit=None)), said_again=frozenset({"c1"}))
    assert failing(found) == set()
    assert ONCE in failing(replace(found, witness={"c1": 2}))


def test_cases_are_counted_and_a_few_of_them_shown() -> None:
    found = replace(GOOD, witness={"c1": 1, **{f"x{number}": 1 for number in range(50)}})
    worst = next(check for check in checked(found) if not check.holds)
    assert worst.against == 50
    assert len(worst.shown) == 5


def test_ends_are_counted_by_their_code() -> None:
    several = [given(told=end()), given(told=end()), given(told=end("failed", code="busy")), given()]
    assert checks.states(several) == {"complete": 2, "failed (busy)": 1, "no end": 1}
