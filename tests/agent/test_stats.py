"""How busy a machine is: collectors read it, rings keep it, a cursor reads each sample once."""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddock.agent import durable
from paddock.agent.skills.system import collectors, stats
from paddock.agent.skills.system.collectors import Sampler
from paddock.agent.skills.system.stats import Collections, Definition, Ring, define
from paddock.core.errors import Refused
from paddock.wire.fields import BadParams
from tests.agent.proc import Proc

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def look(sampler: Sampler, *names: str) -> dict[str, Any]:
    return sampler.look(names)


# ---- collectors


def test_shares_of_processor_time_are_of_the_time_between_two_looks(proc: Proc) -> None:
    sampler = Sampler(root=proc.root)
    proc.cpu(user=1000, idle=9000)
    assert look(sampler, "cpu") == {"cpu": {}}
    proc.cpu(user=1025, idle=9050, system=15, iowait=10)
    shares = look(sampler, "cpu")["cpu"]
    assert shares == {"busy": 0.4, "user": 0.25, "system": 0.15, "iowait": 0.1, "steal": 0.0}


def test_memory_and_load_are_what_the_kernel_says(proc: Proc) -> None:
    proc.memory(available=250)
    found = look(Sampler(root=proc.root), "memory", "load")
    assert found["memory"]["available"] == 250 << 10
    assert (found["memory"]["total"], found["memory"]["cached"]) == (1000 << 10, 100 << 10)
    assert found["load"] == {"one": 0.5, "five": 0.2, "fifteen": 0.1}


