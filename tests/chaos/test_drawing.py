"""What is drawn from one seed is the same each time, and all kinds of it are there."""

import random

from paddock.chaos import acts, orders
from paddock.chaos.acts import Act
from paddock.chaos.orders import Kind, Order


def drawn(seed: int, count: int = 2000) -> list[Order]:
    return list(orders.drawn(random.Random(seed), count=count, run="c", witness="/w"))


def test_the_same_seed_gives_the_same_commands_and_another_one_others() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_every_kind_of_command_is_drawn_and_each_id_once() -> None:
    some = drawn(1)
    assert {one.kind for one in some} == set(Kind)
    assert len({one.id for one in some}) == len(some)


def test_a_pattern_has_the_size_that_is_printed_and_another_content_for_each_id() -> None:
    sizes = {one.size for one in drawn(1) if one.kind is Kind.PRINTS}
    assert max(sizes) >= 300_000
    assert 0 in sizes
    first, second = [one for one in drawn(1) if one.kind is Kind.PRINTS and one.size >= 4096][:2]
    assert len(first.pattern()) == first.size
    assert first.pattern()[:100] != second.pattern()[:100]


def plan(seed: int, commands: int, left_out: frozenset[Act] = frozenset()) -> list[acts.Planned]:
    return acts.planned(random.Random(seed), commands=commands, left_out=left_out)


def test_the_same_seed_gives_the_same_acts() -> None:
    assert plan(1, 1000) == plan(1, 1000)
    assert plan(1, 1000) != plan(2, 1000)


def test_each_act_is_done_once_at_least_where_there_is_room_for_all() -> None:
    assert {one.act for one in plan(1, 1000)} == set(Act)
    assert len(plan(1, 10_000)) == 100
    assert len(plan(1, 20)) == 1


def test_acts_come_in_the_order_in_which_they_are_due_and_end_before_the_commands() -> None:
    moments = [one.after for one in plan(1, 10_000)]
    assert moments == sorted(moments)
    assert moments[-1] <= 9_700


def test_what_cannot_be_done_here_is_not_planned() -> None:
    assert Act.REBOOT not in {one.act for one in plan(1, 10_000, frozenset({Act.REBOOT}))}
