"""What guests may reach outside: a list of names, addresses and networks, with ports."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from paddock.core.errors import Refused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HINT = "HOST:PORT, *.DOMAIN:PORT, ADDRESS/LENGTH:PORT or [ADDRESS/LENGTH]:PORT"
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, kw_only=True)
class Door:
    """One entry of the list: a name, everything below a name, or a network."""

    port: int
    name: str = ""
    below: str = ""
    network: _Network | None = None


@dataclass(frozen=True, kw_only=True)
class Egress:
    """The list. Empty: nothing may be reached."""

    doors: tuple[Door, ...] = ()

    @classmethod
    def read(cls, entries: Iterable[str]) -> "Egress":
        """Refused, naming the entry, where one is none."""
        return cls(doors=tuple(_door(entry) for entry in entries))

    def names(self, host: str, port: int) -> bool:
        """Whether a name may be asked for. Only such a name is resolved at all."""
        host = _plain(host)
        return any(
            door.port == port and (host == door.name or (door.below != "" and host.endswith(f".{door.below}")))
            for door in self.doors
            if door.network is None
        )

    def covers(self, address: Address, port: int) -> bool:
        """Whether an address itself is on the list, alone or in a network."""
        return any(not _is_wide(network) for network in self._around(address, port))

    def spans(self, address: Address, port: int) -> bool:
        """Whether it is in a network so wide that it means the public ones: `0.0.0.0/0` opens nothing of ours."""
        return any(_is_wide(network) for network in self._around(address, port))

    def _around(self, address: Address, port: int) -> Iterator[_Network]:
        for door in self.doors:
            if door.network is not None and door.port == port and address in door.network:
                yield door.network


def parse(host: str) -> Address | None:
    """The address that a host is written as; None for a name. One of the other version inside of it is that one."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return found.ipv4_mapped or found
    return found


def is_outside(address: Address) -> bool:
    """Whether an address is one of the public network: no machine of ours, of our neighbours, or of nobody has it."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inside and not is_outside(inside):
            return False
        if address in _TRANSLATED:
            return is_outside(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.is_site_local:  # deprecated, and Python counts it as global
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


def _door(entry: str) -> Door:
    host, colon, port = entry.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise Refused(f"egress: {entry} has no port", hint=_HINT)
    if "/" in host or parse(host) is not None:
        try:
            return Door(port=int(port), network=ipaddress.ip_network(host.strip("[]")))
        except ValueError as exc:
            raise Refused(f"egress: {entry}: {exc}", hint=_HINT) from None
    name = _plain(host)
    below = name.removeprefix("*.")
    # What is written like a number is read as an address by some resolvers: 127.1, 0x7f000001.
    if not _NAME.fullmatch(below) or len(below) > 253 or re.fullmatch(r"[0-9]+|0x[0-9a-f]*", below.rpartition(".")[2]):
        raise Refused(f"egress: {entry} names no host", hint=_HINT)
    return Door(port=int(port), below=below) if name.startswith("*.") else Door(port=int(port), name=below)


def _is_wide(network: _Network) -> bool:
    """Wider than the widest private one: 10.0.0.0/8, fc00::/7."""
    return network.prefixlen < (8 if network.version == 4 else 7)


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")
