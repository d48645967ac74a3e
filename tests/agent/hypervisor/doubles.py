"""Disks, networks, images and guests without machines, for the middle of the skill; they misbehave on request."""

# ruff: noqa: ASYNC240 - these are small files of one test, on nobody else's loop

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from paddock.agent.skills.hypervisor.ports import SYSTEM, Card, Disk, Usage
from paddock.core.errors import Broken, Missing, Refused, Unbuilt
from paddock.core.machine import Nic
from paddock.hands import links
from paddock.hands.link import Link
from paddock.wire import messages
from paddock.wire.hello import Facts, Hello
from paddock.wire.messages import Command
from paddock.wire.specs import NetworkSpec, Wake
from tests.agent.hypervisor.fakes import Start


class FakeDisks:
    """Volumes of small plain files."""

    name = "fake"

    async def check(self) -> None:
        pass

    async def create(self, volume: Path, disks: Mapping[str, int]) -> None:
        volume.mkdir(parents=True)
        for name in disks:
            (volume / name).write_text("blank")

    async def take(self, volume: Path, source: Path, *, format: str, size: int = 0) -> None:
        volume.mkdir(parents=True)
        shutil.copy(source, volume / SYSTEM)

    async def clone(self, source: Path, target: Path, *, size: int = 0, blank: Sequence[int] = ()) -> None:
        if not source.is_dir():
            raise Missing(f"{source}: there is no such volume")
        shutil.copytree(source, target)
        for number, _ in enumerate(blank, 1):
            (target / f"blank-{number}").write_text("blank")

    async def copy(self, source: Path, target: Path) -> None:
        await self.clone(source, target)

    async def remove(self, volume: Path) -> None:
        shutil.rmtree(volume, ignore_errors=True)

    async def disks(self, volume: Path) -> Sequence[Disk]:
        if not volume.is_dir():
            raise Missing(f"{volume}: there is no such volume")
        names = sorted((file.name for file in volume.iterdir()), key=lambda name: (name != SYSTEM, name))
        return [Disk(name=name, path=volume / name, format="raw") for name in names]

    async def usage(self, volume: Path) -> Usage:
        size = sum(file.stat().st_size for file in volume.iterdir())
        return Usage(own=size, apparent=size)

    async def room(self) -> int:
        return 1 << 40


UPLINK = Card(mac="52:54:00:ff:ff:ff", netdev="fake", address="10.0.2.15/24")


@dataclass
class FakeNetworks:
    """What is open, and which machine is wired."""

    name: str = "fake"
    opened: dict[str, list[str]] = field(default_factory=dict)
    wired: set[tuple[str, str]] = field(default_factory=set)
    uplinks: set[str] = field(default_factory=set)

    async def check(self) -> None:
        pass

    async def open(self, environment: str, networks: Sequence[NetworkSpec], egress: Sequence[str]) -> None:
        self.opened[environment] = [network.name for network in networks]
        self.uplinks |= {environment} if egress else set()

    async def wire(self, environment: str, machine: str, directory: Path, nics: Sequence[Nic]) -> Sequence[Card]:
        if environment not in self.opened:
            raise Refused(f"{environment}: its networks are not open")
        for nic in nics:
            if nic.network and nic.network not in self.opened[environment]:
                raise Refused(f"{environment}/{machine}: there is no network {nic.network}")
        self.wired.add((environment, machine))
        cards = [Card(mac=nic.mac, netdev=nic.network and "fake", address=nic.address) for nic in nics]
        return [*cards, UPLINK] if environment in self.uplinks else cards

    async def unwire(self, environment: str, machine: str) -> None:
        self.wired.discard((environment, machine))

    async def close(self, environment: str) -> None:
        self.opened.pop(environment, None)
        self.uplinks.discard(environment)

    def variables(self, environment: str, peers: Sequence[str] = ()) -> Mapping[str, str]:
        return {"http_proxy": "http://fake"} if environment in self.uplinks else {}

    async def found(self, instance: str) -> Sequence[str]:
        return list(self.opened)


