"""The stand-ins go wrong in exactly the way that a test asks for, and then go on."""

import asyncio
from dataclasses import replace

import pytest

from paddock.core.errors import Broken, Conflict, Refused
from paddock.core.event import Change
from paddock.core.report import Report
from paddock.testing import FakeForge, MemoryArchive, MemoryStore
from tests.contracts.rows import host, lease

CHANGE = Change(forge="forge", project="p", branch="master", number=7, patchset=2, ref="r", revision="v")
REPORT = Report(id="1", forge="forge", change=CHANGE, message="ok\n\nhttp://x/rounds/1", link="http://x/rounds/1")


class Dead(BaseException):
    """The process is gone."""


async def test_a_store_conflicts_once_for_the_noun_that_is_named() -> None:
    store = MemoryStore()
    row = await store.write(lambda tables: tables.hosts.add(host("a")))
    other = await store.write(lambda tables: tables.leases.add(lease("l")))
    store.conflict_once("hosts")
    await store.write(lambda tables: tables.leases.swap(other, other))
    with pytest.raises(Conflict):
        await store.write(lambda tables: tables.hosts.swap(row, row))
    assert (await store.write(lambda tables: tables.hosts.swap(row, row))).version == 2


async def test_a_store_takes_no_old_row_that_was_changed_since_it_was_read() -> None:
    """A real one writes what differs between both rows: such a change would be lost there, and seem to be kept here."""
    store = MemoryStore()
    row = await store.write(lambda tables: tables.hosts.add(host("a")))
    changed = replace(row, reason="by the way")
    with pytest.raises(ValueError, match="as it was read"):
        await store.write(lambda tables: tables.hosts.swap(changed, replace(changed, drained_by="anna")))


async def test_a_writer_dies_after_its_commit_and_the_row_is_there() -> None:
    store = MemoryStore()
    store.die_after(Dead(), when=lambda touched: touched[0].id == "b")
    await store.write(lambda tables: tables.hosts.add(host("a")))
    with pytest.raises(Dead):
        await store.write(lambda tables: tables.hosts.add(host("b")))
    later = store.reopen()
    assert await later.read(lambda tables: [row.id for row in tables.hosts.where()]) == ["a", "b"]


async def test_a_forge_posts_and_the_caller_dies() -> None:
    forge = FakeForge()
    forge.die_after_accepting(Dead())
    with pytest.raises(Dead):
        await forge.send(REPORT)
    assert forge.sent == [REPORT]
    assert await forge.find(CHANGE, REPORT.link)
    assert not await forge.find(CHANGE, "http://x/rounds/2")
    assert not await forge.find(replace(CHANGE, number=8), REPORT.link)


async def test_a_forge_that_is_silent_posts_nothing() -> None:
    forge = FakeForge()
    forge.go_silent()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await forge.send(REPORT)
    forge.mend()
    assert not await forge.find(CHANGE, REPORT.link)


async def test_a_forge_breaks_down_or_refuses_until_it_is_mended() -> None:
    forge = FakeForge()
    forge.break_down("no route to host")
    with pytest.raises(Broken, match="forge: no route to host"):
        await forge.find(CHANGE, REPORT.link)
    forge.mend()
    forge.refuse()
    with pytest.raises(Refused, match="change is closed"):
        await forge.send(REPORT)
    forge.mend()
    await forge.send(REPORT)
    assert forge.sent == [REPORT]


async def test_an_archive_is_full_until_it_is_mended() -> None:
    archive = MemoryArchive()
    await archive.append("log", 0, b"a")
    archive.fail()
    with pytest.raises(Broken, match="log: no space left"):
        await archive.append("log", 1, b"b")
    archive.mend()
    assert await archive.append("log", 1, b"b") == 2
