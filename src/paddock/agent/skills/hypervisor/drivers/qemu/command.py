"""QEMU's command line, from a plan: a pure function.

Effects: none.

Every device of a template stands at a place of its own on the bus, whatever else there is: a fork restores each by its
place. Cards have places that no template uses; the guest finds them when it looks at its bus again.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.skills.hypervisor.ports import SYSTEM, Card, Disk, Plan
from paddock.core.errors import Refused

MIB = 1 << 20
PROGRAM = "qemu-system-x86_64"
MACHINE = "q35"
"""A fork that looks at its bus again has its cards within 0.2 s; with the older `pc` it takes twice as long."""
PORT = "org.paddock.0"
SEED = "cidata"
MEMORY = "memory"
"""The file in the machine's directory that is the memory of one that is to be frozen."""

_SCREEN, _CHANCE, _SERIAL, _GENERATION = 2, 3, 4, 6
_DISKS = range(7, 16)
_CARDS = range(16, 30)
_SEED = 30
"""Behind all disks: kernels name disks in the order of the bus, and an image's own is vda with a seed and without."""
_TRANSLATED = range(16, 129)
"""MiB of translated code. With QEMU's own 1 GiB, what one boot left makes the next take three times as long."""
_SHARE_IN_FORK = 16
"""One part in so many of its memory: a fork translates for itself what its siblings do, too, and that is memory of its
own. With half as much what it runs takes twice as long; where it has much to do it has more memory.
"""
_SHARE = 4
_SANDBOX = "on,obsolete=deny,resourcecontrol=deny"
_ALONE = ",elevateprivileges=deny,spawn=deny"
"""For a machine whose cards start no program. One that does is put into a session of its own, which the sandbox takes
for an attempt to rise; no process below may gain privileges in any case.
"""
_BOOTED_FROM = {"disk", "network"}


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """`kvm` or `tcg`, and the processor that goes with it."""

    name: str

    @property
    def cpu(self) -> str:
        # Five levels of page tables, each walked in software, make everything slower under TCG.
        return "host" if self.name == "kvm" else "max,la57=off"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a plan does not say: how this start is made. Numbers are descriptors that the process inherits."""

    accelerator: Accelerator
    uuid: str
    """What the guest reads as its product's UUID, at its boots."""
    monitor: int
    channel: int
    console: int
    memory: Path | None = None
    """A template's, which is mapped privately."""

    @property
    def is_fork(self) -> bool:
        return self.memory is not None


def check(plan: Plan) -> None:
    """Refused if no machine can be like that."""
    if plan.memory < 32 * MIB or plan.vcpus < 1:
        raise Refused(f"{plan.name}: {plan.memory >> 20} MiB and {plan.vcpus} vcpus are too little for any machine")
    if len(plan.disks) > len(_DISKS) or len(plan.cards) > len(_CARDS):
        raise Refused(
            f"{plan.name}: has {len(plan.disks)} disks and {len(plan.cards)} cards",
            hint=f"at most {len(_DISKS)} and {len(_CARDS)} fit on its bus",
        )
    if plan.is_template and plan.cards:
        raise Refused(f"{plan.name}: is to be frozen and has cards", hint="forks are given theirs when they start")
    if unknown := [word for word in plan.boot if word not in _BOOTED_FROM]:
        raise Refused(f"{plan.name}: cannot boot from {unknown[0]}", hint=" or ".join(sorted(_BOOTED_FROM)))


def command(plan: Plan, start: Start) -> list[str]:
    """All words. Paths below the machine's directory are written from there: it is the working directory."""
    return [
        *(PROGRAM, "-name", plan.name, "-uuid", start.uuid),
        *_machine(plan, start),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", _SANDBOX + ("" if any(_runs_programs(card) for card in plan.cards) else _ALONE)),
        *_lines(start),
        *_kernel(plan),
        *(word for option in _devices(plan) for word in option),
        *(("-incoming", "defer") if start.is_fork else ()),
    ]


def _machine(plan: Plan, start: Start) -> Iterator[str]:
    size = plan.memory // MIB
    machine = f"{MACHINE},usb=off,vmport=off,hpet=off,dump-guest-core=off,mem-merge=off"
    if start.memory is not None or plan.is_template:
        file = start.memory or Path(MEMORY)
        # Not a byte is read or written by us: a fork reads pages that it touches, and its own writes are its own.
        yield from ("-object", _json({"qom-type": "memory-backend-file", "id": "ram", "size": size * MIB,
                                      "mem-path": _from(plan, file), "share": start.memory is None}))  # fmt: skip
        machine += ",memory-backend=ram"
    yield from ("-machine", machine, "-m", str(size), "-smp", str(plan.vcpus))
    yield from ("-accel", _accel(plan, start), "-cpu", start.accelerator.cpu)


