"""The agent's own lines: spooled, in order, bounded, nothing twice, and no disk ever in the agent's way."""

import asyncio
import errno
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.agent import logs as module
from paddock.agent import segments
from paddock.agent.logs import AT_ONCE, Batch, Logs


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    made = logging.getLogger(f"test.{tmp_path.name}")
    made.propagate = False
    made.setLevel(logging.DEBUG)
    yield made
    for handler in list(made.handlers):
        made.removeHandler(handler)
        handler.close()


def attach(logger: logging.Logger, directory: Path, level: int = logging.INFO) -> Logs:
    """As a new process would: whoever logged here before was killed."""
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logs = Logs(level=level, directory=directory)
    logger.addHandler(logs)
    return logs


def lines(batch: Batch | None) -> list[dict[str, Any]]:
    if batch is None:
        return []
    params: dict[str, Any] = dict(batch.params)
    more = params.pop("more", [])
    return [params, *more]


def drain(logs: Logs) -> list[str]:
    found = []
    while (batch := logs.peek()) is not None:
        found += [line["msg"] for line in lines(batch)]
        logs.pop(batch)
    return found


def test_lines_come_in_order_with_their_fields_and_in_batches(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    for number in range(AT_ONCE + 20):
        logger.warning("line", extra={"number": number})
    first = logs.peek()
    assert first is not None
    assert [line["fields"]["number"] for line in lines(first)] == list(range(AT_ONCE))
    assert lines(first)[0].keys() == {"level", "msg", "time", "fields"}
    logs.pop(first)
    assert [line["fields"]["number"] for line in lines(logs.peek())] == list(range(AT_ONCE, AT_ONCE + 20))


def test_a_killed_process_loses_no_line_and_sends_none_twice(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    logger.info("one")
    logger.info("two")
    batch = logs.peek()
    assert batch is not None
    logs.pop(batch)
    logger.info("three")
    assert [line["msg"] for line in lines(logs.peek())] == ["three"]  # told, and never answered

    assert drain(attach(logger, tmp_path)) == ["three"]
    assert drain(attach(logger, tmp_path)) == []


def test_half_a_line_of_a_killed_writer_is_no_line_and_is_counted(logger: logging.Logger, tmp_path: Path) -> None:
    logger.addHandler(attach(logger, tmp_path))
    logger.info("whole")
    (newest,) = (path for path in tmp_path.iterdir() if path.name.isdecimal())
    with newest.open("ab") as file:
        file.write(b'{"level":"info","msg":"ha')

    logs = attach(logger, tmp_path)
    logger.info("next")
    told = lines(logs.peek())
    assert [line["msg"] for line in told] == ["whole", "log lines were dropped", "next"]
    assert told[1]["fields"] == {"dropped": 1}


def test_what_is_over_the_rate_is_counted_where_it_was_dropped(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    for number in range(300):
        logger.info("line", extra={"number": number})
    logger.error("wrong")
    told = []
    while (batch := logs.peek()) is not None:
        told += lines(batch)
        logs.pop(batch)
    kept = [line for line in told if line["msg"] == "line"]
    (gap,) = (line for line in told if line["msg"] == "log lines were dropped")
    assert 100 <= len(kept) < 150
    assert gap["fields"]["dropped"] == 300 - len(kept)
    assert [line["msg"] for line in told[-2:]] == ["log lines were dropped", "wrong"]


async def test_a_flood_is_no_flood_of_counts_and_its_count_is_told_in_the_end(
    logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_COUNT_EVERY", 0.2)
    logs = attach(logger, tmp_path)
    news = asyncio.Event()
    logs.attach(asyncio.get_running_loop(), news)
    for _ in range(200):
        logger.info("line")
    drain(logs)
    counts: list[int] = []
    for _ in range(300):
        logger.info("line")
        counts += [line["fields"]["dropped"] for line in told_now(logs) if line["msg"] == "log lines were dropped"]
    assert len(counts) <= 3
    async with asyncio.timeout(5):
        while sum(counts) < 250:
            news.clear()
            await news.wait()
            counts += [line["fields"].get("dropped", 0) for line in told_now(logs)]


def told_now(logs: Logs) -> list[dict[str, Any]]:
    batch = logs.peek()
    if batch is not None:
        logs.pop(batch)
    return lines(batch)


def test_the_count_of_dropped_lines_survives_a_kill(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    for _ in range(300):
        logger.info("line")
    kept = len(drain(logs)) - 1
    for _ in range(40):
        logger.info("line")

    (gap,) = lines(attach(logger, tmp_path).peek())
    assert gap["msg"] == "log lines were dropped"
    assert kept + gap["fields"]["dropped"] >= 139


def test_a_spool_that_is_full_gives_up_its_oldest_lines_and_tells_how_many(
    logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "SEGMENT", 2000)
    monkeypatch.setattr(segments, "SEGMENTS", 3)
    logs = attach(logger, tmp_path)
    for number in range(100):
        logger.warning("line", extra={"number": number})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 8000
    gap, *told = lines(logs.peek())
    assert gap["msg"] == "log lines were dropped"
    numbers = [line["fields"]["number"] for line in told]
    while (batch := logs.peek()) is not None and lines(batch)[0]["msg"] == "log lines were dropped":
        numbers = [line["fields"]["number"] for line in lines(batch)[1:]]
        logs.pop(batch)
    while (batch := logs.peek()) is not None:
        numbers += [line["fields"]["number"] for line in lines(batch)]
        logs.pop(batch)
    assert numbers == list(range(100 - len(numbers), 100))
    assert gap["fields"]["dropped"] == 100 - len(numbers)
    assert len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) == 1


def test_a_full_disk_costs_lines_and_nothing_else(
    logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = attach(logger, tmp_path)
    logger.info("before")
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 20:
            write(handle, data[:20])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", full)
    logger.info("during")
    logger.info("during")
    monkeypatch.setattr(os, "write", write)
    logger.info("after")
    told = lines(logs.peek())
    assert [line["msg"] for line in told] == ["before", "log lines were dropped", "after"]
    assert told[1]["fields"] == {"dropped": 2}


def test_a_directory_that_cannot_be_made_costs_lines_and_nothing_else(logger: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    logs = attach(logger, tmp_path / "file" / "log")
    logger.error("nobody hears this")
    (tmp_path / "file").unlink()
    logger.error("and this")
    assert [line["msg"] for line in lines(logs.peek())] == ["log lines were dropped", "and this"]


def test_a_place_beyond_what_a_power_cut_left_skips_no_later_line(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    logger.info("one")
    logger.info("two")
    drain(logs)
    (newest,) = (path for path in tmp_path.iterdir() if path.name.isdecimal())
    os.truncate(newest, 0)

    logs = attach(logger, tmp_path)
    logger.info("three")
    assert drain(logs) == ["three"]


def test_rubble_is_no_line(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    logger.info("one")
    (newest,) = (path for path in tmp_path.iterdir() if path.name.isdecimal())
    with newest.open("ab") as file:
        file.write(b"\0\0\0\n[1]\n")
    logs = attach(logger, tmp_path)
    logger.info("two")
    assert drain(logs) == ["one", "two"]


def test_secrets_and_what_the_wire_does_not_take_stay_here(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path)
    logger.info("password=hunter22 \ud800\0", extra={"token": "abcdefgh", "odd": "\udcff", "share": float("nan")})
    (line,) = lines(logs.peek())
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    text.encode()
    assert "hunter22" not in text
    assert "abcdefgh" not in text
    assert b"hunter22" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_lines_below_the_level_are_not_taken(logger: logging.Logger, tmp_path: Path) -> None:
    logs = attach(logger, tmp_path, level=logging.WARNING)
    logger.info("told")
    logger.warning("wrong")
    assert drain(logs) == ["wrong"]
