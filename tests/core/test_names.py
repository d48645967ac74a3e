"""A name in the archive cannot lead out of it, nor surprise whoever lists it."""

import pytest

from paddock.core.errors import Refused
from paddock.core.names import NAME_LIMIT, PART_LIMIT, archive_name


@pytest.mark.parametrize("name", ["a", "review/nova/1/2/r1/unit/1/one.log", "a b", "...", "-rf", "ü", "x" * 255])
def test_a_relative_path_is_a_name_as_it_is(name: str) -> None:
    assert archive_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "absolute"),
        ("../x", r"cannot be '\.\.'"),
        ("a/../../x", r"cannot be '\.\.'"),
        ("a/./x", r"cannot be '\.'"),
        ("a//x", "cannot be ''"),
        ("a/", "cannot be ''"),
        ("", "cannot be ''"),
        ("a\0", "control characters"),
        ("a\x1b]0;x\x07", "control characters"),
        ("a\x85", "control characters"),
        ("\ud800", "UTF-8"),
        ("ü" * 128, f"at most {PART_LIMIT} bytes"),
        ("x/" * 1100 + "x", f"at most {NAME_LIMIT}"),
    ],
)
def test_anything_else_is_refused_and_says_why(name: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        archive_name(name)


def test_a_refusal_names_the_path_without_its_control_characters() -> None:
    with pytest.raises(Refused) as refused:
        archive_name("one/\x1b[31mred")
    assert r"one/\x1b[31mred" in refused.value.message
    assert refused.value.message.isprintable()
