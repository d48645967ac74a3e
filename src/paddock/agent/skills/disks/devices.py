"""Block devices as the kernel shows them: what lies on what, and what carries the system.

Effects: none.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Missing, Refused

SYSTEM_PLACES = frozenset(
    Path(path) for path in ("/", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/etc", "/home", "/usr", "/var")
)
_SYS = Path("/sys/dev/block")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, kw_only=True)
class Device:
    """One block device of this moment. `number` is its major:minor, `sys` its directory in /sys."""

    name: str
    number: str
    sys: Path

    @property
    def path(self) -> str:
        """Where programs find it."""
        with suppress(OSError):
            return f"/dev/mapper/{(self.sys / 'dm' / 'name').read_text().strip()}"
        return f"/dev/{self.name.replace('!', '/')}"

    @property
    def is_partition(self) -> bool:
        """Whether it is a piece of a disk."""
        return (self.sys / "partition").exists()

    @property
    def partition_number(self) -> int:
        """Its number on its disk."""
        return int((self.sys / "partition").read_text())

    @property
    def disk(self) -> "Device":
        """The disk of a partition; itself, if it is none."""
        return of_name(self.sys.parent.name) if self.is_partition else self

    @property
    def partitions(self) -> list["Device"]:
        """Its pieces."""
        found = [below.name for below in self.sys.iterdir() if (below / "partition").exists()]
        return [of_name(name) for name in sorted(found)]

    @property
    def below(self) -> list["Device"]:
        """What it is made of: the disk of a partition, the members of a mapping or an array."""
        found = [of_name(name) for name in _names(self.sys / "slaves")]
        return [*found, self.disk] if self.is_partition else found

    @property
    def holders(self) -> list["Device"]:
        """Mappings and arrays that are made of it."""
        return [of_name(name) for name in _names(self.sys / "holders")]

    @property
    def size(self) -> int:
        """In bytes."""
        return int((self.sys / "size").read_text()) * 512

    @property
    def serial(self) -> str:
        """What names the hardware, not the place where it is plugged in; of a partition, its disk's. Empty: nothing."""
        disk = self.disk
        for file in ("serial", "device/serial", "wwid", "device/wwid", "loop/backing_file", "dm/uuid", "md/uuid"):
            with suppress(OSError):
                found = (disk.sys / file).read_text("utf-8", "replace").strip()
                if found:
                    return found
        return _udev_serial(disk)

    @property
    def identity(self) -> str:
        """What is remembered of it: hardware and piece. One without a serial number is known by its name alone."""
        return f"{self.serial or self.name}:{self.partition_number if self.is_partition else 0}"


def _udev_serial(device: Device) -> str:
    """Disks behind SATA and USB have no file for it: udev has asked them."""
    with suppress(OSError):
        text = Path(f"/run/udev/data/b{device.number}").read_text("utf-8", "replace")
        for key in ("ID_SERIAL_SHORT", "ID_SERIAL", "ID_WWN"):
            if found := re.search(rf"^E:{key}=(.+)$", text, re.MULTILINE):
                return found[1].strip()
    return ""


def _names(directory: Path) -> list[str]:
    with suppress(OSError):
        return sorted(entry.name for entry in directory.iterdir())
    return []


def of_name(name: str) -> Device:
    """By the kernel's name. Missing if it is gone."""
    try:
        return of_number((Path("/sys/class/block") / name / "dev").read_text().strip())
    except OSError as exc:
        raise Missing(f"{name}: is no block device any more") from exc


def of_number(number: str) -> Device:
    """By major:minor. Missing if there is none."""
    directory = _SYS / number
    if not directory.exists():
        raise Missing(f"{number}: is no block device")
    home = directory.resolve()
    return Device(name=home.name, number=number, sys=home)


