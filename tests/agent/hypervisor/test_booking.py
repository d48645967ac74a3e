"""Machines that build take turns, the helper machine too, and none runs that its host has no memory for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.booking import Bench
from paddock.agent.skills.hypervisor.images import Images
from paddock.agent.skills.hypervisor.images.building import Means
from paddock.agent.skills.hypervisor.images.outside import Uplinks
from paddock.core.errors import Broken
from paddock.core.image import HELPER, Entry
from paddock.core.machine import MIB, Size
from tests.agent.hypervisor.builders import House, image


class Putter:
    """A helper that tells who is on the bench while it runs."""

    def __init__(self, bench: "Booked") -> None:
        self.bench = bench
        self.seen: list[list[Size]] = []

    async def put_agent(self, volume: Path, *, directory: Path, limit: timedelta) -> None:
        self.seen.append(list(self.bench.now))


class Booked:
    """The real bench, with what is on it."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.now: list[Size] = []
        self.all: list[Size] = []

    @asynccontextmanager
    async def book(self, size: Size) -> AsyncIterator[None]:
        async with self.bench.booked(size):
            self.now.append(size)
            self.all.append(size)
            yield
            self.now.remove(size)


async def test_the_helper_machine_is_booked_while_it_runs_and_before_the_image_is_booted(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "debian.raw").write_bytes(bytes(MIB))
    house, booked = House(tmp_path / "root"), Booked()
    helper = Putter(booked)
    means = Means(
        store=house.store,
        driver=house.driver,
        inside=house.agents.inside,
        book=booked.book,
        archive=lambda: b"the agent",
        outside=Uplinks(networks=house.networks, variables=house.networks.variables),
        helper=helper,
    )
    images = Images(means)
    await images.open()
    try:
        await images.ensure((replace(image("debian", path=tmp_path / "debian.raw"), entry=Entry.HELPER),))
    finally:
        await images.close()
        await house.host.close()
    assert helper.seen == [[HELPER]]
    assert booked.all[:2] == [HELPER, Size(memory=64 * MIB, vcpus=1)]
    assert booked.now == []


async def test_a_builder_that_the_host_has_no_memory_for_does_not_run() -> None:
    with pytest.raises(Broken, match="image: its builder wants 1099511627776 MiB, and the host has"):
        async with Bench().booked(Size(memory=1 << 60, vcpus=1)):
            raise AssertionError("it runs")
