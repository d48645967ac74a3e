import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.core.errors import Broken
from paddock.hands import exit as exits
from paddock.hands.exit import Exit, Reason


def ended(message: str = "") -> Exit:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    return Exit(
        ran=True,
        reason=Reason.LIMIT,
        exit=None,
        signal=15,
        message=message,
        started=moment,
        ended=moment + timedelta(seconds=1),
        output=7,
        dropped=0,
        lingered=2,
    )


def test_an_exit_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    assert exits.read_exit(tmp_path) is None
    exits.reserve(tmp_path)
    assert exits.read_exit(tmp_path) is None
    exits.record(tmp_path, ended("é"))
    assert exits.read_exit(tmp_path) == ended("é")
    assert os.listdir(tmp_path) == ["exit"]


def test_a_full_disk_does_not_swallow_the_exit(small_disk: Path, fill: Callable[[Path], None]) -> None:
    exits.reserve(small_disk)
    fill(small_disk / "ballast")
    exits.record(small_disk, ended("x" * 10_000))
    found = exits.read_exit(small_disk)
    assert found is not None
    assert found.signal == 15


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1970-01-01T00:00:00.000Z"), (1767323045.678, "2026-01-02T03:04:05.678Z")]
)
def test_moments_are_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert exits.moment(seconds) == text


def test_what_is_no_record_is_broken_and_named(tmp_path: Path) -> None:
    (tmp_path / "exit").write_text("{}")
    with pytest.raises(Broken, match="no exit record"):
        exits.read_exit(tmp_path)
