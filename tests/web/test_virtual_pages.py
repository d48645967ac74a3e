"""Pages of images and virtual machines: who sees a console or a screen, and whose buttons are there."""

import asyncio
import base64
import json
import re
from dataclasses import replace

import httpx
import pytest

from paddock.core import command
from paddock.core.host import Stored
from paddock.ports import Tables
from tests.web.conftest import HTML, ask
from tests.web.lab import HOSTILE, picture
from tests.web.scene import LAB, OPERATOR, PERSON, Scene, make

MACHINE = "/environments/lab-1/machines/one"
CONSOLE = f"{MACHINE}/log/console-901-one"
PAGES = (
    "/images",
    "/images/debian",
    "/images/centos",
    "/images/kernel-next",
    "/images/devstack",
    "/environments",
    "/environments/lab-1",
    "/environments/lab-2",
    MACHINE,
    "/environments/lab-1/machines/two",
    "/environments/two-node-1/machines/compute",
    "/hosts",
    "/runs/118/?machine=controller",
    "/runs/118/?machine=all",
)


@pytest.fixture
async def scene() -> Scene:
    return await make(virtual=True)


async def page(scene: Scene, path: str, secret: str = "") -> str:
    async with ask(scene, secret) as client:
        answer = await client.get(path, headers=HTML)
    assert answer.status_code == 200, answer.text
    return answer.text


async def press(scene: Scene, path: str, secret: str, **fields: str) -> httpx.Response:
    async with ask(scene, secret) as client:
        return await client.post(path, data=fields, headers={**HTML, "origin": "http://ci.example.org"})


async def ordered(scene: Scene, method: str) -> list[command.Command]:
    return await scene.store.read(lambda tables: tables.commands.where(method=method))


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["", PERSON, LAB, OPERATOR])
async def test_every_page_is_whole_and_its_text_is_text(scene: Scene, secret: str) -> None:
    for path in PAGES:
        text = await page(scene, path, secret)
        assert text.rstrip().endswith("</html>"), path
        assert "<script>" not in text, path
        assert HOSTILE not in text, path
        assert " style=" not in text, path


async def test_images_stand_below_what_they_are_made_of(scene: Scene) -> None:
    text = await page(scene, "/images")
    names = re.findall(
        r'(</ul>|<ul>|href="/images/([a-z-]+)")', text.partition('class="chain"')[2].partition("What")[0]
    )
    drawn = " ".join(name or tag for tag, name in names)
    assert drawn == "debian <ul> web <ul> devstack </ul> kernel-next </ul> centos </ul>"
    assert "40 %, 2m 05s left" in text
    assert "kernel: exit 2" in text


async def test_an_image_tells_its_layers_and_its_log(scene: Scene) -> None:
    text = await page(scene, "/images/web", OPERATOR)
    assert re.findall(r"<tr data-row><td>(\w+)</td>", text) == ["base", "agent", "packages", "motd"]
    assert "Build anew" in text
    assert "Build anew" not in await page(scene, "/images/web", PERSON)
    text = await page(scene, "/images/kernel-next")
    assert "make: *** no rule" in text
    async with ask(scene) as client:
        told = (await client.get("/images/kernel-next/log/build-3-vm-1/lines")).json()
        assert (told["total"], told["ended"]) == (2, True)
        assert (await client.get("/images/kernel-next/log/build-2-vm-1/lines")).status_code == 404
        assert (await client.get("/images/kernel-next/log/console-3-vm-1/lines")).status_code == 404
        assert (await client.get("/images/none", headers=HTML)).status_code == 404


async def test_an_operator_has_an_image_built(scene: Scene) -> None:
    assert (await press(scene, "/images/kernel-next/build", PERSON)).status_code == 403
    assert (await press(scene, "/images/kernel-next/build", OPERATOR)).status_code == 303
    row = await scene.store.read(lambda tables: tables.images.find("kernel-next@vm-1"))
    assert row is not None
    assert (row.state.value, row.asked_by) == ("wanted", "ops")


async def test_a_machine_tells_its_cards_and_how_it_came_to_life(scene: Scene) -> None:
    text = await page(scene, MACHINE)
    assert "booted: its image has no template yet" in text
    assert len(re.findall(r"<code>52:54:00:[0-9a-f:]{8}</code>", text)) == 2
    assert "connected to nothing" in text
    assert "SHA256:" in text
    assert "forked" in await page(scene, "/environments/lab-1/machines/two")