class FakeImages:
    """Every image is there but those of `lost`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lost: set[str] = set()
        self.turn = asyncio.Lock()
        self.asked = asyncio.Event()

    @contextlib.asynccontextmanager
    async def staying(self) -> AsyncIterator[None]:
        self.asked.set()
        async with self.turn:
            yield

    async def find(self, digest: str) -> None:
        name = digest.removeprefix("layer-of-")
        if name in self.lost:
            raise Unbuilt(f"layer {digest}: it is not there")
        volume = self.volume(digest)
        if not volume.is_dir():
            volume.mkdir(parents=True)
            (volume / SYSTEM).write_text(name)

    def volume(self, digest: str) -> Path:
        return self.root / "images" / digest


@dataclass
class Guests:
    """The agents in all machines: what each was told, by the machine's directory."""

    wakes: dict[Path, list[Wake]] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    mute: set[str] = field(default_factory=set)
    """Uniform names of machines whose agent never comes."""
    refuses: list[str] = field(default_factory=list)
    """What the next wakes are answered with."""
    exits: dict[str, int] = field(default_factory=dict)
    _awake: dict[Path, asyncio.Event] = field(default_factory=dict)

    def awake(self, directory: Path) -> asyncio.Event:
        return self._awake.setdefault(directory, asyncio.Event())

    @contextlib.asynccontextmanager
    async def inside(self, directory: Path, *, is_fork: bool = False) -> AsyncIterator["Guest"]:
        """As `parts.Channels`."""
        yield Guest(self, directory)

    async def reach(self, directory: Path) -> Link:
        return await links.connect(f"serial:{directory / 'channel'}")

    async def live(self, start: Start) -> None:
        """What runs in a machine: once it is awake it says hello to whoever opens its channel."""
        served = start.plan.directory / "channel"
        handle = os.open(start.plan.directory, os.O_PATH | os.O_DIRECTORY)
        try:
            served.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(
                lambda reader, writer: self._talk(start, reader, writer), f"/proc/self/fd/{handle}/channel"
            )
        finally:
            os.close(handle)
        async with server:
            await server.serve_forever()

    async def _talk(self, start: Start, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        directory = start.plan.directory
        await self.awake(directory).wait()
        wake = self.wakes[directory][-1]
        hello = Hello(
            software="guest/1",
            boot_id=f"kernel+{wake.wake_id}",
            ledger=wake.wake_id,
            facts=Facts(hostname=wake.hostname),
        )
        with contextlib.suppress(OSError):
            writer.write(
                b"\n\n" + messages.encode(Command(id="hello-1", method="hello", params=hello.params())).encode()
            )
            writer.write(b"\n")
            while await reader.readline():
                pass
        writer.close()


@dataclass
class Guest:
    """The agent in one machine."""

    guests: Guests
    directory: Path

    async def parked(self, limit: timedelta) -> None:
        if any(self.directory.match(f"*{name}*") for name in self.guests.mute):
            raise Broken(f"{self.directory.name}: its agent does not come within {limit}")
        self.guests.awake(self.directory).clear()

    async def wake(self, wake: Wake, limit: timedelta) -> str:
        if self.guests.refuses:
            raise Broken(self.guests.refuses.pop(0))
        self.guests.wakes.setdefault(self.directory, []).append(wake)
        self.guests.awake(self.directory).set()
        return f"kernel+{wake.wake_id}"

    async def listen(self) -> None:
        """A fork does not run yet."""

    async def tell(self, wake: Wake) -> None:
        self.guests.awake(self.directory).clear()
        await self.wake(wake, timedelta(seconds=1))

    async def woken(self, limit: timedelta) -> str:
        return f"kernel+{self.guests.wakes[self.directory][-1].wake_id}"

    async def run(self, script: str, *, interpreter: str, env: Mapping[str, str], limit: timedelta) -> int:
        self.guests.scripts.append(script)
        return self.guests.exits.get(script, 0)

    async def park(self, limit: timedelta, *, power_off: bool = False) -> None:
        self.guests.awake(self.directory).clear()


def told(path: Path) -> dict[str, object]:
    """A JSON file."""
    value: dict[str, object] = json.loads(path.read_text())
    return value
