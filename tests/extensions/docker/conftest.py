"""A Docker Engine of its own for these tests: its data, its socket and its containers lie in one directory."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import paddock_docker
from paddock.agent.entry import Outcome
from paddock.core.errors import PaddockError
from paddock.hands.launcher import Launcher
from paddock.wire.methods import METHODS
from paddock_docker.engine import Engine, connect, rows
from tests.agent.conftest import desk, host
from tests.agent.doing import Doer

__all__ = ["desk", "host"]

TABLE = {**METHODS, **{row.name: row for row in paddock_docker.METHODS}}
_START_LIMIT = 60  # seconds


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A dockerd that this session started."""

    directory: Path
    process: "subprocess.Popen[bytes]"

    @property
    def host(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def pid_of_containerd(self) -> int | None:
        try:
            return int((self.directory / "exec/containerd/containerd.pid").read_text())
        except (OSError, ValueError):
            return None


def _begin(directory: Path) -> Daemon:
    words = [f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/pid"]
    words += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]
    words += [f"--cgroup-parent=/paddock-test-{os.getpid()}", f"--host=unix://{directory}/docker.sock"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["/usr/sbin/dockerd", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return Daemon(directory=directory, process=process)


def _answers(daemon: Daemon) -> str:
    """Nothing once it answers; else why it does not."""
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline:
        if daemon.process.poll() is not None:
            said = (daemon.directory / "log").read_text(errors="replace").strip().splitlines()
            return f"dockerd ended: {said[-1] if said else 'without a word'}"
        if (daemon.directory / "docker.sock").exists():
            try:
                asyncio.run(_with(daemon, connect))
                return ""
            except PaddockError:
                pass
        time.sleep(0.05)
    return f"dockerd does not answer within {_START_LIMIT} s"


async def _with(daemon: Daemon, act: Any) -> Any:
    before = os.environ.get("DOCKER_HOST")
    os.environ["DOCKER_HOST"] = daemon.host
    try:
        return await act()
    finally:
        os.environ.pop("DOCKER_HOST")
        if before is not None:
            os.environ["DOCKER_HOST"] = before


async def _clear() -> None:
    engine = await connect()
    for row in rows(await engine.ask("GET", "/containers/json", {"all": True})):
        await engine.ask("DELETE", f"/containers/{row['Id']}", {"force": True, "v": True})


def _end(daemon: Daemon) -> None:
    """Exactly what was started: containers by the Engine, it by its pid, its containerd by the pid that it wrote."""
    if daemon.process.poll() is None:
        try:
            asyncio.run(_with(daemon, _clear))
        except PaddockError as exc:
            print(f"containers may be left: {exc}")
    containerd = daemon.pid_of_containerd()
    daemon.process.terminate()
    try:
        daemon.process.wait(20)
    except subprocess.TimeoutExpired:
        daemon.process.kill()
        daemon.process.wait()
    deadline = time.monotonic() + 10
    while containerd is not None and _is_ours(containerd, daemon.directory):
        if time.monotonic() > deadline:
            os.kill(containerd, signal.SIGKILL)
        time.sleep(0.05)


def _is_ours(pid: int, directory: Path) -> bool:
    try:
        return str(directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    if os.geteuid() != 0:
        pytest.skip("dockerd wants root")
    if not Path("/usr/sbin/dockerd").exists():
        pytest.skip("dockerd is not installed here (./dev host-setup)")
    # Sockets below it have long names, and a socket's path holds 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="pd-", dir="/tmp"))
    made = _begin(directory)
    try:
        if why := _answers(made):
            pytest.skip(why)
        yield made
    finally:
        _end(made)
        for kind in Path("/sys/fs/cgroup").glob(f"*/paddock-test-{os.getpid()}"):
            kind.rmdir()
        shutil.rmtree(directory)


def output_of(outcome: Outcome) -> bytes:
    return Path(outcome.streams["out"].path).read_bytes()


@dataclass(frozen=True, kw_only=True)
class Docker:
    """The skill, with an Engine of its own."""

    doer: Doer
    daemon: Daemon
    engine: Engine
    busybox: Path

    async def ask(self, verb: str, **params: Any) -> Outcome:
        call = self.doer.call(f"docker.{verb}", among=TABLE, **params)
        return await self.doer.do(paddock_docker.methods(self.doer.place)[call.method], call)

    async def told(self, verb: str, **params: Any) -> dict[str, Any]:
        outcome = await self.ask(verb, **params)
        assert outcome.code is None, outcome.msg
        return dict(outcome.result)

    async def printed(self, container: str, **params: Any) -> tuple[bytes, dict[str, Any]]:
        """What docker.logs sends, and what it says of it."""
        outcome = await self.ask("logs", container=container, **params)
        data = output_of(outcome)
        assert len(data) == outcome.streams["out"].length
        return data, dict(outcome.result)

    async def run(self, name: str, script: str, **params: Any) -> None:
        """A container that does this."""
        made = {"image": "busybox", "network": "none", "command": ["/bin/sh", "-c", script], **params}
        await self.told("create", name=name, **made)
        await self.told("start", container=name)

    async def ended(self, name: str) -> int:
        """The exit of a container, once it has ended."""
        found: Any = await self.engine.ask("POST", f"/containers/{name}/wait")
        return int(found["StatusCode"])


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar with busybox alone."""
    source = Path("/bin/busybox")
    if not source.exists():
        pytest.skip("busybox-static is not installed here (./dev host-setup)")
    tree = tmp_path_factory.mktemp("busybox")
    tree.chmod(0o755)
    (tree / "bin").mkdir()
    for name in ("tmp", "proc", "sys", "dev", "etc"):
        (tree / name).mkdir()
    shutil.copy(source, tree / "bin/busybox")
    for name in (
        "sh",
        "echo",
        "cat",
        "sleep",
        "seq",
        "id",
        "hostname",
        "true",
        "trap",
        "mkdir",
        "ls",
        "date",
        "usleep",
    ):
        (tree / "bin" / name).symlink_to("busybox")
    tar = tree.parent / "busybox.tar"
    subprocess.run(["tar", "-C", tree, "-cf", tar, "."], check=True)
    return tar


@pytest.fixture
async def docker(
    daemon: Daemon, busybox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Docker]:
    monkeypatch.setenv("DOCKER_HOST", daemon.host)
    async with Launcher() as launcher:
        doer = Doer(tmp_path / "agent", launcher)
        made = Docker(doer=doer, daemon=daemon, engine=await connect(), busybox=busybox)
        await made.ask("import", path=str(busybox), image="busybox", changes=['CMD ["/bin/sh"]'])
        yield made
        await _with(daemon, _clear)
