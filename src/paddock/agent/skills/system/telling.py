"""Says how the agent is and what its machine is.

Effects: none.
"""

import fcntl
import functools
import os
import platform
import shutil
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from paddock import __version__
from paddock.agent.ledger import set_aside
from paddock.agent.skills.skill import Call, Deed, Place, Read
from paddock.hands.keeper import boot_id
from paddock.wire.framing import JSON
from paddock.wire.hello import Facts

SOFTWARE = f"paddock {__version__}"
ROOT = Path("/")
_SIOCGIFADDR = 0x8915
_BORN = time.monotonic()
_MOST = 100
"""Interfaces and addresses that are told."""

# What a hypervisor says of itself where a maker would: the first that fits.
_MAKERS = (
    ("qemu", "qemu"),
    ("kvm", "kvm"),
    ("vmware", "vmware"),
    ("innotek", "virtualbox"),
    ("virtualbox", "virtualbox"),
    ("xen", "xen"),
    ("amazon ec2", "kvm"),
    ("google", "kvm"),
    ("openstack", "kvm"),
    ("digitalocean", "kvm"),
    ("parallels", "parallels"),
    ("bochs", "bochs"),
    ("microsoft corporation virtual machine", "hyper-v"),
)


def deeds(place: Place) -> Mapping[str, Deed]:
    """status, system.facts."""

    async def status(call: Call) -> Mapping[str, JSON]:
        return {
            "uptime": round(time.monotonic() - _BORN, 3),
            "version": __version__,
            "boot_id": place.life.boot_id(),
            "tasks": place.running(),
            "load": list(os.getloadavg()),
            "disk": _disk(place.work),
            "corrupt_ledgers": [one.name for one in set_aside(place.state / "ledger")],
        }

    async def tell_facts(call: Call) -> Mapping[str, JSON]:
        # What hello says comes last: it knows the name of a machine without isolation, and the cloud.
        return machine(ROOT) | {"boot_id": place.life.boot_id(), "disk": _disk(place.work)} | facts(place).params()

    return {"status": Read(answer=status), "system.facts": Read(answer=tell_facts)}


def facts(place: Place) -> Facts:
    """What hello says of the machine."""
    own = (place.address,) if place.address else place.life.addresses
    cloud = place.cloud()
    return Facts(
        cloud=cloud.name,
        instance=cloud.instance,
        hostname=place.machine or _printable(socket.gethostname()) or "localhost",
        arch=platform.machine(),
        os=_system(),
        addresses=own if own is not None else tuple(dict.fromkeys((*addresses(), *cloud.addresses)))[:_MOST],
        capacity=place.life.capacity(),
        stored=place.life.stored(),
    )


def machine(root: Path) -> dict[str, JSON]:
    """What system.facts says beyond hello. `root` is where /etc, /proc, /sys and /run are."""
    return {
        "kernel": platform.release(),
        "virtualization": virtualization(root),
        "machine_id": machine_id(root),
        "boot_id": boot_id(),
        "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME), 1),
        "cpus": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "interfaces": [dict(one) for one in interfaces(root)],
    }


def virtualization(root: Path) -> str:
    """What this machine runs in: a container's or hypervisor's kind, `vm` if only that is known; empty on metal."""
    if kind := container(root):
        return kind
    told = " ".join(_text(root / "sys/class/dmi/id" / name).lower() for name in ("sys_vendor", "product_name"))
    for words, name in _MAKERS:
        if words in told:
            return name
    return "vm" if " hypervisor" in _text(root / "proc/cpuinfo", most=1 << 16) else ""


def container(root: Path) -> str:
    """What kind of container this is; empty if it is none, and has a kernel of its own."""
    if kind := _text(root / "run/systemd/container"):
        return kind
    if (root / ".dockerenv").exists():
        return "docker"
    return "podman" if (root / "run/.containerenv").exists() else ""


def machine_id(root: Path) -> str:
    """`present`, `empty` as in an image that was made ready, or `missing`. Not the id: nobody needs it."""
    path = root / "etc/machine-id"
    if not path.exists():
        return "missing"
    return "present" if _text(path) not in ("", "uninitialized") else "empty"


def interfaces(root: Path) -> list[Mapping[str, JSON]]:
    """The machine's network interfaces but loopback: name, MAC, whether it is up, MTU, addresses."""
    v6 = _addresses6()
    found: list[Mapping[str, JSON]] = []
    for _, name in socket.if_nameindex():
        about = root / "sys/class/net" / name
        if name == "lo" or len(found) >= _MOST:
            continue
        mtu = _text(about / "mtu")
        found.append(
            {
                "name": name,
                "mac": _text(about / "address"),
                "is_up": _text(about / "operstate") == "up",
                "mtu": int(mtu) if mtu.isdecimal() else None,
                "addresses": [*_addresses4(name), *v6.get(name, ())],
            }
        )
    return found


def addresses() -> list[str]:
    """The machine's own addresses, loopback left out."""
    v4 = [address for _, name in socket.if_nameindex() for address in _addresses4(name)]
    v6 = [address for found in _addresses6().values() for address in found]
    return [address for address in dict.fromkeys(v4 + v6) if not address.startswith("127.")][:_MOST]


def _addresses4(name: str) -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker, suppress(OSError):
        answer = fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
        return [socket.inet_ntoa(answer[20:24])]
    return []


def _addresses6() -> dict[str, list[str]]:
    """Interface → its addresses of global scope."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines():
            fields = line.split()
            if fields[3] == "00":
                found.setdefault(fields[5], []).append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])))
    return found


@functools.cache
def _system() -> str:
    with suppress(OSError):
        return _printable(platform.freedesktop_os_release().get("PRETTY_NAME", "")) or platform.system()
    return platform.system()


def _disk(place: Path) -> dict[str, JSON]:
    usage = shutil.disk_usage(place)
    return {"total": usage.total, "free": usage.free}


def _text(path: Path, *, most: int = 4096) -> str:
    """What a small file says, in one line; nothing where it cannot be read."""
    with suppress(OSError), path.open("rb") as file:
        return " ".join(file.read(most).decode("utf-8", "replace").split())
    return ""


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:200]
