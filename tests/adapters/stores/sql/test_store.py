"""Group commit: many steps, one flush; each told after it, once."""

import asyncio
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from paddock.adapters.stores.sql import SqlStore
from paddock.adapters.stores.sql.sqlite import Sqlite
from paddock.core.errors import Broken, Refused
from paddock.hands import faults
from paddock.ports import Tables, Touched
from tests.contracts.rows import NOW, host, transition


class Watched(Sqlite):
    """Counts commits, and holds them back until it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits = 0
        self.gate = threading.Event()
        self.gate.set()
        self.committing = threading.Event()

    def commit(self, cursor: Any) -> None:
        self.committing.set()
        self.gate.wait(10)
        self.commits += 1
        super().commit(cursor)


@pytest.fixture
def database(tmp_path: Path, template: Path) -> Watched:
    shutil.copy(template, tmp_path / "store.db")
    return Watched(tmp_path / "store.db")


async def opened(database: Watched) -> SqlStore:
    store = await SqlStore.open(database)
    database.commits = 0
    database.committing.clear()
    return store


async def test_what_waits_together_is_committed_together_and_told_at_once(database: Watched) -> None:
    store = await opened(database)
    told: list[Sequence[Touched]] = []
    store.subscribe(told.append)
    database.gate.clear()
    first = asyncio.create_task(store.write(lambda tables: tables.hosts.add(host("first"))))
    assert await asyncio.to_thread(database.committing.wait, 10)
    writes = [store.write(lambda tables, n=n: tables.hosts.add(host(f"h{n}"))) for n in range(100)]  # type: ignore[misc]
    rest = asyncio.gather(*writes)
    await asyncio.sleep(0)
    database.gate.set()
    await asyncio.gather(first, rest)
    assert database.commits == 2
    assert [len(touched) for touched in told] == [1, 100]
    await store.close()


async def test_nobody_is_answered_before_it_is_durable(database: Watched) -> None:
    store = await opened(database)
    told: list[Sequence[Touched]] = []
    store.subscribe(told.append)
    database.gate.clear()
    first = asyncio.create_task(store.write(lambda tables: tables.hosts.add(host("a"))))
    for _ in range(5):
        await asyncio.sleep(0)
    second = asyncio.create_task(store.write(lambda tables: tables.hosts.find("a")))
    # Readers do not wait for the flush, and see only what is durable.
    assert await store.read(lambda tables: tables.hosts.find("a")) is None
    assert not first.done()
    assert not told
    database.gate.set()
    assert (await first).id == "a"
    assert await second == await first
    await store.close()


async def test_a_group_that_wrote_nothing_costs_no_flush(database: Watched) -> None:
    store = await opened(database)

    def refuse(tables: Tables) -> None:
        tables.hosts.add(host("a"))
        raise Refused("no")

    answers = await asyncio.gather(
        store.write(lambda tables: tables.hosts.find("a")), store.write(refuse), return_exceptions=True
    )
    assert answers[0] is None
    assert isinstance(answers[1], Refused)
    assert database.commits == 0
    assert await store.read(lambda tables: tables.hosts.count()) == 0
    await store.close()


async def test_steps_see_the_history_that_waits_for_the_flush(database: Watched) -> None:
    store = await opened(database)

    def undone(tables: Tables) -> None:
        tables.history.add(transition("l1", note="undone"))
        assert tables.history.prune(NOW.replace(year=2027)) == 2
        assert tables.history.of("leases", "l1") == []
        raise Refused("no")

    seen = await asyncio.gather(
        store.write(lambda tables: tables.history.add(transition("l1", note="first"))),
        store.write(undone),
        store.write(lambda tables: tables.history.of("leases", "l1")),
        store.write(lambda tables: tables.history.since("leases", NOW)),
        return_exceptions=True,
    )
    assert seen[2] == seen[3] == [transition("l1", note="first")]
    assert database.commits == 1
    assert await store.read(lambda tables: tables.history.of("leases", "l1")) == seen[2]
    await store.close()


async def test_a_step_that_raises_stop_iteration_does_not_stop_the_store(database: Watched) -> None:
    store = await opened(database)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await store.write(lambda _: next(iter(())))
    assert await store.write(lambda tables: tables.number("run")) == 1
    await store.close()


async def test_trouble_of_the_disk_inside_a_step_fails_the_whole_group(database: Watched) -> None:
    store = await opened(database)

    def fill(tables: Tables) -> None:
        store._writer.cursor.execute("PRAGMA max_page_count=1")
        for number in range(1000):
            tables.hosts.add(host(f"big{number}", reason="x" * 5000))

    answers = await asyncio.gather(
        store.write(lambda tables: tables.hosts.add(host("a"))), store.write(fill), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [Broken, Broken]
    with pytest.raises(Broken, match="full"):
        await store.write(lambda tables: tables.hosts.add(host("b")))
    assert await store.read(lambda tables: tables.hosts.count()) == 0
    await store.close()


@pytest.mark.parametrize(("point", "stored"), [("store.committing", 0), ("store.committed", 1)])
async def test_there_is_a_crash_point_on_each_side_of_the_commit(database: Watched, point: str, stored: int) -> None:
    store = await opened(database)
    faults.arm({"PADDOCK_FAULT": point, "PADDOCK_FAULT_ACT": "raise"})
    try:
        with pytest.raises(Broken):
            await store.write(lambda tables: tables.hosts.add(host("a")))
    finally:
        faults.arm({})
    await store.close()
    again = await SqlStore.open(database)
    assert await again.read(lambda tables: tables.hosts.count()) == stored
    await again.close()


async def test_a_subscriber_that_raises_is_reported_and_disturbs_nobody(database: Watched) -> None:
    store = await opened(database)
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def tell(touched: Sequence[Touched]) -> None:
        raise ZeroDivisionError

    told: list[Touched] = []
    store.subscribe(tell)
    store.subscribe(told.extend)
    await store.write(lambda tables: tables.hosts.add(host("a")))
    assert [type(exc) for exc in reported] == [ZeroDivisionError]
    assert len(told) == 1
    await store.close()


async def test_closing_in_the_middle_answers_those_who_wait(database: Watched) -> None:
    store = await opened(database)
    database.gate.clear()
    writes = [
        asyncio.create_task(store.write(lambda tables, n=n: tables.hosts.add(host(f"h{n}"))))  # type: ignore[misc]
        for n in range(5)
    ]
    for _ in range(5):
        await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    database.gate.set()
    await closing
    assert [row.id for row in await asyncio.gather(*writes)] == [f"h{n}" for n in range(5)]
