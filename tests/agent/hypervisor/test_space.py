"""Who holds which part of a disk, and what is free once somebody goes: pure."""

from paddock.agent.skills.hypervisor.images.space import OTHERS, Space, together


def held(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_each_part_of_a_disk_is_counted_once_for_all_that_hold_it() -> None:
    found = together([(0, 100, "base"), (0, 60, "one"), (50, 80, "two"), (90, 90, "none"), (200, 210, "one")])

    assert found == {
        held("base", "one"): 50,
        held("base", "one", "two"): 10,
        held("base", "two"): 20,
        held("base"): 20,
        held("one"): 10,
    }


def test_parts_that_touch_are_apart_and_one_that_is_held_twice_is_one() -> None:
    assert together([(0, 10, "a"), (10, 20, "b"), (5, 10, "a"), (0, 10, "a")]) == {held("a"): 10, held("b"): 10}


def test_a_layer_adds_what_it_does_not_have_from_below() -> None:
    space = Space(held={held("base", "one", OTHERS): 100, held("one"): 7, held("one", OTHERS): 5, held("base"): 3})

    assert (space.added("base"), space.added("one", "base")) == (103, 12)


def test_only_what_nobody_else_holds_is_freed() -> None:
    space = Space(held={held("base", "one"): 100, held("base", OTHERS): 50, held("base"): 3})

    assert space.freed("base") == 3
    assert space.freed("base", {"one"}) == 103
