"""Durations as people type them."""

import click
import pytest

from paddock.cli.spans import SPAN


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604800), ("45", 45), ("1.5h", 5400), ("300ms", 0.3)],
)
def test_a_number_with_a_unit_is_seconds(text: str, seconds: float) -> None:
    assert SPAN.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5 weeks", "nan", "1h30m"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SPAN.convert(text, None, None)
