"""Every transition table of the core: nothing unreachable, no trap, nothing between listed and refused."""

from enum import StrEnum
from itertools import product

import pytest

from paddock.core.errors import Refused
from paddock.core.table import Table
from tools.docs import tables

TABLES = tables()
# The nouns that have a life of their own (docs/states.md); a table that went missing must not pass unseen.
LIVES = {"environment", "lease", "run", "round", "report", "command", "host", "image", "event", "alert"}


def _states(table: Table[StrEnum, StrEnum]) -> set[StrEnum]:
    return set(type(table.initial))


def _signals(table: Table[StrEnum, StrEnum]) -> set[StrEnum]:
    kinds = {type(signal) for _, signal in table.steps}
    assert len(kinds) == 1
    return set(kinds.pop())


def _reachable(table: Table[StrEnum, StrEnum], start: StrEnum) -> set[StrEnum]:
    seen = {start}
    while more := {after for (before, _), after in table.steps.items() if before in seen} - seen:
        seen |= more
    return seen


def test_every_noun_with_a_life_has_a_table() -> None:
    assert set(TABLES) >= LIVES


@pytest.mark.parametrize("name", TABLES)
def test_every_state_is_reachable_from_the_initial_one(name: str) -> None:
    table = TABLES[name]
    assert _reachable(table, table.initial) == _states(table)


@pytest.mark.parametrize("name", TABLES)
def test_only_final_states_are_never_left(name: str) -> None:
    table = TABLES[name]
    left = {before for (before, _), after in table.steps.items() if after is not before}
    assert _states(table) - left == table.final


@pytest.mark.parametrize("name", TABLES)
def test_no_part_of_a_life_is_a_trap(name: str) -> None:
    table = TABLES[name]
    ahead = {state: _reachable(table, state) for state in _states(table)}
    # A life without an end (a host's) has states that it can always come back to instead.
    goals = set(table.final) or set.intersection(*ahead.values())
    assert goals
    assert [state for state in ahead if not ahead[state] & goals] == []


@pytest.mark.parametrize("name", TABLES)
def test_every_signal_is_used(name: str) -> None:
    table = TABLES[name]
    assert {signal for _, signal in table.steps} == _signals(table)


@pytest.mark.parametrize("name", TABLES)
def test_every_pair_of_state_and_signal_is_listed_or_refused(name: str) -> None:
    table = TABLES[name]
    pairs = list(product(_states(table), _signals(table)))
    assert set(table.steps) <= set(pairs)
    for state, signal in pairs:
        assert table.allows(state, signal) == ((state, signal) in table.steps)
        if (state, signal) in table.steps:
            assert table.step(state, signal) in _states(table)
        else:
            with pytest.raises(Refused, match=name):
                table.step(state, signal)
