"""Images of real guests: built by scripts inside, layer by layer, from a bare disk and from a cloud image."""

import asyncio
import hashlib
import http.server
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from paddock.agent.bundle import bundling
from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor import identities
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.drivers.qemu import Qemu
from paddock.agent.skills.hypervisor.errands.putting import Helper
from paddock.agent.skills.hypervisor.images import Images
from paddock.agent.skills.hypervisor.images.building import Means
from paddock.agent.skills.hypervisor.images.outside import Uplinks
from paddock.agent.skills.hypervisor.images.store import Store
from paddock.agent.skills.hypervisor.inside import Channels
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.agent.skills.hypervisor.ports import Plan
from paddock.core.image import BuildScript, Chain, Entry, kernel_of
from paddock.core.image import Image as Configured
from tests.agent.hypervisor.test_rootless import left_behind
from tests.agent.hypervisor.test_rootless_guests import served
from tests.e2e.seeded import assert_both_know_it
from tools import cloudimage
from tools.guest import Image
from tools.maven import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 1 << 20
LIMIT = timedelta(minutes=10)
CMDLINE = "console=ttyS0 quiet mitigations=off"


@dataclass
class Yard:
    """A host with real machines."""

    root: Path
    log: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root.mkdir(mode=0o700, exist_ok=True)
        self.layout = Layout.of(self.root)
        self.disks: Files = kinds.named("qcow2", self.root)
        self.driver = Qemu(self.root, instance=self.layout.instance)
        self.channels = Channels()
        self.networks = Rootless(self.layout.networks, self.layout.instance)
        archive = bundling.archive
        means = Means(
            store=Store(self.layout, self.disks),
            driver=self.driver,
            inside=self.channels.inside,
            archive=archive,
            outside=Uplinks(networks=self.networks, variables=self.networks.variables),
            helper=Helper(self.driver, self.disks, instance=self.layout.instance, archive=archive),
        )
        self.images = Images(means)

    async def ensure(self, chain: Chain) -> str:
        self.log.clear()
        return await self.images.ensure(chain, self.log.append)

    @property
    def said(self) -> str:
        return b"".join(self.log).decode("utf-8", "replace")

    async def is_clean(self) -> bool:
        running = await self.driver.running(self.layout.instance)
        networks = [*await self.networks.found(self.layout.instance), *left_behind(self.root)]
        return not running and not networks and not (self.layout.making.is_dir() and os.listdir(self.layout.making))

    async def written(self, digest: str, *words: str) -> str:
        """What debugfs says of the files on an image's disk, without that anybody has booted from it."""
        (disk,) = await self.disks.disks(self.images.volume(digest))
        flat = self.root / f"flat-{secrets.token_hex(4)}"
        try:
            await asyncio.to_thread(_run, "qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.path, flat)
            return "".join([await asyncio.to_thread(_run, "debugfs", "-R", each, flat) for each in words])
        finally:
            flat.unlink(missing_ok=True)

    async def asked(self, digest: str, chain: Chain, script: str) -> str:
        """What a script prints in a machine that was booted from an image."""
        name = f"ask-{secrets.token_hex(4)}"
        directory = self.layout.making / name
        directory.mkdir(parents=True)
        await self.disks.clone(self.images.volume(digest), directory / "disks")
        kernel = kernel_of(chain)
        plan = Plan(
            name=f"paddock-{self.layout.instance}-{name}",
            directory=directory,
            memory=chain[-1].memory,
            vcpus=1,
            disks=await self.disks.disks(directory / "disks"),
            kernel=Path(kernel.kernel) if kernel.kernel else None,
            initrd=Path(kernel.initrd) if kernel.initrd else None,
            cmdline=kernel.cmdline,
        )
        said: list[bytes] = []
        try:
            await self.driver.boot(plan)
            async with self.channels.inside(directory) as guest:
                await guest.parked(LIMIT)
                await guest.wake(identities.of_nobody("asked"), LIMIT)
                await guest.run(script, interpreter="/bin/sh -e", env={}, limit=LIMIT, output=said.append)
        finally:
            await self.driver.end(directory, plan.name)
            await Store(self.layout, self.disks).drop(directory)
        return b"".join(said).decode()


def _run(*argv: str | Path) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path})
    return done.stdout + done.stderr


def script(name: str, run: str, files: Mapping[str, str] | None = None) -> BuildScript:
    return BuildScript(name=name, run=run, files=files or {})


