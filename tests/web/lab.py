"""Virtual machines in the scene: images in every state, machines with cards, a screen and a console."""

import base64
import struct
import zlib
from dataclasses import replace
from datetime import datetime, timedelta

from paddock.core import agent, command, environment, image
from paddock.core.agent import Agent
from paddock.core.command import Command
from paddock.core.configuration import Configuration
from paddock.core.environment import Environment, Machine, Pool, Spec
from paddock.core.image import BuildScript, HostImage, Image, Layer, chain, id_of, recipe
from paddock.core.lease import Lease
from paddock.core.lease import State as LeaseState
from paddock.core.machine import GIB, MIB, MachineSettings, NetworkSettings, NicSettings, Size
from paddock.ports import Tables
from paddock.testing import MemoryArchive, MemoryStore

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1dUHfGkzVvuwKqDuI8Hs3KE5zRZ1lHkU1Fk4jXbC8M"
NETS = (NicSettings(network="lan"), NicSettings())
NETWORKS = (NetworkSettings(name="lan", latency=timedelta(milliseconds=20), loss=0.01, rate=12 * MIB),)
SETTINGS = (
    MachineSettings(name="one", image="web", memory=2 * GIB, vcpus=2, disks=(20 * GIB,), nets=NETS, display=True),
    MachineSettings(name="two", image="web", memory=GIB, nets=(NicSettings(network="lan"),)),
)
IMAGES = (
    Image(name="debian", url="https://images.example.org/debian-12-generic-amd64.qcow2", size=20 * GIB),
    Image(
        name="web", parent="debian", scripts=(BuildScript(name="packages", run="a"), BuildScript(name="motd", run="b"))
    ),
    Image(name="devstack", parent="web", scripts=(BuildScript(name="stack", run="./stack.sh"),)),
    Image(name="kernel-next", parent="debian", scripts=(BuildScript(name="kernel", run="make install"),)),
    Image(name="centos", url="https://images.example.org/centos-9.qcow2"),
)
HOSTILE = "<b>a build that failed</b>"


def configured(settings: Configuration) -> Configuration:
    """The scene's settings with images, a pool of virtual machines, and figures of their host."""
    pool = Pool(
        name="lab",
        host="vm-1",
        machines=("one", "two"),
        max=4,
        isolated=True,
        settings=SETTINGS,
        networks=NETWORKS,
        egress=("deb.debian.org:443",),
    )
    host = replace(settings.hosts["vm-1"], memory=64 * GIB, vcpus=16, disk=400 * GIB)
    return replace(
        settings,
        images={each.name: each for each in IMAGES},
        pools={**settings.pools, "lab": pool},
        hosts={**settings.hosts, "vm-1": host},
    )


