"""kill -9 of QEMU at each step of a start, a fork, a freeze and an image's build, while the host's agent lives on.

What becomes of machines that are lent is in ../../story/test_18_killed_machines.py.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.drivers import qemu
from paddock.agent.skills.hypervisor.drivers.qemu import process
from paddock.agent.skills.hypervisor.drivers.qemu.qmp import Command, Monitor
from paddock.core.errors import Broken
from paddock.core.image import steps
from paddock.hands import faults
from paddock.wire.framing import JSON
from tests.agent.hypervisor.builders import House, disk, image
from tests.agent.hypervisor.yards import INSTANCE, QemuYard, ask, cloned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def kill_at(monkeypatch: pytest.MonkeyPatch, point: str, kill: Callable[[], None]) -> None:
    """When it is passed for the Nth time, as `point:N`."""
    name, _, number = point.partition(":")
    passed: list[str] = []
    at = faults.at

    def passing(found: str) -> None:
        at(found)
        if found == f"hypervisor.{name}":
            passed.append(found)
            if len(passed) == int(number or 1):
                kill()

    monkeypatch.setattr(faults, "at", passing)


# ---- images, of machines that run nothing ----------------------------------------------------------------------------


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    (tmp_path / "root").mkdir()
    made = House(tmp_path / "root")
    await made.images.open()
    yield made
    await made.images.close()
    await made.host.close()


def vanish(house: House) -> None:
    for name in list(house.host.machines):
        house.host.vanish(name)


BUILDS = {"image_booted": 1, "image_booted:2": 2, "image_changed": 1, "image_changed:2": 2, "image_booted:4": 4}
"""Of a base, its first boot, two scripts and a proof: how many layers there are when a machine was killed there."""


@pytest.mark.parametrize("point", BUILDS)
async def test_a_machine_that_is_killed_while_it_builds_makes_no_layer(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    chain = (image("debian", path=disk(tmp_path / "disk")), image("web", "one", "two", parent="debian"))
    kill_at(monkeypatch, point, lambda: vanish(house))
    with pytest.raises(Broken, match="its channel is dead"):
        await house.images.ensure(chain)
    assert len(house.store.all()) == BUILDS[point]
    assert (house.making, house.host.machines) == ([], {})

    leaf = await house.images.ensure(chain)
    planned = steps(chain, next(layer.digest for layer in house.store.all() if not layer.parent))
    assert leaf == planned[-1].digest
    assert len(house.store.all()) == len(planned) + 1
    assert house.store.is_proven(leaf)
    assert (house.making, house.host.machines) == ([], {})


# ---- QEMU itself, with the tiny guest --------------------------------------------------------------------------------


def kill_qemu(name: str) -> None:
    # The program was begun just now, and its words may not be there yet.
    (found,) = next(filter(None, (process.named(name) for _ in range(1000))))
    os.kill(found.pid, signal.SIGKILL)


FREEZES = ("stop", "migrate-set-capabilities", "quit")


@pytest.mark.e2e
async def test_qemu_that_is_killed_at_a_step_leaves_no_half_start_and_no_half_template(
    yard: QemuYard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host for all steps: what a killed one left is what the next one begins with."""
    monkeypatch.setattr(qemu, "_IDLES_WITHIN", timedelta(seconds=0.1))
    driver, template = yard.driver(), yard.root / "template"
    source, fork = yard.plan("source", is_template=True), yard.plan("fork")
    for point in ("qemu_started", "qemu_noted"):
        with monkeypatch.context() as patch:
            kill_at(patch, point, lambda: kill_qemu(source.name))
            with pytest.raises(Broken):
                await driver.boot(source)
        assert await driver.running(INSTANCE) == []

    for command in FREEZES:
        await driver.boot(source)
        await ask(source, "count", "store before")
        with monkeypatch.context() as patch:
            _kill_at_command(patch, command, source.name)
            if command == "quit":  # all is said and stands in its files
                await driver.freeze(source, template)
            else:
                with pytest.raises(Broken):
                    await driver.freeze(source, template)
        assert await driver.running(INSTANCE) == []
        assert (template / "template.json").exists() == (command == "quit")

    cloned(source, fork)
    for command in ("qmp_capabilities", "cont"):
        with monkeypatch.context() as patch:
            _kill_at_command(patch, command, fork.name)
            with pytest.raises(Broken):
                await driver.fork(fork, template)
        assert await driver.running(INSTANCE) == []
    await driver.fork(fork, template)
    assert await ask(fork, "count", "stored") == ["2", "before"]
    kill_qemu(fork.name)
    await driver.wait_off(fork)
    await driver.end(fork.directory, fork.name)
    assert await driver.running(INSTANCE) == []


def _kill_at_command(patch: pytest.MonkeyPatch, wanted: str, name: str) -> None:
    """When QEMU is about to be told this."""
    tell = Monitor.ask_all

    async def told(
        self: Monitor, commands: Sequence[Command], *, limit: timedelta = timedelta(seconds=30)
    ) -> list[JSON]:
        if commands[0].execute == wanted:
            kill_qemu(name)
        return await tell(self, commands, limit=limit)

    patch.setattr(Monitor, "ask_all", told)