ONE = script("one", "cat /etc/greeting; echo one >> /etc/layers; sync\n", {"/etc/greeting": "hello from a file\n"})
FETCH = """\
curl -fsS http://127.0.0.2:{open}/page
echo its neighbour says $(curl -sS -o /dev/null -w '%{{http_code}}' http://127.0.0.2:{closed}/page)
curl -fsS --noproxy '*' --max-time 2 http://10.0.2.2:{open}/page && echo AROUND
curl -fsS --noproxy '*' --max-time 2 http://127.0.0.2:{open}/page && echo AROUND
grep -q 'http_proxy="http://10.0.2.100:3128"' /etc/environment && echo logins have it, too
"""
"""It gets what is on the list, at an address of the host that no guest takes for itself; nothing else, nowhere else."""
CARDS = "echo its cards: $(ls /sys/class/net) ${http_proxy:-no proxy}\n"
TWO = script("two", "echo two >> /etc/layers; echo there is: $(cat /etc/layers)\n")
THREE = script("three", "echo three >> /etc/layers; echo there is: $(cat /etc/layers)\n")


@pytest.fixture(scope="module")
def page() -> Iterator[int]:
    """A port of the host's loopback at which a page is served."""
    with served("127.0.0.2") as port:
        yield port


@pytest.fixture(scope="module")
def neighbour() -> Iterator[int]:
    """Another one."""
    with served("127.0.0.2") as port:
        yield port


@pytest.fixture
def debian(guest_image: Image, page: int, neighbour: int) -> Chain:
    base = Configured(
        name="debian",
        path=str(guest_image.disk),
        kernel=str(guest_image.kernel),
        initrd=str(guest_image.initrd),
        cmdline=CMDLINE,
        entry=Entry.HELPER,
        memory=384 * MIB,
        limit=LIMIT,
    )
    one = replace(ONE, run=ONE.run + FETCH.format(open=page, closed=neighbour))
    egress = (f"127.0.0.2:{page}",)
    web = Configured(name="web", parent="debian", scripts=(one, TWO), memory=384 * MIB, limit=LIMIT, egress=egress)
    return base, web


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One host for all: what one test has built, the next one has."""
    return tmp_path_factory.mktemp("images") / "host"


@pytest.fixture
async def yard(root: Path) -> AsyncIterator[Yard]:
    yard = Yard(root)
    async with yard.networks:
        await yard.images.open()
        yield yard
        await yard.images.close()
        await yard.channels.close()
        for one in await yard.driver.running(yard.layout.instance):
            await yard.driver.end(one.directory, one.name)
        for environment in await yard.networks.found(yard.layout.instance):
            await yard.networks.close(environment)


async def test_an_image_is_built_by_its_scripts_and_healed(yard: Yard, debian: Chain) -> None:
    leaf = await yard.ensure(debian)
    print(yard.said)

    assert "hello from a file" in yard.said
    # What its image lists is reached through the gate, and nothing else, by no other way.
    assert "page for /page" in yard.said
    assert "its neighbour says 403" in yard.said
    assert "logins have it, too" in yard.said
    assert "AROUND" not in yard.said
    wrote = await yard.written(leaf, "cat /etc/layers", "cat /etc/environment", "ls -p /etc/systemd/network")
    assert wrote.splitlines()[:2] == ["one", "two"]
    assert not re.search("proxy|10[.]0[.]2|05-paddock", wrote), "a layer holds nothing of its build's network"
    assert "the helper machine has put the agent in" in yard.said
    assert "there is: one two" in yard.said
    told = await yard.asked(leaf, debian, "cat /etc/layers; ls /etc/ssh; ls -A /opt/paddock-agent/state")
    assert told.splitlines()[:2] == ["one", "two"]
    assert "ssh_host" not in told, "an image holds no host keys"

    # Another second script: only its layer is built. Without a list it has neither card nor proxy; the first one is
    # the same with another list.
    changed = replace(TWO, run=f"echo changed >> /etc/layers\n{CARDS}{TWO.run}")
    await yard.ensure((debian[0], replace(debian[1], scripts=(debian[1].scripts[0], changed), egress=())))
    assert "script one" not in yard.said
    assert "its cards: lo no proxy" in yard.said
    assert "there is: one changed two" in yard.said

    # Removed by hand: built again.
    await Store(yard.layout, yard.disks).remove(leaf)
    assert await yard.ensure(debian) == leaf
    assert "script one" not in yard.said
    assert "there is: one two" in yard.said
    assert await yard.is_clean()


CHILD = """
import asyncio, sys
from pathlib import Path
from paddock.core.image import Image
from paddock.wire.specs import read_image
from tests.e2e.test_images import Yard
import json