@pytest.mark.parametrize("secret", ["", LAB])
async def test_whose_it_is_not_sees_neither_console_nor_screen_nor_buttons(scene: Scene, secret: str) -> None:
    for path in (MACHINE, "/environments/lab-1"):
        text = await page(scene, path, secret)
        assert "/power" not in text
        assert "screen.png" not in text
        assert "clocksource" not in text
    async with ask(scene, secret) as client:
        for path in (f"{MACHINE}/screen.png", CONSOLE, f"{CONSOLE}/lines", f"{CONSOLE}/search?q=a", f"{CONSOLE}/live"):
            assert (await client.get(path)).status_code in (401, 403), path
    assert await ordered(scene, "machine.power") == []
    assert (await press(scene, f"{MACHINE}/power", secret, action="off")).status_code in (401, 403)
    assert await ordered(scene, "machine.power") == []


@pytest.mark.parametrize("secret", [PERSON, OPERATOR])
async def test_who_has_it_sees_its_console_and_screen_and_presses_its_buttons(scene: Scene, secret: str) -> None:
    text = await page(scene, MACHINE, secret)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; says a driver" in text
    assert 'data-ended="no"' in text
    async with ask(scene, secret) as client:
        screen = await client.get(f"{MACHINE}/screen.png")
        assert (screen.headers["content-type"], screen.content) == ("image/png", picture())
        assert (await client.get(f"{CONSOLE}/lines?first=1&count=5")).json()["total"] == 93
        assert json.loads((await client.get(f"{CONSOLE}/search?q=login")).text)["hits"] == [93]
    assert (await press(scene, f"{MACHINE}/power", secret, action="kick")).status_code == 422
    answer = await press(scene, f"{MACHINE}/power", secret, action="reset")
    assert (answer.status_code, answer.headers["location"]) == (303, MACHINE)
    (command,) = await ordered(scene, "machine.power")
    assert (command.params["action"], command.params["fence"], command.machine) == ("reset", 5, "one")
    assert (await press(scene, f"{MACHINE}/console", secret)).status_code == 303
    assert len(await ordered(scene, "machine.console")) == 2


async def test_a_picture_is_drawn_anew_once_it_is_old_and_once_for_all_who_look(scene: Scene) -> None:
    def grow_old(tables: Tables) -> None:
        row = tables.commands.find("shot")
        assert row is not None
        tables.commands.remove(row.id)

    await scene.store.write(grow_old)
    png = base64.b64encode(b"anew").decode()

    asked = asyncio.Event()
    stop = scene.store.subscribe(lambda touched: asked.set())
    async with ask(scene, PERSON) as client, ask(scene, OPERATOR) as other:
        looking = [asyncio.create_task(each.get(f"{MACHINE}/screen.png")) for each in (client, other)]
        await asyncio.wait_for(asked.wait(), 10)
        stop()
        (drawing,) = await ordered(scene, "machine.screenshot")

        def draw(tables: Tables) -> None:
            row = tables.commands.find(drawing.id)
            assert row is not None
            done = replace(row, state=command.State.COMPLETE, result={"png": png}, ended=scene.clock.now())
            tables.commands.swap(row, done)

        await scene.store.write(draw)
        assert [(await each).content for each in looking] == [b"anew", b"anew"]
    assert len(await ordered(scene, "machine.screenshot")) == 1


async def test_saved_disks_are_brought_up_again_by_who_holds_them(scene: Scene) -> None:
    text = await page(scene, "/environments/lab-2", PERSON)
    assert "Bring up again" in text
    assert "/power" not in text
    answer = await press(scene, "/environments/lab-2/fork", PERSON)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/leases/")
    assert (await press(scene, "/environments/lab-2/fork", LAB)).status_code in (403, 409)


async def test_what_is_booked_on_a_host_is_drawn(scene: Scene) -> None:
    text = await page(scene, "/hosts")
    assert 'aria-label="memory: 7.0 GiB of 64.0 GiB"' in text
    assert 'aria-label="vcpus: 7 of 16"' in text


async def test_what_of_a_hosts_disk_images_and_templates_take_is_told(scene: Scene) -> None:
    assert "of the disk images" not in await page(scene, "/hosts")

    def count(tables: Tables) -> None:
        for host in tables.hosts.where():
            tables.hosts.swap(host, replace(host, stored=Stored(images=3 << 30, templates=1 << 29)))

    await scene.store.write(count)
    assert "of the disk images 3.0 GiB, templates 512 MiB" in await page(scene, "/hosts")


async def test_a_console_stands_among_the_logs_of_its_run_closed_and_neither_good_nor_bad(scene: Scene) -> None:
    text = await page(scene, "/runs/118/?machine=controller")
    console = text.partition('id="console-1-controller"')[2].partition("</summary>")[0]
    assert "serial line" in console
    assert "console 1" not in console
    assert 'class="state' not in console
    assert " open>" not in console
    async with ask(scene) as client:
        lines = (await client.get("/api/v1/runs/118/lines", params={"machine": "controller"})).json()["items"]
    assert "console-1-controller" in {line["stream"] for line in lines}