def test_rates_of_disks_and_networks_are_per_second_and_of_whole_disks(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter((100.0, 102.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    sampler = Sampler(root=proc.root)
    look(sampler, "disks", "network")
    proc.disk(read=40, written=8)
    proc.network(received=2000, sent=600)
    found = look(sampler, "disks", "network")
    assert found["disks"]["devices"].keys() == {"sda"}
    assert (found["disks"]["devices"]["sda"]["read"], found["disks"]["devices"]["sda"]["written"]) == (10240.0, 2048.0)
    assert found["network"].keys() == {"eth0"}
    assert (found["network"]["eth0"]["received"], found["network"]["eth0"]["sent"]) == (1000.0, 300.0)


def test_only_disks_are_asked_how_full_they_are(proc: Proc) -> None:
    assert list(collectors.mounts(proc.root)) == ["/"]
    found = look(Sampler(root=proc.root), "disks")["disks"]["filesystems"]["/"]
    real = os.statvfs("/")
    assert found["total"] == real.f_blocks * real.f_frsize
    assert 0 < found["used"] < 1


def test_processes_are_counted_and_the_largest_and_busiest_are_named(
    proc: Proc, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter((100.0, 101.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    sampler = Sampler(root=proc.root)
    for pid in range(10, 30):
        proc.process(pid, "small")
    proc.process(40, "a) R (b", state="R", pages=5000)
    proc.process(41, "gone", state="Z")
    look(sampler, "processes")
    proc.process(29, "small", ticks=50)
    found = look(sampler, "processes")["processes"]
    assert (found["count"], found["threads"], found["running"], found["zombies"]) == (22, 44, 1, 1)
    top = {one["pid"]: one for one in found["top"]}
    assert top[40]["name"] == "a) R (b"
    assert top[29]["cpu"] == 50 / os.sysconf("SC_CLK_TCK")


def test_what_cannot_be_read_is_told_in_its_place(proc: Proc) -> None:
    (proc.root / "proc/loadavg").unlink()
    found = look(Sampler(root=proc.root), "load", "memory")
    assert "FileNotFoundError" in found["load"]["error"]
    assert "available" in found["memory"]


# ---- rings


def ring(capacity: int = 3) -> Ring:
    definition = Definition(name="r", collectors=("load",), interval=1, window=capacity)
    return Ring(definition, root=Path("/"), due=0)


def add(one: Ring, count: int) -> None:
    for _ in range(count):
        one.add({"load": {}}, NOW)


def numbers(found: dict[str, Any]) -> list[int]:
    return [sample["number"] for sample in found["samples"]]


def test_a_read_without_a_cursor_begins_with_the_oldest() -> None:
    one = ring()
    add(one, 5)
    found = one.since("", limit=10)
    assert (numbers(found), found["missed"], found["restarted"], found["more"]) == ([3, 4, 5], 0, False, False)


def test_the_cursor_tells_of_samples_that_fell_out() -> None:
    one = ring()
    add(one, 2)
    cursor = str(one.since("", limit=10)["cursor"])
    add(one, 5)
    found = one.since(cursor, limit=10)
    assert (numbers(found), found["missed"]) == ([5, 6, 7], 2)
    found = one.since(str(found["cursor"]), limit=10)
    assert (numbers(found), found["missed"]) == ([], 0)


def test_a_cursor_of_an_earlier_run_is_known_as_such() -> None:
    one = ring()
    add(one, 2)
    found = one.since("0123abcd-17", limit=10)
    assert (numbers(found), found["restarted"]) == ([1, 2], True)


@pytest.mark.parametrize("cursor", ["x", "-", "-4", "{id}-", "{id}-4", "{id}--1", "{id}-" + "9" * 30])
def test_a_cursor_that_was_never_given_is_refused(cursor: str) -> None:
    one = ring()
    add(one, 2)
    with pytest.raises(BadParams, match=r"params\.cursor"):
        one.since(cursor.format(id=one.cursor.partition("-")[0]), limit=10)


def test_memory_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "ROOM", 1000)
    one = ring(capacity=1000)
    for _ in range(50):
        one.add({"text": "x" * 200}, NOW)
    assert one.count < 5


def test_an_answer_is_bounded_in_bytes_and_says_that_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "_ANSWER", 1000)
    one = ring(capacity=100)
    for _ in range(20):
        one.add({"text": "x" * 200}, NOW)
    read: list[int] = []
    cursor, more = "", True
    while more:
        found = one.since(cursor, limit=100)
        assert 0 < len(numbers(found)) < 6
        read += numbers(found)
        cursor, more = str(found["cursor"]), bool(found["more"])
    assert read == list(range(1, 21))


@settings(max_examples=40)
@given(
    st.integers(1, 6),
    st.lists(st.one_of(st.tuples(st.just("add"), st.integers(0, 9)), st.tuples(st.just("read"), st.integers(1, 5)))),
)
def test_reading_on_neither_loses_nor_doubles_a_sample(capacity: int, steps: list[tuple[str, int]]) -> None:
    one = ring(capacity)
    read: list[int] = []
    missed, cursor = 0, ""
    for what, count in [*steps, ("add", 1), *[("read", 5)] * 3]:
        if what == "add":
            add(one, count)
            continue
        found = one.since(cursor or f"{one.cursor.partition('-')[0]}-0", limit=count)
        assert numbers(found) == sorted(set(numbers(found)) - set(read))
        read += numbers(found)
        missed += int(str(found["missed"]))
        cursor = str(found["cursor"])
    assert len(read) + missed == int(one.cursor.partition("-")[2])


def test_a_definition_is_refused_where_it_cannot_be_meant() -> None:
    with pytest.raises(BadParams, match=r"params.collectors\[1\]: 'gpu' is none of cpu"):
        define("r", ("cpu", "gpu"), interval=1, window=10)
    with pytest.raises(BadParams, match=r"params.window: holds 36000 samples of 0.1 s, at most 10000"):
        define("r", (), interval=0.1, window=3600)
    assert define("r", (), interval=1, window=10).collectors == collectors.NAMES


# ---- collections


async def collected(kept: Collections, name: str, count: int) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            found = kept.read(name, "", limit=100)
            if len(numbers(found)) >= count:
                return found
            await asyncio.sleep(0.01)


async def test_samples_come_while_it_is_collected_and_not_after(proc: Proc, tmp_path: Path) -> None:
    kept = Collections(tmp_path / "collections", root=proc.root)
    duty = asyncio.ensure_future(kept.collect())
    begun = await kept.start(define("r", ("load",), interval=0.1, window=10))
    assert begun["capacity"] == 100
    found = await collected(kept, "r", 3)
    assert found["samples"][0]["load"] == {"one": 0.5, "five": 0.2, "fifteen": 0.1}
    await kept.stop("r")
    await kept.stop("r")
    with pytest.raises(Refused, match="r: is not collected"):
        kept.read("r", "", limit=1)
    duty.cancel()


async def test_the_same_again_goes_on_and_another_of_its_name_begins_anew(proc: Proc, tmp_path: Path) -> None:
    kept = Collections(tmp_path / "collections", root=proc.root)
    duty = asyncio.ensure_future(kept.collect())
    await kept.start(define("r", ("load",), interval=0.1, window=10))
    cursor = str((await collected(kept, "r", 1))["cursor"])
    await kept.start(define("r", ("load",), interval=0.1, window=10))
    assert kept.read("r", cursor, limit=10)["restarted"] is False
    await kept.start(define("r", ("load", "memory"), interval=0.1, window=10))
    assert kept.read("r", cursor, limit=10)["restarted"] is True
    duty.cancel()


async def test_a_restart_collects_the_same_again(proc: Proc, tmp_path: Path) -> None:
    path = tmp_path / "collections"
    kept = Collections(path, root=proc.root)
    await kept.start(define("r", ("load",), interval=0.1, window=10))
    await kept.start(define("gone", ("load",), interval=1, window=10))
    await kept.stop("gone")
    durable.write(path, [*durable.read(path), {"name": "later", "collectors": ["gpu"]}])  # type: ignore[misc]

    again = Collections(path, root=proc.root)
    again.load()
    assert [one["name"] for one in again.told()] == ["r"]
    duty = asyncio.ensure_future(again.collect())
    assert (await collected(again, "r", 1))["samples"][0]["number"] == 1
    duty.cancel()


async def test_there_are_only_so_many_collections(proc: Proc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "AT_MOST", 1)
    kept = Collections(tmp_path / "collections", root=proc.root)
    await kept.start(define("r", ("load",), interval=60, window=60))
    with pytest.raises(Refused, match="1 collections run already"):
        await kept.start(define("one too many", ("load",), interval=60, window=60))


async def test_nothing_is_done_while_nothing_is_collected(proc: Proc, tmp_path: Path) -> None:
    kept = Collections(tmp_path / "collections", root=proc.root)
    duty = asyncio.ensure_future(kept.collect())
    await asyncio.sleep(0)
    before = time.process_time()
    await asyncio.sleep(0.2)
    assert time.process_time() - before < 0.02
    duty.cancel()
