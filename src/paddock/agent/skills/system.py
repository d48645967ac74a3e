"""Says how the agent is and what its machine is.

Effects: none.
"""

import fcntl
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
from paddock.agent.skills.skill import Call, Deed, Place, Read
from paddock.hands.keeper import boot_id
from paddock.wire.framing import JSON
from paddock.wire.hello import Facts

SOFTWARE = f"paddock {__version__}"
_SIOCGIFADDR = 0x8915
_BORN = time.monotonic()


def methods(place: Place) -> Mapping[str, Deed]:
    """status, system.facts."""

    async def status(call: Call) -> Mapping[str, JSON]:
        return {
            "uptime": round(time.monotonic() - _BORN, 3),
            "version": __version__,
            "boot_id": boot_id(),
            "tasks": place.running(),
            "load": list(os.getloadavg()),
            "disk": _disk(place.work),
        }

    async def tell_facts(call: Call) -> Mapping[str, JSON]:
        return {
            **facts(place).params(),
            "cpus": os.cpu_count() or 1,
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "disk": _disk(place.work),
        }

    return {"status": Read(answer=status), "system.facts": Read(answer=tell_facts)}


def facts(place: Place) -> Facts:
    """What hello says of the machine."""
    own = (place.address,) if place.address else ()
    return Facts(
        hostname=place.machine or _printable(socket.gethostname()) or "localhost",
        arch=platform.machine(),
        os=_system(),
        addresses=own or tuple(addresses()),
    )


def addresses() -> list[str]:
    """The machine's own addresses, loopback left out."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(asker.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text("ascii").splitlines():
            fields = line.split()
            if fields[3] == "00":  # of global scope
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])))
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")][:100]


def _system() -> str:
    with suppress(OSError):
        return _printable(platform.freedesktop_os_release().get("PRETTY_NAME", "")) or platform.system()
    return platform.system()


def _disk(place: Path) -> dict[str, JSON]:
    usage = shutil.disk_usage(place)
    return {"total": usage.total, "free": usage.free}


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:200]