async def main():
    yard = Yard(Path(sys.argv[1]))
    chain = tuple(read_image(one, "chain") for one in json.load(sys.stdin))
    async with yard.networks:
        await yard.images.open()
        await yard.ensure(chain)

asyncio.run(main())
"""


def die(root: Path, chain: Chain, point: str) -> int:
    import json

    from paddock.wire.specs import chain_params

    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(root)],
        input=json.dumps(chain_params(chain)),
        env={**os.environ, "PADDOCK_FAULT": point, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=False,
        timeout=300,
    )
    return ran.returncode


async def test_a_kill_while_a_real_machine_builds_leaves_nothing(yard: Yard, debian: Chain) -> None:
    await yard.ensure(debian)
    egress = debian[1].egress
    shop = Configured(name="shop", parent="web", scripts=(THREE,), memory=384 * MIB, limit=LIMIT, egress=egress)
    for point in ("hypervisor.image_booted", "hypervisor.image_changed", "hypervisor.image_off"):
        assert await asyncio.to_thread(die, yard.root, (*debian, shop), point) == -9
        if point != "hypervisor.image_off":
            assert len(await yard.driver.running(yard.layout.instance)) == 1, "it outlives the agent"
        assert len(left_behind(yard.root)) == 1, "and so does its gate"

        await yard.images.open()

        assert await yard.is_clean()
        assert "shop" not in {layer.image for layer in Store(yard.layout, yard.disks).all()}
    await yard.ensure((*debian, shop))
    assert "there is: one two three" in yard.said
    assert await yard.is_clean()


class _Cutting(http.server.SimpleHTTPRequestHandler):
    """Serves files with Range, and cuts the first answer in the middle."""

    cuts: ClassVar[list[int]] = []
    asked: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        size, start = path.stat().st_size, 0
        self.asked.append(self.headers.get("Range", ""))
        if found := re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", "")):
            start = int(found[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", '"image"')
        self.end_headers()
        left = self.cuts.pop() if self.cuts else size - start
        with path.open("rb") as file:
            file.seek(start)
            while left > 0 and (data := file.read(min(left, MIB))):
                self.wfile.write(data)
                left -= len(data)


@pytest.fixture
def cloud() -> Path:
    try:
        return cloudimage.image()
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    servers: list[http.server.ThreadingHTTPServer] = []

    def begin(directory: Path) -> str:
        handler = partial(_Cutting, directory=str(directory))
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


async def test_a_cloud_image_is_downloaded_and_entered_by_its_cloud_init(
    yard: Yard, cloud: Path, serve: Callable[[Path], str], page: int, tmp_path: Path
) -> None:
    _Cutting.cuts, _Cutting.asked = [50 * MIB], []
    digest = hashlib.sha256(await asyncio.to_thread(cloud.read_bytes)).hexdigest()
    base = Configured(
        name="cloud",
        url=f"{serve(cloud.parent)}/{cloud.name}",
        sha256=digest,
        entry=Entry.NOCLOUD,
        memory=512 * MIB,
        limit=LIMIT,
    )
    keys = script("keys", "echo keys: $(ls /etc/ssh/ssh_host* 2>/dev/null || echo none)\n")
    fetch = f"import urllib.request as web; print(web.urlopen('http://127.0.0.2:{page}/cloud').read())"
    own = replace(ONE, run=f'{ONE.run}{keys.run}python3 -c "{fetch}"\n')
    egress = (f"127.0.0.2:{page}",)
    web = Configured(name="web", parent="cloud", scripts=(own,), memory=512 * MIB, limit=LIMIT, egress=egress)
    chain = (base, web)

    try:
        leaf = await yard.ensure(chain)
    finally:
        print(yard.said)

    assert _Cutting.asked == ["", f"bytes={50 * MIB}-"]
    assert "hello from a file" in yard.said
    assert "keys: none" in yard.said
    assert "page for /cloud" in yard.said
    assert await yard.is_clean()

    volume = yard.images.volume(leaf)
    await assert_both_know_it(yard.driver, yard.disks, volume, tmp_path, instance=yard.layout.instance)
