"""What the skill needs of a host: disks to clone, drivers that run machines, networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from paddock.core.errors import Broken
from paddock.core.machine import Nic
from paddock.wire.specs import NetworkSpec

SYSTEM = "system"
"""Name of the disk that a machine boots from; blank disks are `blank-1`, `blank-2`..."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """One disk of a volume: a file, raw or qcow2."""

    name: str
    path: Path
    format: str


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Bytes of a volume: what it alone takes, and what its machine sees."""

    own: int
    apparent: int


class Disks(Protocol):
    """Volumes: directories that hold the disks of one image, template or machine, cloned copy-on-write.

    Real: disks.qcow2, disks.btrfs, disks.reflink, disks.zfs. Every method is idempotent or leaves nothing half-made:
    what is being made has another name until it is whole. A clone does not care what becomes of its siblings; its
    source must stay as it is, and its owner keeps it as long as it has clones (those of qcow2 need it to live).
    """

    name: str

    async def check(self) -> None:
        """Refused, saying what is missing and what to do, where this cannot work below its root."""

    async def create(self, volume: Path, disks: Mapping[str, int]) -> None:
        """A volume with blank disks of these sizes."""

    async def take(self, volume: Path, source: Path, *, format: str, size: int = 0) -> None:
        """A volume whose system disk has the content of a disk image, made larger if `size` is more than its own."""

    async def clone(self, source: Path, target: Path, *, size: int = 0, blank: Sequence[int] = ()) -> None:
        """A volume with clones of the disks of another one that nobody writes to, the system disk made larger if
        `size` is more than its own, and blank disks of these sizes beside them. Milliseconds, whatever their sizes.
        """

    async def copy(self, source: Path, target: Path) -> None:
        """A clone of a volume whose machine is off, which may be removed afterwards: it needs nothing of its source's
        own, though it may need what that was cloned from.
        """

    async def remove(self, volume: Path) -> None:
        """It does not exist. Idempotent."""

    async def disks(self, volume: Path) -> Sequence[Disk]:
        """Its disks, the system disk first. Missing if there is no such volume."""

    async def usage(self, volume: Path) -> Usage:
        """What it takes."""

    async def room(self) -> int:
        """Bytes that are free."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A network card and the far end of its wire, as a network gives it."""

    mac: str
    netdev: str
    """What QEMU's -netdev takes, without its `id=`: `stream,server=on,addr.type=unix,addr.path=...`; empty: blank."""
    address: str = ""
    """What the machine has on it, with its prefix length; empty where it has none that we know."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A machine to run. Its directory is its own: sockets, logs and the driver's own record lie there, 0700."""

    name: str
    """Uniform name, `paddock-INSTANCE-ENVIRONMENT-MACHINE`: on its process, and unique on the host."""
    directory: Path
    memory: int
    vcpus: int
    disks: Sequence[Disk]
    cards: Sequence[Card] = ()
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    seed: Path | None = None
    """A directory that the machine finds as the file system `cidata`, read-only."""
    display: bool = False
    boot: Sequence[str] = ("disk",)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_template: bool = False
    """To be frozen: its memory lies in a file from the start, and it has no card."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A machine that a driver knows."""

    name: str
    directory: Path
    """Where it runs: only with it the name is one machine's."""
    pid: int
    state: str
    """running | paused | off"""


class Voice(Protocol):
    """What a fork hears before it runs. Real: machine.Machine; nobody speaks to one that is forked without it."""

    async def listen(self) -> None:
        """Its channel can be dialled, and its process is not there yet: who is there now is there when it wakes up."""

    async def speak(self) -> None:
        """It is restored, and stands still: what is said now is what it hears first."""


class Unfit(Broken):
    """Nothing can be forked from a template: it is damaged, and has to be made anew."""


class Driver(Protocol):
    """Runs virtual machines, each in its directory, in a process that outlives the agent.

    Real: drivers.qemu. One machine's methods are called one at a time. Paths of a machine's directory:
    `channel` (unix socket of the agent's virtio port), `console` (unix socket of the serial line), `console.log`.
    """

    name: str

    async def check(self) -> None:
        """Refused, saying what is missing and what to do, where it cannot run machines at all."""

    async def stamp(self) -> str:
        """What frozen memory depends on: emulator, version, accelerator, processor. Another stamp, another template."""

    async def boot(self, plan: Plan) -> None:
        """Power it on. Idempotent: one that runs is left as it is. Broken, with its last words, if it does not."""

    async def fork(self, plan: Plan, template: Path, *, voice: Voice | None = None) -> None:
        """Run it from the frozen state in `template`, which many forks share and none changes; its disks are clones of
        the template's. Idempotent like `boot`: one that runs is left as it is, and nothing is said. Unfit if it is the
        template's fault that it does not run.
        """

    async def freeze(self, plan: Plan, template: Path) -> None:
        """Stop a machine that was booted with `is_template` and put its memory and devices into `template`, whole or
        not at all; its process is gone afterwards. Broken where it cannot be frozen.
        """

    async def power(self, plan: Plan, action: str) -> None:
        """`off`: a power cut; `shutdown`: the button, pressed; `reset`; `pause`; `resume`. Idempotent but for reset."""

    async def wait_off(self, plan: Plan) -> None:
        """Until its process is gone."""

    async def end(self, directory: Path, name: str) -> None:
        """It does not run, and its process is gone, proven. Idempotent; safe if it was never started."""

    async def running(self, instance: str) -> Sequence[Running]:
        """Every machine of this instance that runs on the host, whoever started it."""

    async def screenshot(self, plan: Plan) -> bytes:
        """What its display shows, as a PNG. Refused where it has none."""


class Networks(Protocol):
    """Joins the machines of an environment. Real: networks.rootless, networks.rooted.

    What it makes outlives the agent. Both are contexts: while one is open, what an environment's record asks for is
    kept as it says, and what nobody owns was swept when it was opened.
    """

    name: str

    async def check(self) -> None:
        """Refused, saying what is missing and what to do, where it cannot work."""

    async def open(self, environment: str, networks: Sequence[NetworkSpec], egress: Sequence[str]) -> None:
        """The environment's networks exist, and their processes run. Idempotent: what is there stays."""

    async def wire(self, environment: str, machine: str, directory: Path, nics: Sequence[Nic]) -> Sequence[Card]:
        """Far ends for a machine's cards, in order; its uplink comes last where the environment has egress."""

    async def unwire(self, environment: str, machine: str) -> None:
        """Nothing of the machine's cards is left. Idempotent."""

    async def close(self, environment: str) -> None:
        """Nothing of the environment's networks is left. Idempotent."""

    async def found(self, instance: str) -> Sequence[str]:
        """Environments that have something of a network on this host."""
