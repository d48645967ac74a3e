"""Grows a file system to all the room there is, its partition first; nothing shrinks.

Effects: idempotent; what has no room to grow into stays as it is.
"""

from paddock.agent.entry import Outcome
from paddock.agent.skills import tools
from paddock.agent.skills.disks import devices, guarding, probing
from paddock.agent.skills.disks.devices import Device
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Refused
from paddock.wire.framing import JSON

_LIMIT = 3600.0
_TOOLS = {"ext4": ("resize2fs", "e2fsprogs"), "xfs": ("xfs_growfs", "xfsprogs"), "btrfs": ("btrfs", "btrfs-progs")}


def resize(place: Place, call: Call) -> Outcome:
    """How large the device is now, and what has grown."""
    device = devices.find(call.text("device"))
    found = probing.signature(device.path)
    if found is None or found.kind not in _TOOLS:
        raise Refused(f"{device.path}: holds {found or 'nothing'}; ext4, xfs and btrfs grow")
    program, package = _TOOLS[found.kind]
    tools.find(program, package=package)
    mounted = devices.mounted_on(device)
    if not mounted and found.kind != "ext4":
        raise Refused(f"{device.path}: {found.kind} grows only while it is mounted", hint="disk.mount it first")
    if mounted and "ro" in mounted[0].options:
        raise Refused(f"{mounted[0].target}: is mounted to be read only")
    changed: list[str] = []
    with guarding.alone(place, device):
        before = device.size
        if device.is_partition:
            tools.find("sfdisk", package="fdisk")
            with guarding.locked(device.disk):
                _grow_partition(device)
        if device.size > before:
            changed.append("partition")
        if _grow(device, found.kind, mounted[0].target if mounted else ""):
            changed.append("fs")
    result: dict[str, JSON] = {"device": device.path, "fs": found.kind, "size": device.size}
    return Outcome(result={**result, "changed": list[JSON](changed)})


def _grow_partition(device: Device) -> None:
    """To the next piece, or to the end of the disk; sfdisk leaves a piece that cannot grow as it is."""
    disk, number = device.disk, str(device.partition_number)
    # Pieces of a disk in use cannot be read anew all at once: the kernel is told of this one alone.
    words = ("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--force", "--lock=no", "-N", number)
    ran = tools.attempt(*words, disk.path, stdin=b", +\n")
    if ran.code != 0 and "No space left" not in ran.err and "no free sectors" not in ran.err.lower():
        raise Refused(f"{device.path}: {ran.last_words}")
    tools.run("partx", "--update", "--nr", number, disk.path)


def _grow(device: Device, kind: str, target: str) -> bool:
    """Whether the file system has grown."""
    before = _length(device, kind, target)
    if kind == "ext4":
        if not target:
            ran = tools.attempt("e2fsck", "-f", "-p", device.path, limit=_LIMIT)
            if ran.code not in (0, 1):
                raise Refused(f"{device.path}: needs a repair first: {ran.last_words}")
        tools.run("resize2fs", device.path, limit=_LIMIT)
    elif kind == "xfs":
        tools.run("xfs_growfs", "-d", target, limit=_LIMIT)
    else:
        tools.run("btrfs", "filesystem", "resize", "max", target, limit=_LIMIT)
    return _length(device, kind, target) > before


def _length(device: Device, kind: str, target: str) -> int:
    """What the file system itself says of its length."""
    if kind == "ext4":
        out = tools.run("dumpe2fs", "-h", device.path)
        return int(next(line.split()[-1] for line in out.splitlines() if line.startswith("Block count:")))
    if kind == "xfs":
        out = tools.run("xfs_info", target)
        return int(next(line for line in out.splitlines() if line.startswith("data")).split("blocks=")[1].split(",")[0])
    out = tools.run("btrfs", "filesystem", "show", "--raw", target)
    return sum(int(line.split("size ")[1].split()[0]) for line in out.splitlines() if "devid" in line)
