"""kill -9 at each step of a download, a build, a collection: no half is left, and the next one succeeds."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.images.collecting import Wanted
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.core.image import Chain, steps
from paddock.hands import trees
from tests.agent.hypervisor.builders import Files, House, disk, image, serving
from tests.agent.hypervisor.test_rootless import left_behind

pytestmark = pytest.mark.slow

POINTS = (
    *("hypervisor.image_downloading", "hypervisor.image_downloaded", "hypervisor.image_taken"),
    *("hypervisor.image_sealing", "hypervisor.image_recorded", "hypervisor.image_sealed"),
    *("hypervisor.image_sealing:2", "hypervisor.image_recorded:3", "hypervisor.image_sealed:2"),
    *("hypervisor.image_cloned", "hypervisor.image_booting", "hypervisor.image_booted"),
    *("hypervisor.image_changed", "hypervisor.image_off", "hypervisor.image_booted:4"),
    *("hypervisor.volume_made", "hypervisor.volume_named:3"),
)
WAYS = (
    *("hypervisor.image_opening", "hypervisor.image_opened", "hypervisor.image_booted:2"),
    *("hypervisor.image_closing", "hypervisor.image_closed", "hypervisor.image_closed:2"),
)
"""Of a build whose scripts may reach something outside; the network's own steps are killed where networks are."""
STANDING = ("hypervisor.image_opened", "hypervisor.image_booted:2", "hypervisor.image_closing")
GOING = ("hypervisor.image_pushed_aside", "hypervisor.template_pushed_aside")
CHILD = """
import asyncio, os, sys
from pathlib import Path
from paddock.agent.skills.hypervisor.images.collecting import Wanted
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from tests.agent.hypervisor.builders import House, image
from tests.agent.hypervisor.test_image_crashes import outward

async def main(root, url, act):
    if act == "outside":
        layout = Layout.of(Path(root))
        async with Rootless(layout.networks, layout.instance) as networks:
            house = House(Path(root), networks=networks)
            await house.images.open()
            await house.images.ensure(outward(url))
        return
    house = House(Path(root))
    await house.images.open()
    if act == "ensure":
        chain = (image("debian", url=url), image("web", "one", "two", parent="debian"))
        await house.images.ensure(chain)
    else:
        await house.images.collect(Wanted(), is_dry=False)

asyncio.run(main(*sys.argv[1:]))
"""


def die(root: Path, url: str, act: str, point: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), url, act],
        env={**os.environ, "PADDOCK_FAULT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == -9, ran.stderr


def outward(url: str) -> Chain:
    """Scripts of two images, each with a list of its own."""
    return (
        image("debian", url=url),
        image("web", "one", parent="debian", egress=("127.0.0.1:9",)),
        image("shop", "two", parent="web", egress=("127.0.0.1:10",)),
    )


def served(files: Files, tmp_path: Path) -> tuple[Chain, str]:
    (tmp_path / "root").mkdir()
    content = disk(tmp_path / "disk").read_bytes()
    files.content["debian"] = content
    return (
        (image("debian", url=f"{files.url}/debian"), image("web", "one", "two", parent="debian")),
        hashlib.sha256(content).hexdigest(),
    )


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_while_an_image_is_built_is_made_up_for_by_the_next_start(tmp_path: Path, point: str) -> None:
    with serving() as files:
        chain, base = served(files, tmp_path)
        die(tmp_path / "root", chain[0].url, "ensure", point)
        house = House(tmp_path / "root")
        await house.images.open()

        assert house.making == []
        for layer in house.store.all():
            assert house.store.find(layer.digest) == layer, "what has a record is whole"
        leaf = await house.images.ensure(chain)

        assert leaf == steps(chain, base)[-1].digest
        assert {layer.digest for layer in house.store.all()} == {base, *(step.digest for step in steps(chain, base))}
        assert (house.making, house.host.machines) == ([], {})
        assert list((tmp_path / "root" / "images" / "downloads").glob("*.part")) == []
        await house.images.close()


@pytest.mark.parametrize("point", WAYS)
async def test_a_kill_while_a_build_has_a_way_outside_leaves_no_network(tmp_path: Path, point: str) -> None:
    layout = Layout.of(tmp_path / "root")
    try:
        with serving() as files:
            served(files, tmp_path)
            chain = outward(f"{files.url}/debian")
            die(tmp_path / "root", chain[0].url, "outside", point)
            assert bool(left_behind(tmp_path)) == (point in STANDING), "its gate outlives the agent"
            if point == "hypervisor.image_opened":
                # And the one that was about to sweep it.
                die(tmp_path / "root", chain[0].url, "outside", "hypervisor.image_closing")
                assert left_behind(tmp_path)

            async with Rootless(layout.networks, layout.instance) as networks:
                house = House(tmp_path / "root", networks=networks)
                await house.images.open()

                assert (house.making, await networks.found(layout.instance)) == ([], [])
                assert (left_behind(tmp_path), list(layout.networks.glob("[!.]*"))) == ([], [])
                await house.images.ensure(chain)

                assert (house.making, await networks.found(layout.instance)) == ([], [])
                assert (left_behind(tmp_path), list(layout.networks.glob("[!.]*"))) == ([], [])
                await house.images.close()
    finally:
        for identity in left_behind(tmp_path):
            trees.send(identity, signal.SIGKILL)


async def test_a_kill_in_the_middle_of_a_download_costs_what_came_after_it_only(tmp_path: Path) -> None:
    with serving() as files:
        chain, _ = served(files, tmp_path)
        die(tmp_path / "root", chain[0].url, "ensure", "hypervisor.image_downloading:4")
        house = House(tmp_path / "root")
        await house.images.open()
        await house.images.ensure(chain)
        await house.images.close()

    assert files.asked[0] == ""
    assert int(files.asked[1].removeprefix("bytes=").removesuffix("-")) > 0


@pytest.mark.parametrize("point", GOING)
async def test_a_kill_while_something_is_collected_leaves_no_half_of_it(tmp_path: Path, point: str) -> None:
    with serving() as files:
        chain, _ = served(files, tmp_path)
        house = House(tmp_path / "root")
        leaf = await house.images.ensure(chain)
        template = house.layout.templates / "t1"
        template.mkdir(parents=True)
        (template / "made.json").write_text(json.dumps({"layer": leaf, "made": 1.0}))
        for used in house.layout.images.glob("*/used"):
            os.utime(used, (1e9, 1e9))
        await house.images.close()

        die(tmp_path / "root", chain[0].url, "collect", point)
        house = House(tmp_path / "root")
        await house.images.open()

        assert house.making == []
        assert list(house.store.templates()) == []
        for layer in house.store.all():
            assert house.store.find(layer.digest) == layer
        assert (house.store.find(leaf) is None) == (point == "hypervisor.image_pushed_aside")
        gone = await house.images.collect(Wanted(), is_dry=False)
        assert len(gone) == (3 if point == "hypervisor.image_pushed_aside" else 4)
        assert await house.images.ensure(chain) == leaf
        await house.images.close()
