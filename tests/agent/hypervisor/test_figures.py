"""What a host says that it has, and what of it images and templates take: each byte on the disk once."""

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.settings import Hypervisor
from paddock.agent.skills.hypervisor.disks import cloning
from paddock.agent.skills.hypervisor.figures import Count, figures, kept, stored
from paddock.agent.skills.hypervisor.house import counting
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.skill import Call, Work
from paddock.core.errors import Broken
from paddock.core.host import Stored
from paddock.wire.framing import JSON
from tools.filesystems import mounted
from tools.maven import Unavailable

MIB = 1 << 20


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.of(tmp_path)


@pytest.fixture(params=["btrfs", "xfs"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Layout]:
    """On a file system whose files share what they have in common."""
    try:
        with mounted(request.param, tmp_path, 1 << 29) as root:
            yield Layout.of(root)
    except Unavailable as exc:
        pytest.skip(str(exc))


def put(path: Path, size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
    return path


def cloned(source: Path, target: Path, more: int) -> Path:
    """A copy that shares all but what is written to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as taken, target.open("xb") as made:
        cloning.reflink(taken.fileno(), made.fileno())
        made.seek(0)
        made.write(os.urandom(more))
        made.flush()
        os.fsync(made.fileno())
    return target


def near(found: int, wanted: int) -> bool:
    return abs(found - wanted) < MIB


def test_images_and_templates_are_counted_and_machines_are_not(layout: Layout) -> None:
    put(layout.images / "d1" / "disks-1" / "system.raw", 4 * MIB)
    put(layout.images / "d2" / "disks-2" / "system.qcow2", 2 * MIB)
    put(layout.templates / "k" / "memory", 8 * MIB)
    put(layout.machines / "lab-1" / "one" / "disks" / "system.raw", 2 * MIB)
    found = stored(layout)
    assert near(found.images, 6 * MIB)
    assert near(found.templates, 8 * MIB)


def test_a_volume_that_is_a_link_counts_like_one_that_is_a_directory(layout: Layout) -> None:
    """As those of zfs are."""
    put(layout.root / "mounted" / "v-1" / "system.raw", 3 * MIB)
    (layout.images / "d1").mkdir(parents=True)
    (layout.images / "d1" / "b1").symlink_to(layout.root / "mounted" / "v-1")
    assert stored(layout) == Stored(images=3 * MIB)


def test_where_nothing_is_stored_nothing_is_counted(layout: Layout) -> None:
    assert stored(layout) == Stored()


def test_holes_take_nothing(layout: Layout) -> None:
    with put(layout.templates / "k" / "memory", MIB).open("r+b") as file:
        file.truncate(256 * MIB)
    assert near(stored(layout).templates, MIB)


def test_what_there_is_for_booking_has_what_is_stored_in_it(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    room = SimpleNamespace(f_frsize=4096, f_bavail=1000 * MIB // 4096)
    monkeypatch.setattr(os, "statvfs", lambda path: room)
    empty = figures(Hypervisor(), layout).disk
    put(layout.templates / "k" / "memory", 8 * MIB)
    put(layout.images / "d1" / "disks-1" / "system.raw", 2 * MIB)
    room.f_bavail -= 10 * MIB // 4096

    full = figures(Hypervisor(), layout).disk
    found = stored(layout)

    # Of what is free a tenth is the host's own, of what is taken nothing.
    assert near(full - empty, MIB)
    # What is left for machines is nine tenths of what is free by now.
    assert near(full - found.images - found.templates, 9 * room.f_bavail * 4096 // 10)


@pytest.mark.slow
def test_what_clones_share_is_counted_once(shared: Layout) -> None:
    base = put(shared.images / "d1" / "disks-1" / "system.raw", 16 * MIB)
    layer = cloned(base, shared.images / "d2" / "disks-2" / "system.raw", 2 * MIB)
    cloned(layer, shared.templates / "k" / "disks" / "system.raw", 3 * MIB)
    put(shared.templates / "k" / "memory", 4 * MIB)
    found = stored(shared)
    assert near(found.images, 18 * MIB)
    assert near(found.templates, 7 * MIB)


@pytest.mark.slow
def test_saved_disks_take_as_much_once_the_template_that_they_were_forked_from_is_gone(shared: Layout) -> None:
    base = put(shared.images / "d1" / "disks-1" / "system.raw", 16 * MIB)
    frozen = cloned(base, shared.templates / "k" / "disks" / "system.raw", 12 * MIB)
    saved = cloned(frozen, shared.saved / "lab-1.one" / "system.raw", 2 * MIB).parent
    before = kept(shared, saved)
    booked = stored(shared).images + before

    shutil.rmtree(shared.templates / "k")

    assert near(kept(shared, saved), before)
    assert near(before, 12 * MIB)
    assert near(stored(shared).images + kept(shared, saved), booked)


def test_it_counts_again_when_something_came_or_went_and_not_in_between(layout: Layout) -> None:
    count = Count(layout)
    disk = put(layout.images / "d1" / "disks-1" / "system.raw", 2 * MIB)
    assert near(count.again().images, 2 * MIB)
    put(disk, 4 * MIB)  # a layer is sealed: nobody does this
    assert near(count.again().images, 2 * MIB)
    put(layout.templates / "k" / "memory", MIB)
    assert near(count.again().images, 4 * MIB)
    assert near(count.last.templates, MIB)
    shutil.rmtree(layout.templates / "k")
    assert count.again().templates == 0


def test_a_count_that_is_overtaken_is_not_the_last_one(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    count = Count(layout)
    put(layout.templates / "a" / "memory", MIB)
    has_looked, goes_on = threading.Event(), threading.Event()
    walk = os.walk

    def slow(top: Path, **rest: Any) -> Iterator[Any]:
        found = list(walk(top, **rest))
        if top == layout.templates and not has_looked.is_set():
            has_looked.set()
            assert goes_on.wait(10)
        return iter(found)

    monkeypatch.setattr(os, "walk", slow)
    said: dict[str, Stored] = {}
    counts = [threading.Thread(target=lambda name=name: said.update({name: count.again()})) for name in ("one", "two")]
    counts[0].start()
    assert has_looked.wait(10)
    put(layout.templates / "b" / "memory", 4 * MIB)
    counts[1].start()
    counts[1].join(0.05)  # of two that do not wait for each other this one is done first
    goes_on.set()
    for one in counts:
        one.join(10)

    assert near(count.last.templates, 5 * MIB)
    assert count.last == said["two"]
    assert said["one"].number < said["two"].number


def test_a_count_says_which_it_is_and_after_another_start_whose(layout: Layout) -> None:
    count = Count(layout)
    put(layout.templates / "a" / "memory", MIB)
    first, same = count.again(), count.again()
    put(layout.templates / "b" / "memory", MIB)
    second = count.again()
    assert first == same
    assert first.counter == second.counter
    assert first.number < second.number
    assert Count(layout).again().counter != first.counter


def call(method: str, directory: Path) -> Call:
    return Call(task="t", method=method, params={}, environment="", fence=0, directory=directory)


async def result_of(layout: Layout, method: str, *, is_failing: bool = False) -> tuple[object, Mapping[str, JSON]]:
    async def act(call: Call) -> Outcome:
        put(layout.templates / "k" / "memory", 2 * MIB)
        if is_failing:
            raise Broken("one: it does not boot")
        return Outcome(result={"machine": "one"})

    deed = counting({method: Work(act=act)}, Count(layout))[method]
    assert isinstance(deed, Work)
    outcome = await deed.act(call(method, layout.root))
    return outcome.code, outcome.result


@pytest.mark.parametrize(
    "method", ["machine.build", "machine.clean", "machine.destroy", "image.build", "image.collect"]
)
async def test_who_changes_what_is_stored_says_so_with_its_end(layout: Layout, method: str) -> None:
    code, result = await result_of(layout, method)
    assert code is None
    assert near(_templates(result), 2 * MIB)


async def test_what_failed_says_what_it_left(layout: Layout) -> None:
    code, result = await result_of(layout, "machine.build", is_failing=True)
    assert code == "failed"
    assert near(_templates(result), 2 * MIB)


async def test_what_an_ended_build_left_is_said_by_whoever_destroys_its_machine(layout: Layout) -> None:
    """A higher fence ends it after its template had its name: nobody takes a result of it."""
    has_named = asyncio.Event()

    async def build(call: Call) -> Outcome:
        put(layout.templates / "k" / "memory", 2 * MIB)
        has_named.set()
        return await asyncio.get_running_loop().create_future()

    async def destroy(call: Call) -> Outcome:
        return Outcome(result={"machine": "one"})

    deeds = counting({"machine.build": Work(act=build), "machine.destroy": Work(act=destroy)}, Count(layout))
    (building, destroying) = deeds.values()
    assert isinstance(building, Work)
    assert isinstance(destroying, Work)
    job = asyncio.ensure_future(building.act(call("machine.build", layout.root)))
    await has_named.wait()
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)

    ended = await destroying.act(call("machine.destroy", layout.root))

    assert near(_templates(ended.result), 2 * MIB)


async def test_what_stores_nothing_says_nothing(layout: Layout) -> None:
    assert await result_of(layout, "machine.power") == (None, {"machine": "one"})


def _templates(result: Mapping[str, JSON]) -> int:
    told = result["stored"]
    assert isinstance(told, dict)
    assert isinstance(told["templates"], int)
    return told["templates"]