def find(named: str) -> Device:
    """By what a param says: a path below /dev (also by-id and the like), or `UUID=...`. Refused for anything else."""
    if named.startswith("UUID="):
        link = Path("/dev/disk/by-uuid") / named.removeprefix("UUID=")
        if "/" in named or not link.exists():
            raise Missing(f"{named}: no such file system is here")
        named = str(link)
    path = Path(os.path.realpath(named))
    if not os.path.isabs(named) or Path("/dev") not in path.parents:
        raise Refused(f"{named}: is no device; /dev/... or UUID=...")
    try:
        found = path.stat()
    except OSError:
        raise Missing(f"{named}: does not exist") from None
    if not stat.S_ISBLK(found.st_mode):
        raise Refused(f"{named}: is no block device")
    return of_number(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")


def all_devices() -> list[Device]:
    """Those with a size."""
    found = []
    for entry in sorted(Path("/sys/class/block").iterdir()):
        with suppress(Missing, OSError):
            device = of_name(entry.name)
            if device.size > 0 and not device.name.startswith(("ram", "zram")):
                found.append(device)
    return found


# ---- what is mounted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of mountinfo."""

    number: str
    target: str
    source: str
    kind: str
    options: tuple[str, ...]


def mounts() -> list[Mount]:
    """All that this process sees, in the order in which they were made."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, source, _) = before.split(" "), after.split(" ", 2)
        found.append(
            Mount(
                number=fields[2],
                target=unescape(fields[4]),
                source=unescape(source),
                kind=kind,
                options=tuple(fields[5].split(",")),
            )
        )
    return found


def unescape(field: str) -> str:
    """Spaces and the like stand as octal in mountinfo and in fstab."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field)


def mounted_on(device: Device, among: Iterable[Mount] | None = None) -> list[Mount]:
    """Where a device's file system is mounted. btrfs has numbers of its own: there the source tells."""
    return [
        one
        for one in (mounts() if among is None else among)
        if one.number == device.number
        or (one.source.startswith("/dev/") and os.path.realpath(one.source) == os.path.realpath(device.path))
    ]


def swaps() -> list[Device]:
    """Devices in use as swap."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/swaps").read_text("utf-8", "replace").splitlines()[1:]:
            path = unescape(line.split()[0])
            with suppress(Refused, Missing):
                found.append(find(path))
    return found


# ---- what carries the system -----------------------------------------------------------------------------------------


def system_numbers() -> dict[str, str]:
    """major:minor of each device that the running system lies on, with what of it: whole disks, with all below."""
    found: dict[str, str] = {}
    for device, why in _roots():
        for one in _ancestors(device):
            found.setdefault(one.number, why)
    return found


def _roots() -> Iterator[tuple[Device, str]]:
    seen = mounts()
    for mount in seen:
        if Path(mount.target) in SYSTEM_PLACES:
            yield from ((device, f"carries {mount.target}") for device in _devices_of(mount))
    for device in swaps():
        yield device, "is swap"


def _devices_of(mount: Mount) -> Iterator[Device]:
    with suppress(Missing):
        yield of_number(mount.number)
    with suppress(Refused, Missing):
        device = find(mount.source)
        yield device
        yield from _companions(device)


def _companions(device: Device) -> Iterator[Device]:
    """The other members of a btrfs."""
    for place in Path("/sys/fs/btrfs").glob("*/devices"):
        names = _names(place)
        if device.name in names:
            yield from (of_name(name) for name in names)


def _ancestors(device: Device) -> Iterator[Device]:
    seen: set[str] = set()
    waiting = [device]
    while waiting:
        one = waiting.pop()
        if one.number not in seen:
            seen.add(one.number)
            yield one
            waiting += one.below


def system_reason(device: Device) -> str:
    """Why nothing may be destroyed on a device: it, or the disk that it is a piece of, carries the system. Or empty.

    A piece without any signature beside the system's own may be what the firmware boots from.
    """
    numbers = system_numbers()
    return numbers.get(device.number) or numbers.get(device.disk.number) or ""
