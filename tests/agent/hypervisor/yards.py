"""Where each driver runs its machines for the contract suite, and speaks with what is inside.

What is inside answers the words of tiny.py: the real guest's script, and here the same for the driver without machines.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from paddock.agent.skills.hypervisor.drivers.qemu import Qemu
from paddock.agent.skills.hypervisor.drivers.qemu.command import PROGRAM
from paddock.agent.skills.hypervisor.ports import SYSTEM, Disk, Driver, Plan
from paddock.core.machine import uniform
from paddock.hands.lines import reachable
from tests.agent.hypervisor import tiny
from tests.agent.hypervisor.fakes import FakeDriver, Host, Start, serve
from tools.maven import Unavailable

INSTANCE = "0c0ffee0"
MIB = 1 << 20
SIZE = 8 * MIB
UP = 60.0


class Yard(Protocol):
    """One host with one driver."""

    root: Path

    def driver(self) -> Driver:
        """An agent starts; what the one before started still runs."""

    def plan(self, name: str, **changes: Any) -> Plan:
        """A machine with one disk, blank if it is new."""

    async def close(self) -> None:
        """Nothing runs any more."""


class _Yard:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.plans: dict[str, Plan] = {}

    def plan(self, name: str, **changes: Any) -> Plan:
        directory = self.root / "machines" / name
        disk = directory / "disks" / "system.raw"
        if not disk.exists():
            disk.parent.mkdir(parents=True, exist_ok=True)
            disk.touch()
            os.truncate(disk, SIZE)
        made = Plan(
            name=uniform(INSTANCE, "yard", name),
            directory=directory,
            memory=160 * MIB,
            vcpus=1,
            disks=[Disk(name=SYSTEM, path=disk, format="raw")],
        )
        self.plans[name] = replace(made, **changes)
        return self.plans[name]


class FakeYard(_Yard):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.host = Host()

    def driver(self) -> Driver:
        return FakeDriver(self.host, inside, is_dialled=True)

    async def close(self) -> None:
        await self.host.close()


class QemuYard(_Yard):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if shutil.which(PROGRAM) is None:
            raise Unavailable(f"qemu: there is no {PROGRAM} here; on Debian: apt-get install qemu-system-x86")
        self.kernel, self.initrd = tiny.start()

    def driver(self) -> Qemu:
        return Qemu(self.root, instance=INSTANCE, wanted="tcg")

    def plan(self, name: str, **changes: Any) -> Plan:
        booted = {"kernel": self.kernel, "initrd": self.initrd, "cmdline": tiny.CMDLINE}
        return super().plan(name, **{**booted, **changes})

    async def close(self) -> None:
        driver = self.driver()
        for plan in self.plans.values():
            await driver.end(plan.directory, plan.name)


YARDS: Mapping[str, Callable[[Path], Yard]] = {"fake": FakeYard, "qemu": QemuYard}


@asynccontextmanager
async def speaking(plan: Plan) -> AsyncIterator["Channel"]:
    """A session with what is inside a machine."""
    path = plan.directory / "channel"
    with reachable(path) as address:
        reader, writer = await asyncio.open_unix_connection(address)
    try:
        yield Channel(reader, writer)
    finally:
        writer.close()


class Channel:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def tell(self, line: str) -> None:
        self._writer.write(f"{line}\n".encode())

    async def ask(self, line: str) -> str:
        async with asyncio.timeout(UP):
            self.tell(line)
            return (await self._reader.readline()).decode().strip()


async def ask(plan: Plan, *lines: str) -> list[str]:
    """What it answers, in a session of its own; waits until it is up."""
    async with speaking(plan) as channel:
        return [await channel.ask(line) for line in lines]


def cloned(source: Plan, target: Plan) -> Plan:
    """Its disks, as a volume's clone has them."""
    for one, other in zip(source.disks, target.disks, strict=True):
        shutil.copy(one.path, other.path)
    return target


async def inside(start: Start) -> None:
    """The tiny guest without a machine."""
    disk, memory = start.plan.disks[0].path, start.memory
    file = start.plan.directory / "console.log"

    def answer(line: str) -> str | None:
        word, _, rest = line.partition(" ")
        match word:
            case "count":
                memory["count"] = str(int(memory.get("count", "0")) + 1)
                return memory["count"]
            case "store":
                with disk.open("r+b") as opened:
                    opened.write(rest.encode() + b"\n")
                return "stored"
            case "stored":
                return disk.read_bytes().partition(b"\n")[0].strip(b"\0").decode()
            case "cards":
                return " ".join(card.mac for card in start.plan.cards)
            case "say":
                with file.open("a") as log:
                    log.write(f"{rest}\n")
                return "said"
            case "uuid":
                return memory.setdefault("uuid", hashlib.sha256(start.plan.name.encode()).hexdigest())
            case "off":
                return None
        return f"what is {word}"

    await serve(start, answer)
