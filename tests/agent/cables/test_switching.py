"""Who gets a frame: addresses given or learned, and no speaking in another's name."""

from paddock.agent.cables import switching
from paddock.agent.cables.switching import Table

A, B, C, X = (bytes([0x52, 0x54, 0, 0, 0, last]) for last in (1, 2, 3, 9))
ALL, GROUP = b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01"


def given() -> Table:
    return Table({"a": frozenset([A]), "b": frozenset([B]), "c": frozenset([C])})


def test_a_frame_goes_to_whom_it_names_alone() -> None:
    assert given().targets("a", B + A) == ("b",)


def test_broadcasts_and_multicasts_go_to_everybody_else() -> None:
    table = given()

    assert table.targets("a", ALL + A) == ("b", "c")
    assert table.targets("a", GROUP + A) == ("b", "c")


def test_what_nobody_is_known_to_have_goes_to_everybody_else() -> None:
    assert given().targets("a", X + A) == ("b", "c")


def test_nobody_speaks_in_anothers_name_nor_in_a_made_up_one() -> None:
    table = given()

    assert table.targets("a", C + B) == ()
    assert table.targets("a", ALL + X) == ()
    assert table.targets("a", B + A) == ("b",)


def test_a_frame_to_oneself_goes_nowhere() -> None:
    assert given().targets("a", A + A) == ()


def test_ports_without_addresses_are_learned_from() -> None:
    table = Table({"a": frozenset(), "b": frozenset(), "c": frozenset()})

    assert table.targets("a", B + A) == ("b", "c")
    assert table.targets("b", A + B) == ("a",)
    assert table.targets("a", B + A) == ("b",)


def test_an_address_that_moves_is_found_where_it_spoke_last() -> None:
    table = Table({"a": frozenset(), "b": frozenset(), "c": frozenset()})
    table.targets("b", ALL + B)
    assert table.targets("a", B + A) == ("b",)

    table.targets("c", ALL + B)

    assert table.targets("a", B + A) == ("c",)


def test_a_port_without_addresses_takes_none_that_is_anothers_and_no_group() -> None:
    table = Table({"a": frozenset(), "b": frozenset([B])})

    assert table.targets("a", ALL + B) == ()
    assert table.targets("a", ALL + GROUP) == ()


def test_a_guest_that_invents_addresses_fills_no_memory() -> None:
    table = Table({"a": frozenset(), "b": frozenset()})

    heard = [table.targets("a", ALL + bytes([2, 0, 0, 0, n >> 8, n & 255])) for n in range(switching.LEARNED + 50)]

    assert heard.count(("b",)) == switching.LEARNED
    assert heard[-50:] == [()] * 50


def test_pairs_beyond_those_remembered_are_decided_all_the_same() -> None:
    table = given()
    for number in range(switching.FLOWS + 10):
        table.targets("a", bytes([2, 1, 0, 0, number >> 8, number & 255]) + A)

    assert table.targets("a", B + A) == ("b",)


def test_what_was_learned_outlives_a_change_of_the_ports() -> None:
    former = Table({"a": frozenset(), "b": frozenset()})
    former.targets("b", ALL + B)
    former.targets("b", ALL + X)
    table = Table({"a": frozenset(), "b": frozenset(), "x": frozenset([X])})

    table.keep(former)

    assert table.targets("a", B + A) == ("b",)
    assert table.targets("a", X + A) == ("x",)
