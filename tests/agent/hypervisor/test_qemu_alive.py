"""The driver qemu with QEMU: what its machines are to the host, and what they find inside."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paddock.agent.cables import shapes
from paddock.agent.skills.hypervisor import console, nocloud, planting
from paddock.agent.skills.hypervisor.drivers.qemu import Qemu, accel, freezing, process
from paddock.agent.skills.hypervisor.drivers.qemu.command import Accelerator
from paddock.agent.skills.hypervisor.errands import probing
from paddock.agent.skills.hypervisor.ports import Plan
from paddock.core.errors import Broken
from paddock.hands.lines import reachable
from tests.agent.hypervisor.yards import INSTANCE, MIB, QemuYard, ask, cloned

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[3]


def _told(pid: int, file: str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _frozen(driver: Qemu, yard: QemuYard, **changes: object) -> tuple[Plan, Path]:
    plan = yard.plan("template", is_template=True, **changes)
    await driver.boot(plan)
    assert await ask(plan, "count") == ["1"]
    await driver.freeze(plan, yard.root / "template")
    return plan, yard.root / "template"


async def test_an_accelerator_is_chosen_by_what_runs_here(yard: QemuYard) -> None:
    driver = Qemu(yard.root, instance=INSTANCE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    chosen = await driver.accelerator()

    assert loop.time() - began < probing.LIMIT.total_seconds() + 4
    assert chosen.accelerator.name == ("tcg" if chosen.why else "kvm")
    assert await driver.running(INSTANCE) == []
    assert list(yard.root.glob("making/*")) == []
    plan = yard.plan("one")
    await driver.boot(plan)
    assert await ask(plan, "count") == ["1"]


async def test_a_machine_runs_in_a_session_and_a_sandbox_of_its_own(yard: QemuYard) -> None:
    driver, plan = yard.driver(), yard.plan("one")
    await driver.boot(plan)
    (found,) = process.named(plan.name)

    assert os.getsid(found.pid) == found.pid
    assert _told(found.pid, "status")["Seccomp"] == "2"
    assert process.directory_of(found) == plan.directory
    for socket in ("qmp", "channel", "console"):
        assert (plan.directory / socket).stat().st_mode & 0o077 == 0


async def test_a_directory_may_be_deep(yard: QemuYard) -> None:
    plan = yard.plan("one")
    plan = replace(plan, directory=yard.root / ("deep" * 20) / "deeper, still" / ("d" * 100))
    yard.plans["one"] = plan
    await yard.driver().boot(plan)

    assert await ask(plan, "count") == ["1"]


async def test_an_end_is_one_when_its_disks_may_be_had_by_the_next(yard: QemuYard) -> None:
    driver = yard.driver()
    source, template = await _frozen(driver, yard)
    fork = cloned(source, yard.plan("fork"))
    for _ in range(15):
        await driver.fork(fork, template)
        await driver.end(fork.directory, fork.name)


async def test_a_seed_is_a_drive_called_cidata(yard: QemuYard) -> None:
    cards = (shapes.Card(mac="52:54:00:00:00:01", address="192.168.80.10/24"),)
    facts = shapes.Facts(name="paddock-one", hostname="one", cards=cards, keys=("ssh-ed25519 AAAA",))
    told = nocloud.files(facts, fence=1)
    plan = yard.plan("one")
    plan = yard.plan("one", seed=plan.directory / "seed")
    planting.plant(plan.directory / "seed", told)
    await yard.driver().boot(plan)

    label, *files = await ask(plan, "label", *(f"seed {name}" for name in told))
    assert label == "cidata"
    assert files == [" ".join(text.decode().split()) for text in told.values()]


async def test_the_console_is_a_line_in_both_directions(yard: QemuYard) -> None:
    plan = yard.plan("one")
    await yard.driver().boot(plan)
    await ask(plan, "count")
    with reachable(plan.directory / "console") as address:
        _, writer = await asyncio.open_unix_connection(address)
    writer.write(b"typed\n")

    assert await ask(plan, "heard") == ["typed"]
    writer.close()


async def test_a_console_of_which_a_part_was_given_back_goes_on_at_its_end(yard: QemuYard) -> None:
    plan = yard.plan("one")
    await yard.driver().boot(plan)
    await ask(plan, "say once")
    file = plan.directory / console.FILE
    with file.open("ab") as log:
        log.write(b"noise...\n" * (3 * console.LAST // 9))
    before = file.stat()
    assert console.shorten([file]) == ""
    await ask(plan, "say again")

    with file.open("rb") as log:
        log.seek(before.st_size)
        assert b"again" in log.read()
    assert file.stat().st_blocks * 512 <= console.FIRST + console.LAST + 2 * MIB
    assert b"once" in file.read_bytes()[: console.FIRST]


async def test_a_fork_with_two_processors_and_a_blank_disk_is_like_its_template(yard: QemuYard) -> None:
    driver, plan = yard.driver(), yard.plan("other")
    blank = replace(plan.disks[0], name="blank-1")
    source, template = await _frozen(driver, yard, vcpus=2)
    fork = cloned(source, yard.plan("fork", vcpus=2))
    await driver.fork(fork, template)
    assert await ask(fork, "cpus", "disks") == ["2", "system=16384"]

    with pytest.raises(Broken, match="disks: it was frozen with"):
        await driver.fork(yard.plan("third", vcpus=2, disks=[*plan.disks, blank]), template)


async def test_two_machines_do_not_write_to_one_disk(yard: QemuYard) -> None:
    driver, plan = yard.driver(), yard.plan("one")
    await driver.boot(plan)
    with pytest.raises(Broken, match="in use by another process"):
        await driver.boot(yard.plan("other", disks=plan.disks))

    assert [one.name for one in await driver.running(INSTANCE)] == [plan.name]


async def test_a_template_of_another_emulator_is_not_forked_from(yard: QemuYard) -> None:
    driver = yard.driver()
    source, template = await _frozen(driver, yard)
    told = json.loads((template / freezing.FILE).read_text())
    assert told["stamp"] == await driver.stamp() == accel.stamp(Accelerator(name="tcg"))
    assert told["version"].split(".")[0].isdigit()
    (template / freezing.FILE).write_text(json.dumps({**told, "stamp": "0" * 64}))

    with pytest.raises(Broken, match=f"was frozen by QEMU {told['version'].split('.')[0]}"):
        await driver.fork(cloned(source, yard.plan("fork")), template)
    assert await driver.running(INSTANCE) == []


@pytest.mark.parametrize("what", ["state", "memory"])
async def test_a_template_that_is_damaged_is_said_so_and_nothing_runs(yard: QemuYard, what: str) -> None:
    driver = yard.driver()
    source, template = await _frozen(driver, yard)
    os.truncate(template / what, 1000)

    with pytest.raises(Broken) as broken:
        await driver.fork(cloned(source, yard.plan("fork")), template)
    assert "fork" in broken.value.message
    assert await driver.running(INSTANCE) == []


async def test_it_all_works_for_somebody_who_is_not_root(yard: QemuYard) -> None:
    if os.getuid() != 0:
        pytest.skip("it is not root who runs these tests, so they show it all")
    program = """
