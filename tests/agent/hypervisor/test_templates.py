"""kill -9 at each step of healing a template: it is whole, or damaged and healed again, and never half a one."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.images.store import Store
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.parts import Parts
from paddock.agent.skills.hypervisor.templates import Template, Templates
from paddock.core.image import Image
from paddock.wire.specs import MachineSpec
from tests.agent.hypervisor.doubles import FakeDisks, FakeImages, FakeNetworks, Guests
from tests.agent.hypervisor.fakes import FakeDriver, Host

pytestmark = pytest.mark.slow

DEBIAN = Image(name="debian", path="/srv/debian.raw")
SPEC = MachineSpec(image=(DEBIAN,), layer="layer-of-debian", memory=1 << 20)
EMPTYING = ("hypervisor.template_healing", "hypervisor.template_emptying", "hypervisor.template_emptying:2")
FILLING = ("hypervisor.template_filling", "hypervisor.template_filling:4", "hypervisor.template_filling:5")
LAST = ("hypervisor.template_filled", "hypervisor.template_healed")
SPENT = (*FILLING[1:], "hypervisor.template_filled")
CHILD = """
import asyncio, sys
from pathlib import Path
from tests.agent.hypervisor.test_templates import ensured

asyncio.run(ensured(Path(sys.argv[1])))
"""


async def ensured(root: Path, images: FakeImages | None = None) -> Template:
    """By an agent of its own."""
    guests, host = Guests(), Host()
    images = images or FakeImages(root)
    parts = Parts(
        layout=Layout.of(root),
        disks=FakeDisks(),
        driver=FakeDriver(host, guests.live),
        networks=FakeNetworks(),
        images=images,
        channels=guests,
    )
    templates, layer = Templates(parts), SPEC.layer
    await images.find(layer)
    try:
        return await templates.ensure(await templates.key(layer, SPEC), layer, SPEC)
    finally:
        await host.close()


def die(root: Path, point: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(root)],
        env={**os.environ, "PADDOCK_FAULT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == -9, ran.stderr


@pytest.mark.parametrize("point", [*EMPTYING, *FILLING, *LAST])
async def test_a_kill_while_a_template_is_healed_leaves_it_whole_or_to_be_healed(tmp_path: Path, point: str) -> None:
    first = await ensured(tmp_path)
    (first.place / "memory").unlink()
    die(tmp_path, point)
    store = Store(Layout.of(tmp_path), FakeDisks())
    assert [key for key, *_ in store.templates()] == [first.place.name], "who collects still finds it"

    await store.sweep()
    healed = await ensured(tmp_path)
    assert await ensured(tmp_path) == healed, "it is whole"
    assert (healed.place, list(Layout.of(tmp_path).making.iterdir())) == (first.place, [])
    assert {file.name for file in healed.place.iterdir() if file.is_file()} >= {"memory", "template.json", "made.json"}
    assert not (healed.place / "unfit").exists()
    assert (first.volume / "system").read_text() == "debian", "machines may lie on it"
    assert (healed.volume / "system").read_text() == "debian"
    # One more where the first healing had its disks there already; all go with the template.
    assert len(list(healed.place.glob("disks*"))) == (3 if point in SPENT else 2)


async def test_a_template_is_found_and_used_while_nothing_is_removed(tmp_path: Path) -> None:
    template, images = await ensured(tmp_path), FakeImages(tmp_path)

    await images.turn.acquire()
    taking = asyncio.create_task(ensured(tmp_path, images))
    await images.asked.wait()
    (template.place / "memory").unlink()  # whoever removes it was first
    images.turn.release()

    assert await taking != template, "it was looked for behind the removal, and made anew"
    assert await ensured(tmp_path) == await taking
    assert (template.place / "used").exists()
