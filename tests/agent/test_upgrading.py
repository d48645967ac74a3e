"""An upgrade: checked, tried beside the old program, switched, settled by a hello, or undone; killed at every step."""

import asyncio
import contextlib
import hashlib
import http.server
import io
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent import dialing, fetching
from paddock.agent.skills.system import upgrade as upgrade_skill
from paddock.agent.upgrade import upgrading
from paddock.core.errors import Broken
from paddock.wire.hello import Status, TaskState
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import CODE, Desk
from tests.certificates import Authority

pytestmark = pytest.mark.slow

WELL = "from paddock.agent.__main__ import main; main()"
POINTS = (
    *("upgrade.fetching", "upgrade.fetched", "upgrade.trying", "upgrade.tried", "upgrade.noting", "upgrade.noted"),
    *("upgrade.switched", "upgrade.settling", "upgrade.settled"),
)
BACK_POINTS = ("upgrade.giving_back", "upgrade.given_up", "upgrade.given_back")


def bundle(path: Path, version: str, main: str = WELL) -> str:
    """A program that says it is of another version; its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", f"import paddock\npaddock.__version__ = {version!r}\n{main}\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Installed(Host):
    """An agent that runs out of one file, as a service's manager would start it: again whenever it has ended."""

    @property
    def program(self) -> Path:
        return self.state.parent / "base" / "bin" / "paddock-agent.pyz"

    def start(self, *more: str, **env: str) -> None:
        words = ["run", "--server", self.desk.url, "--state", str(self.state), "--code", CODE, "--cloud", "none", *more]
        self.env.update(env)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(self.program), *words],
                env={**os.environ, "PYTHONPATH": str(SOURCE), **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def keep_alive(self) -> None:
        while True:
            if not self.is_alive:
                self.kill()
                self.start()
            await asyncio.sleep(0.02)

    def digest(self) -> str:
        return hashlib.sha256(self.program.read_bytes()).hexdigest()


@pytest.fixture
def host(desk: Desk, tmp_path: Path) -> Iterator[Installed]:
    made = Installed(desk, tmp_path / "state")
    bundle(made.program, "1.0")
    yield made
    made.clear()


class Shelf:
    """Programs over HTTP on loopback."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.asked: list[str] = []
        shelf = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *words: object) -> None:
                super().__init__(*words, directory=str(directory))  # type: ignore[arg-type]

            def log_message(self, format: str, *words: object) -> None:
                shelf.asked.append(self.path)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def put(self, name: str, version: str, main: str = WELL) -> dict[str, str]:
        sha256 = bundle(self.directory / name, version, main)
        return {"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "sha256": sha256}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "shelf")
    yield made
    made.server.shutdown()
    made.server.server_close()


async def upgrade(desk: Desk, limit: float = 60, **params: object) -> Status:
    await desk.say(desk.command("u", "agent.upgrade", within=5, **params))
    return await desk.final("u", limit=limit)


def versions(desk: Desk) -> list[str]:
    return [hello.software for hello in desk.hellos]


async def test_the_new_program_reports_and_running_tasks_go_on(desk: Desk, host: Installed, shelf: Shelf) -> None:
    host.start()
    await desk.here()
    assert host.process is not None
    pid = host.process.pid
    wait = f"echo up; while [ ! -e {host.state.parent}/go ]; do sleep 0.05; done; echo down"
    await desk.ask(desk.command("t", "script.run", run=wait))
    await desk.until(lambda: desk.streams["t", "out"] == b"up\n")
    before, wanted = host.digest(), shelf.put("new.pyz", "2.0")

    status = await upgrade(desk, **wanted)

    assert status.state is TaskState.COMPLETE, status.msg
    assert status.result == {"version": "2.0", "sha256": wanted["sha256"], "before": "1.0", "changed": True}
    # First beside the old program, then in its place, in the very same process.
    assert versions(desk) == ["paddock 1.0", "paddock 2.0", "paddock 2.0"] or versions(desk)[-1] == "paddock 2.0"
    assert host.is_alive
    assert host.process.pid == pid
    assert host.digest() == wanted["sha256"]
    (host.state.parent / "go").touch()
    assert await desk.whole("t") == b"up\ndown\n"
    stored = {path.name for path in (host.program.parents[1] / "versions").iterdir()}
    assert stored == {f"{before}.pyz", f"{wanted['sha256']}.pyz"}
    await desk.until(lambda: not (host.state / upgrading.FILE).exists())


async def test_systemd_hears_the_new_program_and_no_end_of_the_old_one(
    desk: Desk, host: Installed, shelf: Shelf, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)  # noqa: FBT003 - the standard library's signature
        host.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        status = await upgrade(desk, **shelf.put("new.pyz", "2.0"))
        assert status.state is TaskState.COMPLETE, status.msg
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(manager.recv(4096).decode())
    assert sum("READY=1" in one for one in heard) == 2
    assert not any("STOPPING=1" in one for one in heard)


async def test_the_program_that_runs_already_is_not_fetched(desk: Desk, host: Installed, shelf: Shelf) -> None:
    host.start()
    status = await upgrade(desk, url=shelf.put("new.pyz", "2.0")["url"], sha256=host.digest())
    assert status.state is TaskState.COMPLETE
    assert status.result is not None
    assert status.result["changed"] is False
    assert shelf.asked == []


async def test_an_older_program_may_take_the_place(desk: Desk, host: Installed, shelf: Shelf) -> None:
    host.start()
    status = await upgrade(desk, **shelf.put("old.pyz", "0.9"))
    assert status.result is not None
    assert (status.result["version"], status.result["before"]) == ("0.9", "1.0")


async def test_real_bundles_take_each_others_place(desk: Desk, host: Installed, shelf: Shelf) -> None:
    from paddock.agent.bundle import bundling

    made = bundling.archive()
    for path, version in ((host.program, "1.0"), (shelf.directory / "new.pyz", "2.0")):
        path.write_bytes(_as_version(made, version))
        path.chmod(0o755)
    host.env |= {"PYTHONPATH": "", "PADDOCK_AGENT_CACHE": str(host.state.parent / "cache")}
    (host.state.parent / "cache").mkdir(mode=0o700)
    host.start()
    sha256 = hashlib.sha256((shelf.directory / "new.pyz").read_bytes()).hexdigest()
    status = await upgrade(desk, url=f"http://127.0.0.1:{shelf.server.server_port}/new.pyz", sha256=sha256)
    assert status.state is TaskState.COMPLETE, status.msg
    assert status.result is not None
    assert (status.result["version"], status.result["before"]) == ("2.0", "1.0")
    assert {path.name for path in host.program.parents[1].iterdir()} == {"bin", "versions"}


def _as_version(made: bytes, version: str) -> bytes:
    """A bundle that says that it is of another version; of another digest, so that it is unpacked for itself."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(made)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            text = source.read(name)
            if name == "paddock/__init__.py":
                text += f"\n__version__ = {version!r}\n".encode()
            if name == "__main__.py":
                text = re.sub(rb'DIGEST = "[0-9a-f]*"', f'DIGEST = "{version}"'.encode(), text)
            target.writestr(name, text)
    return out.getvalue()


@pytest.mark.parametrize(
    ("main", "why"),
    [
        ("raise SystemExit('no such module')", "no such module"),
        ("import sys\nif '--version' in sys.argv: print('x')\nelse: sys.exit(5)", "ended with 5"),
        ("import sys\nif '--version' in sys.argv: print('x')\nelse: print('hi')", "says nothing about its trial"),
        (
            "import json, sys\nif '--version' in sys.argv: print('x')\nelse: print(json.dumps({'is_welcome': False}))",
            "was not welcome",
        ),
        ("import sys, time\nif '--version' in sys.argv: print('x')\nelse: time.sleep(100)", "has not ended within"),
    ],
    ids=["does not start", "does not run", "is something else", "is not welcome", "hangs"],
)
async def test_a_program_that_fails_its_trial_changes_nothing(
    desk: Desk, host: Installed, shelf: Shelf, main: str, why: str
) -> None:
    host.start()
    await desk.here()
    before = host.digest()
    status = await upgrade(desk, **shelf.put("bad.pyz", "2.0", main))
    assert (status.state, status.code) == (TaskState.ERROR, "failed")
    assert why in (status.msg or "")
    assert host.digest() == before
    assert not (host.state / upgrading.FILE).exists()
    assert {seat.hello.software for seat in desk.seats.values()} <= {"paddock 1.0"}


async def test_a_program_with_another_digest_never_runs(desk: Desk, host: Installed, shelf: Shelf) -> None:
    host.start()
    ran = host.state.parent / "ran"
    wanted = shelf.put("new.pyz", "2.0", f"open({str(ran)!r}, 'w')")
    status = await upgrade(desk, url=wanted["url"], sha256="0" * 64)
    assert status.code == "refused"
    assert "sha256" in (status.msg or "")
    assert not ran.exists()
    assert list((host.program.parents[1] / "versions").iterdir()) == []


async def test_the_agents_own_server_is_trusted_as_it_is_with_its_token(shelf: Shelf, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    shelf.server.socket = authority.serving("127.0.0.1").wrap_socket(shelf.server.socket, server_side=True)
    wanted = shelf.put("new.pyz", "2.0")
    url = wanted["url"].replace("http:", "https:")
    own = f"wss://127.0.0.1:{shelf.server.server_port}/agent"
    ours = dialing.server((own,), authorities=authority.path, certificate=None)
    other = dialing.server(("wss://192.0.2.1/agent",), authorities=authority.path, certificate=None)

    async def fetch(server: dialing.Server) -> None:
        what = fetching.Wanted(
            url=url, sha256=wanted["sha256"], most=1 << 20, trust=upgrade_skill.trust_for(url, server)
        )
        await fetching.fetch(what, tmp_path / "fetched", limit=timedelta(seconds=20))

    with pytest.raises(Broken, match="certificate verify failed"):
        await fetch(other)
    await fetch(ours)
    assert hashlib.sha256((tmp_path / "fetched").read_bytes()).hexdigest() == wanted["sha256"]


async def test_a_package_or_a_machine_without_isolation_is_not_upgraded_this_way(desk: Desk, tmp_path: Path) -> None:
    plain = Host(desk, tmp_path / "plain")
    plain.start()
    status = await upgrade(desk, url="https://192.0.2.1/new.pyz", sha256="0" * 64)
    plain.clear()
    assert (status.code, status.msg) == ("refused", "agent.upgrade: this agent is a Python package")


async def test_http_from_elsewhere_is_refused_before_anything_is_asked(desk: Desk, host: Installed) -> None:
    host.start()
    status = await upgrade(desk, url="http://192.0.2.1/new.pyz", sha256="0" * 64)
    assert status.code == "refused"
    assert "in clear" in (status.msg or "")


# It passes its trial beside the old program; in its place it is another matter.
IN_PLACE = "import os, sys\nif 'PADDOCK_TRIAL' not in os.environ and 'run' in sys.argv:\n"


@pytest.mark.parametrize(
    "fault",
    [
        "    import paddock.agent.greeting as greeting\n    greeting.Greeting.say = None\n",
        "    import paddock.agent.ledger as ledger\n    ledger.Ledger.open = None\n",
    ],
    ids=["says no hello in time", "ends at each start"],
)
async def test_a_program_that_is_not_welcome_in_its_place_gives_way_to_the_old_one(
    desk: Desk, host: Installed, shelf: Shelf, fault: str
) -> None:
    host.start()
    await desk.here()
    before = host.digest()
    living = asyncio.ensure_future(host.keep_alive())
    try:
        status = await upgrade(desk, **shelf.put("bad.pyz", "2.0", IN_PLACE + fault + WELL))
        assert (status.state, status.code) == (TaskState.ERROR, "failed")
        assert "the old program is back" in (status.msg or "")
        assert host.digest() == before
        assert (await desk.here()).hello.software == "paddock 1.0"
        await desk.ask(desk.command("t", "script.run", run="true"))
        assert (await desk.final("t")).state is TaskState.COMPLETE
        await desk.until(lambda: not (host.state / upgrading.FILE).exists())
    finally:
        await end(living)


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_any_step_ends_in_one_whole_program_and_one_report(
    desk: Desk, host: Installed, shelf: Shelf, tmp_path: Path, point: str
) -> None:
    once = tmp_path / "once"
    host.start(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    living = asyncio.ensure_future(host.keep_alive())
    try:
        wanted = shelf.put("new.pyz", "2.0")
        status = await upgrade(desk, **wanted)
        assert once.exists(), "the point was never passed"
        assert status.state is TaskState.COMPLETE, status.msg
        assert status.result is not None
        assert status.result["version"] == "2.0"
        assert host.digest() == wanted["sha256"]
        await desk.until(lambda: "host" in desk.seats and desk.seats["host"].hello.software == "paddock 2.0")
        await desk.until(lambda: not (host.state / upgrading.FILE).exists())
    finally:
        await end(living)
    assert len({str(one.result) for one in desk.finals["u"]}) == 1


@pytest.mark.parametrize("point", BACK_POINTS)
async def test_a_kill_while_the_old_program_comes_back_leaves_the_old_program(
    desk: Desk, host: Installed, shelf: Shelf, tmp_path: Path, point: str
) -> None:
    once = tmp_path / "once"
    host.start(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    before = host.digest()
    living = asyncio.ensure_future(host.keep_alive())
    try:
        fault = "    import paddock.agent.ledger as ledger\n    ledger.Ledger.open = None\n"
        status = await upgrade(desk, **shelf.put("bad.pyz", "2.0", IN_PLACE + fault + WELL))
        assert once.exists(), "the point was never passed"
        assert status.code == "failed"
        assert host.digest() == before
        assert (await desk.here()).hello.software == "paddock 1.0"
    finally:
        await end(living)


async def end(living: "asyncio.Future[None]") -> None:
    living.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await living


def test_every_point_of_an_upgrade_is_passed_here() -> None:
    files = [*(SOURCE / "paddock/agent").rglob("upgrading.py"), *(SOURCE / "paddock/agent").rglob("upgrade.py")]
    found = {point for path in files for point in re.findall(r'faults\.at\("([a-z_.]+)"\)', path.read_text())}
    assert found == {*POINTS, *BACK_POINTS}
