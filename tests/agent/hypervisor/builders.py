"""A host that builds images without machines: agents inside that run nothing, and a server of files that misbehaves."""

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor.images import Images
from paddock.agent.skills.hypervisor.images.building import Means
from paddock.agent.skills.hypervisor.images.outside import Uplinks
from paddock.agent.skills.hypervisor.images.store import Store
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.core.errors import Broken
from paddock.core.image import BuildScript, Entry, Image
from paddock.wire.specs import Wake
from tests.agent.hypervisor.doubles import FakeNetworks
from tests.agent.hypervisor.fakes import FakeDriver, Host, Start

MIB = 1 << 20


@dataclass
class Agents:
    """The agents in machines that build."""

    host: Host
    ran: list[str] = field(default_factory=list)
    """Names of scripts: what is behind `# ` in their first line."""
    told: list[dict[str, object]] = field(default_factory=list)
    wakes: list[Wake] = field(default_factory=list)
    exits: dict[str, int] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    """A script that has one ends when it is set."""
    began: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    mute: Callable[[Start], bool] = lambda start: False

    @asynccontextmanager
    async def inside(self, directory: Path) -> AsyncIterator["Agent"]:
        found = [one for one in self.host.machines.values() if one.start.plan.directory == directory]
        if not found:
            raise Broken(f"{directory.name}: its channel is dead")
        yield Agent(self, found[0].start)


@dataclass
class Agent:
    """The one in a machine."""

    agents: Agents
    start: Start

    def _look(self) -> None:
        if self.start.plan.name not in self.agents.host.machines:
            raise Broken(f"{self.start.plan.name}: its channel is dead")

    async def parked(self, limit: timedelta) -> None:
        await asyncio.sleep(0)
        self._look()
        if self.agents.mute(self.start):
            raise Broken(f"{self.start.plan.name}: its agent does not come within {limit}")

    async def wake(self, wake: Wake, limit: timedelta) -> str:
        self._look()
        self.agents.wakes.append(wake)
        return f"kernel+{wake.wake_id}"

    async def run(
        self,
        script: str,
        *,
        interpreter: str,
        env: Mapping[str, str],
        limit: timedelta,
        files: Mapping[str, str] | None = None,
        output: Callable[[bytes], None] | None = None,
    ) -> int:
        name = script.removeprefix("# ").splitlines()[0]
        self.agents.ran.append(name)
        self.agents.told.append({"interpreter": interpreter, "env": dict(env), "files": dict(files or {})})
        self.agents.began.put_nowait(name)
        if output is not None:
            output(f"{name} prints\n".encode())
        if name in self.agents.gates:
            await self.agents.gates[name].wait()
        self._look()
        return self.agents.exits.get(name, 0)

    async def park(self, limit: timedelta, *, power_off: bool = False) -> None:
        self._look()
        if power_off:
            self.agents.host.vanish(self.start.plan.name)


class House:
    """One host with its images."""

    def __init__(self, root: Path, kind: str = "qcow2", networks: FakeNetworks | Rootless | None = None) -> None:
        self.layout = Layout.of(root)
        self.host = Host()
        self.driver = FakeDriver(self.host)
        self.agents = Agents(self.host)
        self.disks = kinds.named(kind, root)
        self.store = Store(self.layout, self.disks)
        self.networks = networks or FakeNetworks()
        self.images = self.again()

    def again(self) -> Images:
        """As after a restart of the agent."""
        means = Means(
            store=self.store,
            driver=self.driver,
            inside=self.agents.inside,
            archive=lambda: b"the agent",
            outside=Uplinks(networks=self.networks, variables=self.networks.variables),
        )
        self.images = Images(means)
        return self.images

    @property
    def making(self) -> list[str]:
        """What is not whole."""
        return sorted(place.name for place in self.layout.making.iterdir()) if self.layout.making.is_dir() else []

    @property
    def boots(self) -> int:
        return sum(call.startswith("boot ") for call in self.driver.calls)


def script(name: str, **rest: Mapping[str, str]) -> BuildScript:
    return BuildScript(name=name.split("/")[0], run=f"# {name}\ntrue\n", **rest)


def image(name: str, *scripts: str, path: Path | None = None, url: str = "", parent: str = "", **rest: object) -> Image:
    return Image(
        name=name,
        path=str(path) if path is not None else "",
        url=url,
        parent=parent,
        scripts=tuple(script(one) for one in scripts),
        memory=64 * MIB,
        entry=Entry.NONE,
        **rest,  # type: ignore[arg-type]  # as each test has it
    )


def disk(path: Path, words: bytes = b"a disk") -> Path:
    """A raw image of 4 MiB."""
    with path.open("wb") as file:
        file.write(words)
        file.truncate(4 * MIB)
    return path


# ---- a server of files -----------------------------------------------------------------------------------------------


@dataclass
class Files:
    """What is served, and how badly. `asked` has the Range of each request, empty for none."""

    url: str = ""
    content: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"1"'
    cut: list[int] = field(default_factory=list)
    """The next answers end after so many bytes of their body."""
    codes: list[int] = field(default_factory=list)
    """The next answers are these."""
    has_length: bool = True
    is_chunked: bool = False
    """Nobody says how long the whole is, and the body comes in chunks."""
    surplus: bytes = b""
    """Behind the end of each part."""
    redirect: dict[str, str] = field(default_factory=dict)
    hang: threading.Event | None = None
    """After the first half of a body, it is waited for."""
    asked: list[str] = field(default_factory=list)
    halfway: threading.Event = field(default_factory=threading.Event)
    counted: Counter[str] = field(default_factory=Counter)


@contextmanager
def serving(**rest: object) -> Iterator[Files]:
    """On a port of the loopback."""
    files = Files(**rest)  # type: ignore[arg-type]  # as each test has it

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                _answer(files, self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    files.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield files
    finally:
        if files.hang is not None:
            files.hang.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(files: Files, to: BaseHTTPRequestHandler) -> None:
    path = to.path.lstrip("/")
    files.asked.append(to.headers.get("Range", ""))
    files.counted[path] += 1
    if files.codes:
        to.send_error(files.codes.pop(0))
        return
    if path in files.redirect:
        to.send_response(302)
        to.send_header("Location", files.redirect[path])
        to.end_headers()
        return
    body = files.content[path]
    start = 0
    found = re.fullmatch(r"bytes=([0-9]+)-", to.headers.get("Range", ""))
    if found and to.headers.get("If-Range") == files.etag:
        start = int(found[1])
    if start >= len(body) and start:
        to.send_response(416)
        to.send_header("Content-Range", f"bytes */{len(body)}")
        to.send_header("Content-Length", "0")
        to.end_headers()
        return
    to.send_response(206 if start else 200)
    if start:
        whole = "*" if files.is_chunked else len(body)
        to.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{whole}")
    if files.is_chunked:
        to.send_header("Transfer-Encoding", "chunked")
    elif files.has_length:
        to.send_header("Content-Length", str(len(body) - start))
    if files.etag:
        to.send_header("ETag", files.etag)
    to.end_headers()
    rest = body[start:] + (files.surplus if start else b"")
    cut = files.cut.pop(0) if files.cut else None
    if files.is_chunked:
        to.wfile.write(b"%x\r\n%s\r\n" % (len(rest[:cut]), rest[:cut]) + (b"0\r\n\r\n" if cut is None else b""))
        return
    rest = rest[:cut]
    half = len(rest) // 2
    to.wfile.write(rest[:half])
    to.wfile.flush()
    if files.hang is not None:
        files.halfway.set()
        files.hang.wait(60)
    to.wfile.write(rest[half:])
