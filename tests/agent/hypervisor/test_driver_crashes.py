"""The agent is killed at every step of what it does with QEMU: nothing is lost, doubled or left behind."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.drivers.qemu import process
from paddock.agent.skills.hypervisor.errands import machine
from paddock.agent.skills.hypervisor.errands.machine import Work
from paddock.core.errors import Broken
from paddock.core.machine import uniform
from tests.agent.hypervisor.dying import ERRAND
from tests.agent.hypervisor.yards import INSTANCE, QemuYard, ask, cloned

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[3]


def _die(yard: QemuYard, action: str, point: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.hypervisor.dying", str(yard.root), action],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "PADDOCK_FAULT": point},
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


async def _template(yard: QemuYard) -> Path:
    plan = yard.plan("source", is_template=True)
    driver = yard.driver()
    await driver.boot(plan)
    await ask(plan, "count", "store before")
    await driver.freeze(plan, yard.root / "template")
    return yard.root / "template"


STARTS = ["hypervisor.qemu_starting", "hypervisor.qemu_started", "hypervisor.qemu_noted", "hypervisor.qemu_up"]


@pytest.mark.parametrize("point", STARTS)
async def test_a_start_that_was_cut_short_is_made_whole_by_the_next_one(yard: QemuYard, point: str) -> None:
    template = await _template(yard)
    plan = cloned(yard.plans["source"], yard.plan("one"))
    _die(yard, "fork", point)
    left = process.named(plan.name)
    assert len(left) == (0 if point == STARTS[0] else 1)
    driver = yard.driver()
    await driver.fork(plan, template)

    assert len(process.named(plan.name)) == 1
    assert (process.named(plan.name) == left) is (point == STARTS[-1])
    assert await ask(plan, "count", "stored") == ["2", "before"]


@pytest.mark.parametrize("point", STARTS)
async def test_a_start_that_was_cut_short_is_ended_whole(yard: QemuYard, point: str) -> None:
    _die(yard, "boot", point)
    driver, plan = yard.driver(), yard.plan("one")
    assert len(await driver.running(INSTANCE)) == (0 if point == STARTS[0] else 1)
    await driver.end(plan.directory, plan.name)

    assert await driver.running(INSTANCE) == []
    assert process.named(plan.name) == []


@pytest.mark.parametrize("point", ["hypervisor.qemu_ended", "hypervisor.qemu_off"])
async def test_an_end_that_was_cut_short_is_an_end(yard: QemuYard, point: str) -> None:
    driver, plan = yard.driver(), yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count", "store kept")
    _die(yard, "end", point)
    assert await driver.running(INSTANCE) == []
    await driver.end(plan.directory, plan.name)
    await driver.boot(plan)

    assert await ask(plan, "count", "stored") == ["1", "kept"]


@pytest.mark.parametrize("point", ["hypervisor.sealing", "hypervisor.sealed", "hypervisor.templated"])
async def test_a_freeze_that_was_cut_short_leaves_a_whole_template_or_none(yard: QemuYard, point: str) -> None:
    driver, source = yard.driver(), yard.plan("one", is_template=True)
    await driver.boot(source)
    await ask(source, "count", "store before")
    _die(yard, "freeze", point)
    assert await driver.running(INSTANCE) == []
    fork = cloned(source, yard.plan("fork"))

    if point == "hypervisor.templated":
        await driver.fork(fork, yard.root / "template")
        assert await ask(fork, "count", "stored") == ["2", "before"]
    else:
        with pytest.raises(Broken, match="no template"):
            await driver.fork(fork, yard.root / "template")
        assert await driver.running(INSTANCE) == []


@pytest.mark.parametrize("point", ["hypervisor.helper_starting", "hypervisor.helper_started"])
async def test_an_errand_that_was_cut_short_is_found_and_run_again(yard: QemuYard, point: str) -> None:
    name, directory = uniform(INSTANCE, ERRAND), yard.root / ERRAND
    _die(yard, "errand", point)
    driver = yard.driver()
    for one in await driver.running(INSTANCE):
        assert one.name == name
        await driver.end(directory, one.name)
    await machine.run(driver, Work(script="end done\n"), name=name, directory=directory)

    assert await driver.running(INSTANCE) == []
    assert not directory.exists()


async def test_who_kills_qemu_has_switched_the_machine_off(yard: QemuYard) -> None:
    driver, plan = yard.driver(), yard.plan("one")
    await driver.boot(plan)
    await ask(plan, "count", "store kept")
    (found,) = process.named(plan.name)
    os.kill(found.pid, signal.SIGKILL)
    await driver.wait_off(plan)
    assert await driver.running(INSTANCE) == []
    await driver.boot(plan)

    assert await ask(plan, "count", "stored") == ["1", "kept"]


async def test_a_machine_whose_directory_is_gone_is_ended_by_its_name(yard: QemuYard) -> None:
    driver, plan = yard.driver(), yard.plan("one")
    await driver.boot(plan)
    shutil.rmtree(plan.directory)
    (found,) = await driver.running(INSTANCE)
    assert found.name == plan.name
    await driver.end(plan.directory, plan.name)

    assert process.named(plan.name) == []
