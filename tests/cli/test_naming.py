"""What people type for a thing."""

import pytest

from paddock.cli.naming import choose
from paddock.core.errors import Missing, Refused

KNOWN = [("7f3a", ("noop", "1/noop")), ("7f3b", ("build", "1/build")), ("9c00", ("build", "2/build"))]


@pytest.mark.parametrize(("typed", "id"), [("7f3a", "7f3a"), ("noop", "7f3a"), ("9", "9c00"), ("2/build", "9c00")])
def test_an_id_a_name_or_the_beginning_of_an_id_is_enough(typed: str, id: str) -> None:
    assert choose("run", typed, KNOWN) == id


@pytest.mark.parametrize("typed", ["7f", "build"])
def test_what_could_be_several_is_refused_with_all_of_them(typed: str) -> None:
    with pytest.raises(Refused, match="it could be 7f3"):
        choose("run", typed, KNOWN)


@pytest.mark.parametrize("typed", ["nope", ""])
def test_what_is_none_is_missing(typed: str) -> None:
    with pytest.raises(Missing):
        choose("run", typed, KNOWN)


def test_an_id_comes_before_a_name_and_a_name_before_a_beginning() -> None:
    assert choose("run", "a", [("a", ()), ("b", ("a",)), ("ab", ())]) == "a"
    assert choose("run", "c", [("b", ("c",)), ("cd", ())]) == "b"
