"""A parked machine becomes somebody: entropy first, what it heard last.

Effects: journaled by what it heard alone. Until that is kept the machine is nobody, and the whole wake is done again.
What shows to others who it is follows when it settles.

What a fork shares with its template until then, for nobody to see: the kernel's generator and every one that was
seeded from it in user space. The kernel is fed first, then the agent's own. Two things stay as they were: the seed of
Python's hashes, which orders sets and defends tables of our own host's words, and SQLite's, which salts its log.
Neither makes a name or a key: those come from the kernel, afterwards.
"""

import ipaddress
import os
import random
import re
import sys
from pathlib import Path

from paddock.agent.ledger import Ledger
from paddock.agent.parking import heard
from paddock.agent.parking.kernel import Kernel
from paddock.hands import faults
from paddock.wire.fields import BadParams
from paddock.wire.specs import Wake

_HOST_KEY = re.compile(r"ssh_host_[a-z0-9_]{1,40}_key(\.pub)?")
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_MACHINE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_SERVICE = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,200}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9._+-]+")


def check(wake: Wake) -> None:
    """Raises BadParams for what cannot be meant, before anything is touched."""
    _match(_WORD, wake.wake_id, "wake_id")
    _match(_HOSTNAME, wake.hostname, "hostname")
    _match(_MACHINE_ID, wake.machine_id, "machine_id")
    for file in wake.host_keys:
        _match(_HOST_KEY, file, f"host_keys[{file!r}]")
    for index, one in enumerate(wake.authorized_keys):
        _line(one, f"authorized_keys[{index}]")
        if not one.strip():
            raise BadParams(f"params.authorized_keys[{index}]", "is empty")
    if len(wake.macs) != len(wake.addresses):
        raise BadParams("params.addresses", f"{len(wake.addresses)} of them for {len(wake.macs)} cards")
    for index, (mac, address) in enumerate(zip(wake.macs, wake.addresses, strict=True)):
        _match(_MAC, mac, f"macs[{index}]")
        if address:
            _address(address, f"addresses[{index}]")
    for index, peer in enumerate(wake.peers):
        _match(_HOSTNAME, peer.machine, f"peers[{index}].machine")
        for address in peer.addresses:
            _address(address, f"peers[{index}].addresses")
    for name, value in wake.env.items():
        _match(_VARIABLE, name, f"env[{name!r}]")
        _line(value, f"env[{name!r}]")
        if '"' in value:
            raise BadParams(f"params.env[{name!r}]", "holds a quote")
    for index, service in enumerate(wake.restart):
        _match(_SERVICE, service, f"restart[{index}]")


def apply(wake: Wake, message: str, *, rootfs: Path, ledger: Ledger, kernel: Kernel, boot: str) -> None:
    """Be who the wake says, which was heard in this message. OSError if that cannot be: then it is still nobody.

    Its disk is not touched: a fork has run none of its code before, and half of what it would run until its hello is
    what writes and names files. They are written when the machine settles, and nothing is done before that.
    """
    faults.at("waking.begun")
    kernel.seed(wake.entropy)
    seed(wake.entropy)
    faults.at("waking.seeded")
    kernel.set_clock(wake.time)
    kernel.set_name(wake.hostname)
    heard.keep(rootfs, message, boot)
    faults.at("waking.heard")
    ledger.become(journal(wake), {wake.environment: wake.fence})


def journal(wake: Wake) -> str:
    """The name of its journal."""
    return f"ledger-{wake.wake_id}"


def seed(entropy: bytes) -> None:
    """The agent's own generators; the kernel was fed before."""
    random.seed(entropy + os.urandom(32))
    if (ssl := sys.modules.get("ssl")) is not None:
        ssl.RAND_add(entropy + os.urandom(32), 32.0)


def _match(pattern: "re.Pattern[str]", text: str, path: str) -> None:
    if not pattern.fullmatch(text):
        raise BadParams(f"params.{path}", f"{text[:80]!r} cannot be meant")


def _line(text: str, path: str) -> None:
    if "\n" in text or "\r" in text:
        raise BadParams(f"params.{path}", "is not one line")


def _address(text: str, path: str) -> None:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        raise BadParams(f"params.{path}", f"{text[:80]!r} is no address") from None
