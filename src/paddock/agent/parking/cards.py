"""A machine's network cards by their MACs, brought up without starting a process.

Effects: idempotent.
"""

import ipaddress
import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_ACK, _REQUEST, _REPLACE, _CREATE = 0x4, 0x1, 0x100, 0x400
_NEWLINK, _NEWADDR = 16, 20
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_ERROR = 2


def found(rootfs: Path) -> Mapping[str, int]:
    """MAC in small letters → index of the card."""
    cards: dict[str, int] = {}
    with suppress(FileNotFoundError):
        for about in sorted((rootfs / "sys/class/net").iterdir()):
            with suppress(OSError, ValueError):
                cards[(about / "address").read_text("ascii").strip().lower()] = int(
                    (about / "ifindex").read_text("ascii")
                )
    return cards


def is_named(rootfs: Path, card: int) -> bool:
    """Whether udev, where there is one, is done with it: a card that is up already keeps a name that it should not.

    What udev knows of a card it writes down before it gives it its name, too.
    """
    if not (rootfs / "run/udev/control").exists():
        return True
    try:
        return "E:ID_RENAMING=1" not in (rootfs / f"run/udev/data/n{card}").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return False


def join(card: int, address: str) -> None:
    """The card with this index is up and has this address, given with its prefix length. OSError if that cannot be."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5)
        kernel.bind((0, 0))
        _ask(kernel, _NEWLINK, 0, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, card, _IFF_UP, _IFF_UP))
        if not address:
            return
        interface = ipaddress.ip_interface(address)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        body = struct.pack("=BBBBI", family, interface.network.prefixlen, 0, 0, card)
        told = {_IFA_LOCAL: interface.ip, _IFA_ADDRESS: interface.ip}
        if interface.version == 4 and interface.network.prefixlen <= 30:
            # As systemd-networkd gives it: 252 begins to give the same address without end where its broadcast differs.
            told[_IFA_BROADCAST] = interface.network.broadcast_address
        for kind, one in told.items():
            body += struct.pack("=HH", 4 + len(one.packed), kind) + one.packed
        _ask(kernel, _NEWADDR, _CREATE | _REPLACE, body)


def _ask(kernel: socket.socket, kind: int, flags: int, body: bytes) -> None:
    kernel.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0) + body)
    answer = kernel.recv(8192)
    _, said, _, _, _ = struct.unpack_from("=IHHII", answer)
    code = struct.unpack_from("=i", answer, 16)[0] if said == _ERROR else 0
    if code:
        raise OSError(-code, os.strerror(-code))
