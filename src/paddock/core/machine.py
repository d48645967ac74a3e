"""Machines and networks of an environment as configured, and their names beforehand."""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

MIB, GIB = 1 << 20, 1 << 30


class Start(StrEnum):
    """How a machine comes to life."""

    FORK = "fork"
    """From the frozen memory and disk of a ready one; booted where that cannot be, which is said."""
    BOOT = "boot"


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """A private network of each environment of a pool. Nobody else is on it."""

    name: str
    subnet: str = ""
    """Where its machines have their addresses, `192.168.80.0/24`; empty: one is chosen by its place in the list."""
    latency: timedelta = timedelta()
    """Of each frame, one way."""
    loss: float = 0.0
    """Share of frames that are lost, 0 to 1."""
    rate: int = 0
    """Bytes a second of each machine's sending; 0: unlimited."""
    bridge: str = ""
    """An existing bridge of the host that its own configuration allows; empty: a network of the environment's own."""


@dataclass(frozen=True, kw_only=True)
class NicSettings:
    """A network card. Without a network it is blank: there, and connected to nothing."""

    network: str = ""
    mac: str = ""
    """Empty: made from the server's store, environment, machine and place."""


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """One machine of each environment of a pool. Without an image it is a process on the host (skill `local`)."""

    name: str
    image: str = ""
    memory: int = GIB
    vcpus: int = 1
    disks: tuple[int, ...] = ()
    """Sizes of blank disks beside the image's, in bytes."""
    nets: tuple[NicSettings, ...] = ()
    display: bool = False
    """Whether it has a screen, to be looked at on its page."""
    boot: tuple[str, ...] = ("disk",)
    """Boot order: `disk`, `network`."""


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card of one machine of one environment, known before it exists."""

    network: str
    mac: str
    address: str = ""
    """With its prefix length, `192.168.80.10/24`; empty where it has none."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What something takes of a host, or what a host has: bytes, count, bytes."""

    memory: int = 0
    vcpus: int = 0
    disk: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(memory=self.memory + other.memory, vcpus=self.vcpus + other.vcpus, disk=self.disk + other.disk)

    def __sub__(self, other: "Size") -> "Size":
        return Size(memory=self.memory - other.memory, vcpus=self.vcpus - other.vcpus, disk=self.disk - other.disk)

    def fits(self, room: "Size") -> bool:
        """Whether none of the three is more than there is."""
        return self.memory <= room.memory and self.vcpus <= room.vcpus and self.disk <= room.disk


@dataclass(frozen=True, kw_only=True)
class Overcommit:
    """How many times of what a host has may be booked on it."""

    memory: float = 1.0
    vcpus: float = 1.0
    disk: float = 1.0

    def of(self, size: Size) -> Size:
        """What may be booked of what is there."""
        return Size(
            memory=int(size.memory * self.memory),
            vcpus=int(size.vcpus * self.vcpus),
            disk=int(size.disk * self.disk),
        )


def uniform(instance: str, environment: str, machine: str = "") -> str:
    """What processes, disks, bridges and namespaces of a machine, or of an environment's networks, are called."""
    return "-".join(part for part in ("paddock", instance, environment, machine) if part)


def mac(environment: str, machine: str, index: int, *, maker: str = "") -> str:
    """A locally administered address for a machine's `index`th card: the same whoever computes it.

    `maker` tells apart equal names that two Paddocks give on one LAN; without it the card is on no network of others.
    """
    names = (maker, environment, machine, str(index)) if maker else (environment, machine, str(index))
    made = hashlib.sha256("\0".join(names).encode()).digest()
    return ":".join(f"{octet:02x}" for octet in (0x52, 0x54, 0x00, *made[:3]))


def subnet(network: NetworkSettings, index: int) -> ipaddress.IPv4Network:
    """Where the `index`th network of an environment has its addresses; the same for each environment."""
    return ipaddress.IPv4Network(network.subnet or f"192.168.{80 + index}.0/24")


def nics(
    environment: str,
    machine: str,
    place: int,
    settings: Sequence[NicSettings],
    networks: Sequence[NetworkSettings],
    *,
    maker: str = "",
) -> tuple[Nic, ...]:
    """The cards of the `place`th machine of an environment, with addresses on the networks that are its own."""
    known = {network.name: (index, network) for index, network in enumerate(networks)}
    found = []
    for number, nic in enumerate(settings):
        address = ""
        if nic.network and not known[nic.network][1].bridge:
            index, network = known[nic.network]
            where = subnet(network, index)
            address = f"{where.network_address + 10 + place}/{where.prefixlen}"
        own = nic.mac or mac(environment, machine, number, maker=maker)
        found.append(Nic(network=nic.network, mac=own, address=address))
    return tuple(found)