def _accel(plan: Plan, start: Start) -> str:
    if start.accelerator.name != "tcg":
        return start.accelerator.name
    share = plan.memory // MIB // (_SHARE_IN_FORK if start.is_fork else _SHARE)
    translated = min(max(share, _TRANSLATED.start), _TRANSLATED.stop - 1)
    return f"tcg,thread={'multi' if plan.vcpus > 1 else 'single'},tb-size={translated}"


def _lines(start: Start) -> Iterator[str]:
    """Sockets that listen already: whoever dials them waits in the queue, and need not look whether they are there."""
    yield from ("-chardev", f"socket,id=monitor,fd={start.monitor},server=on,wait=off")
    yield from ("-mon", "chardev=monitor,mode=control")
    console = f"socket,id=console,fd={start.console},server=on,wait=off,logfile=console.log,logappend=on"
    yield from ("-chardev", console, "-serial", "chardev:console")
    yield from ("-chardev", f"socket,id=channel,fd={start.channel},server=on,wait=off")


def _kernel(plan: Plan) -> Iterator[str]:
    if plan.kernel is not None:
        yield from ("-kernel", _from(plan, plan.kernel))
        if plan.initrd is not None:
            yield from ("-initrd", _from(plan, plan.initrd))
        yield from ("-append", plan.cmdline)


def _devices(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.display:
        yield "-device", f"VGA,id=screen,addr={_SCREEN:#x}"
    yield "-device", f"virtio-rng-pci,id=chance,addr={_CHANCE:#x}"
    yield "-device", f"virtio-serial-pci,id=serial,addr={_SERIAL:#x}"
    yield "-device", f"virtserialport,id=port,bus=serial.0,nr=1,chardev=channel,name={PORT}"
    # Kernels that know it begin their randomness anew when a fork wakes, before anything asks them.
    yield "-device", "vmgenid,id=generation,guid=auto"
    if plan.seed is not None:
        yield from _seed(plan, plan.seed)
    for place, disk in zip(_DISKS, plan.disks, strict=False):
        yield from _disk(plan, disk, place)
    for number, (place, card) in enumerate(zip(_CARDS, plan.cards, strict=False)):
        yield from _card(plan, card, number, place)


def _seed(plan: Plan, directory: Path) -> Iterator[tuple[str, str]]:
    yield (
        "-blockdev",
        _json(
            {
                "node-name": "seed",
                "driver": "raw",
                "read-only": True,
                "file": {"driver": "vvfat", "dir": _from(plan, directory), "label": SEED, "read-only": True},
            }
        ),
    )
    yield "-device", f"virtio-blk-pci,id=seed,drive=seed,serial={SEED},addr={_SEED:#x}"


def _disk(plan: Plan, disk: Disk, place: int) -> Iterator[tuple[str, str]]:
    """Nothing waits for the host's disk: a clone is not worth anything after a power cut of the host.

    What the guest has flushed is in the kernel, and outlives QEMU. Whoever keeps a disk syncs it when its machine is
    off.
    """
    node = f"disk-{disk.name}"
    file = {"driver": "file", "filename": _from(plan, disk.path), "discard": "unmap"}
    value = {"node-name": node, "driver": disk.format, "discard": "unmap", "cache": {"no-flush": True}, "file": file}
    yield "-blockdev", _json(value)
    device = f"virtio-blk-pci,id={node},drive={node},serial={disk.name},addr={place:#x}"
    if disk.name == SYSTEM and "disk" in plan.boot:
        device += f",bootindex={_turn(plan, 'disk')}"
    yield "-device", device


def _card(plan: Plan, card: Card, number: int, place: int) -> Iterator[tuple[str, str]]:
    device = f"virtio-net-pci,id=card-{number},mac={card.mac},addr={place:#x}"
    if card.netdev:
        kind, _, rest = card.netdev.partition(",")
        yield "-netdev", f"{kind},id=net-{number}" + (f",{rest}" if rest else "")
        device += f",netdev=net-{number}"
    if "network" in plan.boot:
        device += f",bootindex={_turn(plan, 'network') + number}"
    else:
        device += ",romfile="
    yield "-device", device


def _turn(plan: Plan, source: str) -> int:
    """When it is tried. A kernel that is given goes before all."""
    return 1 + plan.boot.index(source) * len(_CARDS)


def _runs_programs(card: Card) -> bool:
    """Whether its far end starts a program: one for each connection, or one that opens it."""
    return ("guestfwd=" in card.netdev and "-cmd:" in card.netdev) or "helper=" in card.netdev


def _from(plan: Plan, path: Path) -> str:
    return str(path.relative_to(plan.directory) if path.is_relative_to(plan.directory) else path)


def _json(value: Mapping[str, object]) -> str:
    """Options as JSON: no comma in a path can end one."""
    return json.dumps(value, separators=(",", ":"))
