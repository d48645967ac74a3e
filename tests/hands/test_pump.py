import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.hands.pump import Pump

NOTICE = "[paddock: output limit of 10 bytes reached, the rest was dropped]\n"


def times(directory: Path) -> list[tuple[int, datetime]]:
    lines = [line.split() for line in (directory / "output.times").read_text().splitlines()]
    return [(int(offset), datetime.fromisoformat(moment)) for offset, moment in lines]


def test_each_part_has_the_time_at_which_it_was_read(tmp_path: Path) -> None:
    pump = Pump(tmp_path, limit=1000)
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    pump.take(b"one\n")
    time.sleep(0.002)
    pump.take(b"two\n")
    pump.close()
    (first, at_first), (second, at_second) = times(tmp_path)
    assert (first, second) == (0, 4)
    assert before <= at_first < at_second <= datetime.now(UTC)


def test_the_index_is_bounded_for_a_task_that_prints_byte_by_byte(tmp_path: Path) -> None:
    pump = Pump(tmp_path, limit=100_000)
    started = time.monotonic()
    for _ in range(3000):
        pump.take(b".")
    milliseconds = int((time.monotonic() - started) * 1000) + 2
    assert len(times(tmp_path)) <= milliseconds
    assert pump.written == 3000


@pytest.mark.parametrize(
    ("chunks", "kept", "dropped"),
    [
        ([b"12345", b"67890"], "1234567890", 0),
        ([b"12345", b"678901"], "1234567890\n" + NOTICE, 1),
        ([b"123456789\n", b"x"], "123456789\n" + NOTICE, 1),
        ([b"x" * 25, b"y" * 7], "x" * 10 + "\n" + NOTICE, 22),
    ],
)
def test_output_is_kept_to_its_limit_and_the_rest_counted(
    tmp_path: Path, chunks: list[bytes], kept: str, dropped: int
) -> None:
    pump = Pump(tmp_path, limit=10)
    for chunk in chunks:
        pump.take(chunk)
    pump.close()
    assert (tmp_path / "output").read_text() == kept
    assert (pump.written, pump.dropped) == (len(kept), dropped)


def test_a_used_directory_is_refused(tmp_path: Path) -> None:
    Pump(tmp_path, limit=10).close()
    with pytest.raises(FileExistsError):
        Pump(tmp_path, limit=10)


def test_a_full_disk_costs_bytes_that_are_counted_and_named(small_disk: Path, fill: Callable[[Path], None]) -> None:
    ballast = small_disk / "ballast"
    pump = Pump(small_disk, limit=10**9)
    pump.take(b"before\n")
    fill(ballast)
    pump.take(b"x" * 50_000)
    assert pump.dropped > 0
    assert pump.written + pump.dropped == len("before\n") + 50_000
    ballast.unlink()
    pump.take(b"after\n")
    text = (small_disk / "output").read_text()
    assert text.endswith(f"[paddock: {pump.dropped} bytes dropped, no space left]\nafter\n")
    assert pump.written == len(text)


def test_what_a_full_disk_has_cost_is_named_at_the_end_at_the_latest(
    small_disk: Path, fill: Callable[[Path], None]
) -> None:
    ballast = small_disk / "ballast"
    pump = Pump(small_disk, limit=10**9)
    pump.take(b"before\n")
    fill(ballast)
    pump.take(b"x" * 50_000)
    ballast.unlink()
    pump.close()
    text = (small_disk / "output").read_text()
    assert text.endswith(f"[paddock: {pump.dropped} bytes dropped, no space left]\n")
    assert pump.written == len(text)


def test_the_index_holds_whole_lines_however_full_the_disk_was(
    small_disk: Path, fill: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = (f"2026-01-01T00:00:00.{number % 1000:03}Z" for number in range(10**6))
    monkeypatch.setattr("paddock.hands.pump.moment", lambda _: next(moments))
    ballast = small_disk / "ballast"
    fill(ballast)
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size // 4096 * 4096 - 8192)  # a page for the index, and one for the output
    pump = Pump(small_disk, limit=10**9)
    for _ in range(200):
        pump.take(b"x")
    assert pump.dropped == 0
    fill(small_disk / "rest")
    for _ in range(200):
        pump.take(b"x")
    index = (small_disk / "output.times").read_bytes()
    assert index.endswith(b"Z\n")
    assert 4000 < len(index) <= 4096  # as many as found room
    (small_disk / "rest").unlink()
    ballast.unlink()
    for _ in range(5):
        pump.take(b"y")
    pump.close()
    offsets = [offset for offset, _ in times(small_disk)]  # each line is whole, or this raises
    assert offsets == sorted(offsets)
    assert offsets[-1] == pump.written - 1
