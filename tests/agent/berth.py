"""A guest's agent as a process, parked on a port, whose machine is a directory; and the host that wakes it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from paddock.agent.parking import record
from paddock.agent.parking.record import Record
from paddock.agent.skills.hypervisor.inside import Inside
from paddock.hands import trees
from paddock.wire.specs import Peer, Wake
from tests import warm
from tests.agent.conftest import SOURCE
from tests.agent.guest import MACHINE, Hypervisor

LIMIT = timedelta(seconds=40)
MAC = "52:54:00:12:34:56"


def wake(id: str = "wake-1", **other: Any) -> Wake:
    """Who a machine may be told to be."""
    told: dict[str, Any] = {
        "agent": "lab-7.web",
        "environment": "lab-7",
        "machine": "web",
        "fence": 41,
        "hostname": "web-1",
        "machine_id": "0123456789abcdef" * 2,
        "wake_id": id,
        "time": datetime(2026, 11, 20, 12, tzinfo=UTC),
        "entropy": bytes(range(64)),
        "host_keys": {"ssh_host_ed25519_key": "a private key\n", "ssh_host_ed25519_key.pub": "a public key\n"},
        "authorized_keys": ("ssh-ed25519 AAAA somebody",),
        "login_key": "the login key\n",
        "peers": (Peer(machine="db", addresses=("192.168.80.11",)),),
        "env": {"http_proxy": "http://10.0.2.100:3128"},
    }
    return Wake(**told | other)


class Parked:
    """The agent's process, begun again at will on its state; `root` is its machine."""

    def __init__(self, directory: Path, hypervisor: Hypervisor) -> None:
        self.hypervisor = hypervisor
        self.state = directory / "state"
        self.root = directory / "root"
        self.log = directory / "log"
        self.process: warm.Process | None = None
        self.surroundings: dict[str, str] = {}
        for path, text in MACHINE.items():
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    def start(self, *, fault: str = "") -> None:
        """As its service does; `fault` kills it there once, in whatever process it is then."""
        if fault:
            self.surroundings = {"PADDOCK_FAULT": fault, "PADDOCK_FAULT_ONCE": str(self.state.parent / "died")}
        words = ["run", "--line", f"virtio:{self.hypervisor.device}", "--parked", "--rootfs", str(self.root)]
        with self.log.open("ab") as log:
            self.process = warm.start(
                [sys.executable, "-m", "paddock.agent", *words, "--state", str(self.state)],
                env={**os.environ, "PYTHONPATH": str(SOURCE), **self.surroundings},
                log=log,
                is_mute=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def record(self) -> Record | None:
        return record.load(self.state) if (self.state / record.FILE).exists() else None

    @property
    def told(self) -> list[str]:
        """What its kernel was told, in order."""
        file = self.root / "run/paddock/told"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def heard(self) -> Path:
        """What it was told to be, until it has settled."""
        return self.root / "run/paddock/wake"

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def files(self) -> dict[str, str]:
        """All that its machine holds, but for what its kernel was told."""
        found = {str(path.relative_to(self.root)): path for path in self.root.rglob("*") if path.is_file()}
        return {name: path.read_text() for name, path in found.items() if not name.startswith("run/paddock")}

    async def until_told(self, line: str) -> None:
        """Wait until its kernel was told this."""
        while True:
            if line in self.told:
                return
            await asyncio.sleep(0.01)

    async def died(self) -> None:
        """Wait until it was killed."""
        assert self.process is not None
        code = await asyncio.to_thread(self.process.wait, 40)
        assert code == -signal.SIGKILL, self.log.read_text()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def inside(self) -> Inside:
        return Inside(self.hypervisor.socket, name="guest")


def card(root: Path, index: int, mac: str) -> None:
    """A network card appears."""
    about = root / f"sys/class/net/eth{index}"
    about.mkdir(parents=True)
    (about / "ifindex").write_text(f"{index}\n")
    (about / "address").write_text(f"{mac}\n")


@asynccontextmanager
async def parked(directory: Path) -> AsyncIterator[Parked]:
    """A machine with a port, whose agent is not begun yet; nothing of it is left."""
    async with Hypervisor(directory / "port").open() as hypervisor:
        made = Parked(directory, hypervisor)
        try:
            yield made
        finally:
            made.kill()
            for _ in range(50):
                left = trees.inside(made.state)
                if not left:
                    break
                trees.kill(lambda found=left: found)  # type: ignore[misc]
