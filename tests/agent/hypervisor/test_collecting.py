"""Which layers and templates go: a pure decision."""

from datetime import timedelta

import pytest

from paddock.agent.skills.hypervisor.images.collecting import GRACE, Thing, Wanted, collect
from paddock.agent.skills.hypervisor.images.space import OTHERS, Space

DAY = 86400.0
NOW = 1000 * DAY


def layer(name: str, below: str = "", *, idle: float, users: tuple[str, ...] = ()) -> Thing:
    return Thing(name=name, below=below, used=NOW - idle * DAY, users=users)


CHAIN = (layer("base", idle=50), layer("one", "base", idle=50), layer("two", "one", idle=40))


def tens(*things: Thing) -> Space:
    """Each has ten bytes of its own."""
    return Space(held={frozenset((thing.name,)): 10 for thing in things})


def names(*things: Thing, free: int = 0, **wanted: object) -> list[str]:
    asked = Wanted(**wanted)  # type: ignore[arg-type]  # as each test has it
    found = collect(things, asked, space=tens(*things), free=free, now=NOW)
    return [one.thing.name for one in found]


def test_leaves_go_before_what_they_stand_on() -> None:
    assert names(*CHAIN, unused=timedelta(days=30)) == ["two", "one", "base"]


def test_what_was_used_since_stays_with_all_below_it() -> None:
    assert names(*CHAIN, layer("three", "two", idle=1), unused=timedelta(days=30)) == []
    assert names(*CHAIN, layer("other", "one", idle=1), unused=timedelta(days=30)) == ["two"]


def test_room_is_made_by_what_was_not_used_for_longest() -> None:
    others = (layer("a", idle=3), layer("b", idle=9), layer("c", idle=6))

    assert names(*others, free=100, room=115) == ["b", "c"]
    assert names(*others, free=100, room=100) == []
    assert names(*others, free=0, room=1000) == ["b", "c", "a"]


def test_time_and_room_together_take_both() -> None:
    things = (layer("a", idle=3), layer("b", idle=90))

    assert names(*things, free=0, room=15, unused=timedelta(days=30)) == ["b", "a"]
    assert names(*things, free=20, room=15, unused=timedelta(days=30)) == ["b"]


def test_without_a_bound_whatever_nobody_needs_goes() -> None:
    assert names(*CHAIN, layer("used", idle=80, users=("e1/m",))) == ["two", "one", "base"]


@pytest.mark.parametrize("wanted", [{}, {"unused": timedelta()}, {"room": 10**9}])
def test_what_somebody_stands_on_keeps_or_used_just_now_never_goes(wanted: dict[str, object]) -> None:
    used = layer("used", "base", idle=80, users=("e1/m",))
    kept = layer("kept", "one", idle=80)
    fresh = layer("fresh", idle=GRACE.total_seconds() / DAY / 2)

    assert names(*CHAIN, used, kept, fresh, keep={"kept"}, **wanted) == ["two"]


def test_a_template_stands_on_its_layer() -> None:
    template = Thing(name="t", below="two", used=NOW - 35 * DAY, is_template=True)

    assert names(*CHAIN, template, unused=timedelta(days=30)) == ["t", "two", "one", "base"]
    assert names(*CHAIN, Thing(name="t", below="two", used=NOW - DAY), unused=timedelta(days=30)) == []


def test_each_removal_says_why() -> None:
    (one,) = collect([layer("a", idle=3)], Wanted(unused=timedelta(days=2)), space=Space(), free=0, now=NOW)
    (two,) = collect([layer("a", idle=3)], Wanted(room=50), space=Space(), free=10, now=NOW)

    assert one.why == "not used for 3 days"
    assert two.why == "10B are free, not 50B"


def test_what_is_shared_is_freed_with_who_holds_it_last() -> None:
    held = {
        frozenset(("base", "one", "two")): 100,
        frozenset(("one", "two")): 10,
        frozenset(("two",)): 1,
        frozenset(("base", "one", OTHERS)): 1000,
    }

    found = collect(CHAIN, Wanted(), space=Space(held=held), free=0, now=NOW)

    assert [(one.thing.name, one.freed) for one in found] == [("two", 1), ("one", 10), ("base", 100)]


def test_room_is_enough_once_what_a_chain_shares_is_free() -> None:
    other = (layer("base2", idle=20), layer("leaf2", "base2", idle=20))
    held = {frozenset(("base", "one", "two")): 100, frozenset(("base2", "leaf2")): 100}

    found = collect((*CHAIN, *other), Wanted(room=90), space=Space(held=held), free=0, now=NOW)

    assert [one.thing.name for one in found] == ["two", "one", "base"]