import asyncio, encodings.ascii, os, shutil, sys
from pathlib import Path
from paddock.agent.skills.hypervisor.errands import cpio, kernel, machine
from tests.agent.hypervisor.yards import QemuYard, ask, cloned
root = Path(sys.argv[1])
yard = QemuYard(root)
yard.initrd = Path(shutil.copy(yard.initrd, root / "initrd"))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
async def act():
    driver = yard.driver()
    await driver.check()
    source = yard.plan("source", is_template=True)
    await driver.boot(source)
    await ask(source, "count", "store before")
    await driver.freeze(source, root / "template")
    fork = cloned(source, yard.plan("fork"))
    await driver.fork(fork, root / "template")
    print(*await ask(fork, "count", "stored"))
    await machine.run(driver, machine.Work(script="end done\\n"), name="paddock-0c0ffee0-x", directory=root / "errand")
    await yard.close()
    print(await driver.running("0c0ffee0"))
asyncio.run(act())
"""
    place = Path("/tmp") / f"yard-{os.getpid()}"
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    try:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program, str(place)],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    finally:
        await asyncio.to_thread(subprocess.run, ["rm", "-rf", str(place)], check=True)

    assert done.stdout.splitlines() == ["2 before", "[]"], done.stderr
    assert process.named("paddock-0c0ffee0-yard-fork") == []


def test_memory_is_shared_with_the_template_until_it_is_written_to(yard: QemuYard) -> None:
    async def forked() -> int:
        driver = yard.driver()
        source, template = await _frozen(driver, yard, memory=512 * MIB)
        fork = cloned(source, yard.plan("fork", memory=512 * MIB))
        await driver.fork(fork, template)
        await ask(fork, "count")
        (found,) = process.named(fork.name)
        return int(_told(found.pid, "smaps_rollup")["Private_Dirty"].split()[0])

    assert asyncio.run(forked()) < 512 * 1024 * 0.15
