"""Durations, sizes, addresses and expressions."""

from datetime import timedelta

import pytest

from paddock.settings.scalars import _expression, is_loopback, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", timedelta(seconds=90)), ("10m", timedelta(minutes=10)), ("2h", timedelta(hours=2)), ("7d", timedelta(7))],
)
def test_a_duration_has_a_unit(text, expected):
    assert parse_duration(text) == expected


@pytest.mark.parametrize("wrong", ["10", 10, "1.5h", "-1m", "1w", "m", "", None, True, "٣s", "1h30m", "9" * 10 + "s"])
def test_anything_else_is_no_duration(wrong):
    with pytest.raises(ValueError, match="is not a duration like"):
        parse_duration(wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5B", 5), ("64KiB", 65536), ("512MiB", 512 * 2**20), ("2GiB", 2 * 2**30), ("4TiB", 4 * 2**40)],
)
def test_a_size_is_bytes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("wrong", ["10", 10, "10MB", "1.5GiB", "MiB", None])
def test_anything_else_is_no_size(wrong):
    with pytest.raises(ValueError, match="is not a size like"):
        parse_size(wrong)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:80", True),
        ("127.9.9.9:80", True),
        ("[::1]:80", True),
        ("localhost:80", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("192.0.2.1:80", False),
        ("localhost.example.org:80", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(listen, expected):
    assert is_loopback(listen) is expected


@pytest.mark.parametrize(
    "text", ["^recheck$", r"^recheck( bug \d+)?$", "^(a|b)+ c*$", r"^(run-\w+ ?)$", "^(a{2}){3}$", ".*a.*b.*"]
)
def test_an_expression_in_bounds_is_taken(text):
    assert _expression(text) == text


@pytest.mark.parametrize(
    "text", ["(a+)+$", "(a*)*", r"^(\w+\s?)*$", "((ab)+c)*", "(?:x+){20,}", "(?=(a+)+)b", "(a|b*)*c", "(a+?)*?"]
)
def test_an_expression_that_could_run_for_ever_is_refused(text):
    with pytest.raises(ValueError, match="repeats a repetition"):
        _expression(text)


def test_an_expression_has_few_repetitions():
    with pytest.raises(ValueError, match="more than 3 repetitions"):
        _expression("^.*.*.*.*x$")


@pytest.mark.parametrize("text", ["(", "*", "[a", "x" * 201, "(?P<n>a)(?P<n>b)", "a{99999999999999999999}"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a regular expression|is longer than"):
        _expression(text)
