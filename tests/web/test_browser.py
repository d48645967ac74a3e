"""The pages in a real browser: live, linked to the line, within reach of the keyboard, asking nobody outside.

With PADDOCK_PICTURES=DIRECTORY the pages are also photographed there, light, dark and as on a phone.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from paddock.engine import noting
from tests.web.scene import OPERATOR, PERSON, Scene, Wall, make, print_on

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: ./dev host-setup installs it"),
]
PICTURES = {
    "now": "/",
    "run": "/runs/118/",
    "run-failed": "/runs/110/",
    "run-merged": "/runs/118/?machine=all",
    "runs": "/runs",
    "round": "/rounds/30",
    "change": "/changes/review/912340",
    "environments": "/environments",
    "environment": "/environments/two-node-1",
    "environment-virtual": "/environments/lab-1",
    "environment-saved": "/environments/lab-2",
    "machine": "/environments/lab-1/machines/one",
    "images": "/images",
    "image": "/images/web",
    "image-building": "/images/centos",
    "image-failed": "/images/kernel-next",
    "run-console": "/runs/118/?machine=controller#console-1-controller",
    "hosts": "/hosts",
    "agent": "/agents/two-node-1.controller",
    "agent-host": "/agents/a-vm-1",
    "leases": "/leases",
    "lease": "/leases/l121",
    "events": "/events",
    "event": "/events/43",
    "login": "/login",
    "api": "/docs",
}


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Scene, str]]:
    """The scene on a port of its own, with a run that goes on printing."""
    scene = await make(clock=Wall(), virtual=True)
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(scene.app, log_level="warning", access_log=False))
    server.config.timeout_graceful_shutdown = 1
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[sock]))
        printing = group.create_task(print_on(scene))
        try:
            yield scene, f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            printing.cancel()
            server.should_exit = True
            await serving


@asynccontextmanager
async def browser(**options: Any) -> AsyncIterator[Any]:
    """A page that collects what went wrong on it."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        context = await chromium.new_context(**options)
        try:
            yield await context.new_page()
        finally:
            await chromium.close()


async def test_a_log_is_followed_linked_and_searched() -> None:
    trouble: list[str] = []
    async with served() as (scene, address), browser() as page:
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: request.url.startswith(address) or trouble.append(request.url))

        run = await scene.store.read(lambda tables: tables.runs.find("110"))
        assert run
        name = f"{run.archive}/logs/main-2-compute"
        await scene.archive.write(f"{name}.log", b"".join(b"line %d of many\n" % n for n in range(1, 900_001)))
        await page.goto(f"{address}/runs/110/#main-2-compute-L700000-L700003")
        await page.wait_for_selector("#main-2-compute-L700002.on", timeout=20_000)
        assert await page.inner_text("#main-2-compute-L700002 code") == "line 700002 of many"
        assert await page.locator(".l").count() < 1000

        await page.fill("[data-search]", "LINE 123456 of")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#main-2-compute-L123456.hit", timeout=20_000)

        await page.goto(f"{address}/runs/110/#controller-L86")
        await page.wait_for_selector(".l.on")

        await page.goto(f"{address}/runs/118/")
        before = await page.locator("#main-2-controller .l").last.inner_text()
        await page.wait_for_function(
            "before => [...document.querySelectorAll('#main-2-controller .l')].at(-1).innerText !== before", arg=before
        )
    assert trouble == []


async def test_keys_move_open_search_and_help() -> None:
    async with served() as (_, address), browser() as page:
        await page.goto(address)
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        assert await page.inner_text(".at .id") == "run 120"
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"{address}/runs/120/")
        await page.goto(f"{address}/events")
        await page.keyboard.press("/")
        assert await page.evaluate("document.activeElement.name") == "project"
        await page.keyboard.press("Escape")
        await page.keyboard.press("?")
        assert await page.is_visible("#help")


async def test_a_person_logs_in_and_presses_a_button() -> None:
    async with served() as (scene, address), browser() as page:
        # The scene's public address is https, where a cookie is Secure: the token goes in as after logging in there.
        await page.context.add_cookies([{"name": "paddock", "value": OPERATOR, "url": address}])
        await page.goto(f"{address}/environments/two-node-4")
        await page.click("text=Clean")
        await page.wait_for_url(f"{address}/environments/two-node-4")
        row = await scene.store.read(lambda tables: tables.environments.find("two-node-4"))
    assert row
    assert row.state.value == "cleaning"


