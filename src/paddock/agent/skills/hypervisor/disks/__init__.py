"""Disks to clone: on btrfs, by reflink, on ZFS, or as qcow2 overlays; by name, or the best."""

from pathlib import Path

from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.core.errors import Refused

NAMES = ("btrfs", "reflink", "zfs", "qcow2")
"""The best first; qcow2 works everywhere."""


def named(name: str, root: Path) -> Files:
    """One kind of disks below a directory that exists."""
    match name:
        case "btrfs":
            from paddock.agent.skills.hypervisor.disks.btrfs import Btrfs

            return Btrfs(root)
        case "reflink":
            from paddock.agent.skills.hypervisor.disks.reflink import Reflink

            return Reflink(root)
        case "zfs":
            from paddock.agent.skills.hypervisor.disks.zfs import Zfs

            return Zfs(root)
        case "qcow2":
            from paddock.agent.skills.hypervisor.disks.qcow2 import Qcow2

            return Qcow2(root)
    raise Refused(f"{name}: is no kind of disks", hint=f"one of: {', '.join(NAMES)}")


async def best(root: Path) -> Files:
    """The first kind that works below this directory. What was made by one kind is cloned by that kind only."""
    for name in NAMES[:-1]:
        disks = named(name, root)
        try:
            await disks.check()
        except Refused:
            continue
        return disks
    return named(NAMES[-1], root)