def picture() -> bytes:
    """A small PNG: what the display of a machine shows."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width, height = 320, 200
    rows = b"".join(
        b"\0" + bytes((200 if (x // 7 + y // 12) % 5 == 0 and y % 12 < 8 and x < 180 else 12) for x in range(width))
        for y in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", head) + piece(b"IDAT", zlib.compress(rows)) + piece(b"IEND", b"")


def boot_log() -> bytes:
    lines = [f"[    {n * 0.137:8.6f}] clocksource: tick {n} of a machine that boots" for n in range(90)]
    lines[40] = "[  \x1b[32mOK\x1b[0m  ] Reached target \x1b[1mmulti-user.target\x1b[0m"
    lines[60] = "<script>alert(1)</script> says a driver"
    return ("\r\n".join(lines) + "\r\nDebian GNU/Linux 12 one ttyS0\r\n\r\none login: ").encode()


async def furnish(store: MemoryStore, archive: MemoryArchive, settings: Configuration, now: datetime) -> None:
    """Write it into the scene."""

    def write(tables: Tables) -> None:
        for row in _images(settings, now):
            tables.images.add(row)
        spec = Spec(machines=SETTINGS, networks=NETWORKS, egress=("deb.debian.org:443",), images={"web": "d" * 64})
        _environment(tables, "lab-1", environment.State.LEASED, spec, now, lease="lab1", fence=5)
        _environment(
            tables, "lab-2", environment.State.SAVED, spec, now, held_by="anna", hold_until=now + timedelta(days=6)
        )
        tables.leases.add(
            Lease(
                id="lab1",
                pool="lab",
                holder="anna@desk",
                owner="anna",
                asked=now,
                granted=now,
                state=LeaseState.GRANTED,
                environment="lab-1",
                fence=5,
                ttl=timedelta(hours=1),
                deadline=now + timedelta(hours=1),
            )
        )
        for row_of_command in _commands(now):
            tables.commands.add(row_of_command)

    await store.write(write)
    await archive.write("agents/a-vm-1/commands/console/out.log", boot_log())
    await archive.write("images/kernel-next@vm-1/3.log", f"make: *** no rule\n{HOSTILE}\n".encode())
    await archive.write("images/centos@vm-1/1.log", b"fetching https://images.example.org/centos-9.qcow2\n40 %\n")
    run = await store.read(lambda tables: tables.runs.find("118"))
    assert run is not None
    await archive.write(f"{run.archive}/logs/console-1-controller.log", boot_log())


def _images(settings: Configuration, now: datetime) -> list[HostImage]:
    base = Layer(digest="a" * 64, image="debian", bytes=310 * MIB, seconds=41, built=now - timedelta(days=3))
    inside = Layer(digest="b" * 64, image="debian", bytes=6 * MIB, seconds=33, built=now - timedelta(days=3))
    packages = Layer(
        digest="c" * 64, image="web", script="packages", bytes=84 * MIB, seconds=71, built=now - timedelta(days=2)
    )
    motd = Layer(digest="d" * 64, image="web", script="motd", bytes=4096, seconds=9, built=now - timedelta(hours=5))

    def there(name: str, state: image.State, layers: tuple[Layer, ...] = (), **rest: object) -> HostImage:
        made = chain(settings.images, name)
        return HostImage(
            id=id_of(name, "vm-1"),
            image=name,
            host="vm-1",
            since=now,
            state=state,
            chain=made,
            recipe=recipe(made),
            serving=made if layers else (),
            digest=layers[-1].digest if layers else "",
            bytes=sum(layer.bytes for layer in layers),
            apparent=20 * GIB if layers else 0,
            layers=layers,
            built=layers[-1].built if layers else None,
            **rest,  # type: ignore[arg-type]
        )

    return [
        there("debian", image.State.READY, (base, inside)),
        there("web", image.State.READY, (base, inside, packages, motd)),
        there(
            "kernel-next",
            image.State.FAILED,
            attempts=2,
            reason=f"kernel: exit 2: {HOSTILE}",
            log="images/kernel-next@vm-1/3",
        ),
        there("centos", image.State.BUILDING, command="build", log="images/centos@vm-1/1"),
    ]


def _environment(tables: Tables, id: str, state: environment.State, spec: Spec, now: datetime, **rest: object) -> None:
    start, why = ("boot", "its image has no template yet"), ("fork", "")
    machines = tuple(
        Machine(
            name=name,
            agent=f"{id}.{name}",
            address=f"192.168.80.{10 + place}",
            addresses=(f"192.168.80.{10 + place}",),
            start=(start, why)[place][0],
            why=(start, why)[place][1],
            host_key=KEY,
        )
        for place, name in enumerate(("one", "two"))
    )
    tables.environments.add(
        Environment(
            id=id,
            pool="lab",
            host="vm-1",
            since=now,
            machines=machines,
            state=state,
            created=now,
            size=Size(memory=3 * GIB, vcpus=3, disk=60 * GIB),
            spec=spec,
            **rest,  # type: ignore[arg-type]
        )
    )
    if state is environment.State.SAVED:
        return
    for machine in machines:
        tables.agents.add(
            Agent(
                id=machine.agent,
                name=machine.name,
                kind=agent.Kind.MACHINE,
                host="vm-1",
                environment=id,
                machine=machine.name,
                software="paddock 0.1.0",
                skills=("script", "tunnel"),
                session=f"s-{machine.agent}",
                seen=now,
            )
        )


def _commands(now: datetime) -> list[Command]:
    def of(id: str, method: str, seq: int, **rest: object) -> Command:
        return Command(id=id, agent="a-vm-1", seq=seq, method=method, asked=now, sent=now, started=now, **rest)  # type: ignore[arg-type]

    lent: dict[str, object] = {"environment": "lab-1", "fence": 5, "machine": "one", "by": "anna"}
    shown = {"png": base64.b64encode(picture()).decode(), "at": now.isoformat()}
    return [
        of(
            "console",
            "machine.console",
            901,
            state=command.State.RUNNING,
            archive="agents/a-vm-1/commands/console",
            **lent,
        ),
        # In time to come: it stays fresh for as long as a test looks at it.
        of(
            "shot",
            "machine.screenshot",
            902,
            state=command.State.COMPLETE,
            result=shown,
            ended=now + timedelta(hours=1),
            **lent,
        ),
        of(
            "build",
            "image.build",
            903,
            state=command.State.RUNNING,
            percent=40.0,
            eta=125.0,
            archive="images/centos@vm-1/1",
        ),
    ]