async def test_an_agents_own_log_grows_while_it_is_read() -> None:
    trouble: list[str] = []
    async with served() as (scene, address), browser() as page:
        page.on("pageerror", lambda error: trouble.append(str(error)))

        async def log(text: str, level: str) -> None:
            entry = {"level": level, "msg": text, "time": "2026-01-31T09:42:00.5Z"}
            scene.tail.grew(noting.place("a-vm-1"), await noting.note(scene.archive, "a-vm-1", [entry]))

        await page.goto(f"{address}/agents/a-vm-1")
        await page.wait_for_selector("#link:text-is('live')")
        await log("one <b>more</b>", "warning")
        await page.wait_for_selector(".ownlog p.warning:has-text('one <b>more</b>')")
        async with page.expect_navigation(url="**/agents/a-vm-1?level=error*"):
            await page.select_option("[data-submits]", "error")
        await log("of no interest", "info")
        await log("look here", "error")
        await page.wait_for_selector(".ownlog p.error:has-text('look here')")
        assert await page.locator(".ownlog p").count() == 2, "the error that was there, and the new one"
        before = await page.inner_text(".ownlog")
        await page.reload()
        assert await page.inner_text(".ownlog") == before, "the page is told what the script drew"
    assert trouble == []


async def test_a_console_is_followed_and_a_screen_is_looked_at_again() -> None:
    trouble: list[str] = []
    async with served() as (scene, address), browser() as page:
        await page.context.add_cookies([{"name": "paddock", "value": PERSON, "url": address}])
        page.on("pageerror", lambda error: trouble.append(str(error)))
        pictures: list[str] = []
        page.on("request", lambda request: "screen.png" in request.url and pictures.append(request.url))

        await page.goto(f"{address}/environments/lab-1/machines/one")
        await page.wait_for_selector("#console-901-one-L93")
        name = "agents/a-vm-1/commands/console/out.log"
        length = await scene.archive.append(name, await scene.archive.length(name) or 0, b"root\r\nPassword: ")
        scene.tail.grew(name, length)
        await page.wait_for_selector("#console-901-one-L94 code:text-is('Password: ')")
        assert await page.evaluate("document.querySelector('img.screen').naturalWidth") == 320
        async with page.expect_request(lambda request: "screen.png?at=" in request.url, timeout=20_000):
            pass
        await page.click("text=Reset")
        await page.wait_for_url(f"{address}/environments/lab-1/machines/one")
        pressed = await scene.store.read(lambda tables: tables.commands.where(method="machine.power"))
    assert [command.params["action"] for command in pressed] == ["reset"]
    assert len(pictures) >= 2
    assert trouble == []


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
async def test_every_page_fits_and_none_complains(look: str) -> None:
    options: dict[str, Any] = {
        "viewport": {"width": 390, "height": 800} if look == "phone" else {"width": 1360, "height": 900},
        "color_scheme": "dark" if look == "dark" else "light",
    }
    pictures = os.environ.get("PADDOCK_PICTURES")
    trouble: list[str] = []
    async with served() as (_, address), browser(**options) as page:
        await page.context.add_cookies([{"name": "paddock", "value": OPERATOR, "url": address}])
        page.on("console", lambda said: said.type in ("error", "warning") and trouble.append(said.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        for name, path in PICTURES.items():
            await page.goto(address + path)
            if path not in ("/login", "/docs"):
                # Not a function to wait for: asked a second time it would be an eval, which the pages forbid.
                await page.wait_for_selector("#link:text-is('live')")
            wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if wide > 0:
                trouble.append(f"{path} is {wide} pixels too wide")
            # A table of its own width scrolls; these are read whole, what became of an event and how long a run took.
            cut = await page.evaluate(
                "[...document.querySelectorAll('.folds td, .row .num')]"
                ".filter(e => e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1)"
                ".map(e => e.innerText)"
            )
            if look == "phone" and cut:
                trouble.append(f"{path} cuts {cut}")
            if pictures:
                await page.screenshot(path=Path(pictures) / f"{name}-{look}.png", full_page=name != "api")
    assert trouble == []
