"""Disks anywhere: a clone is a qcow2 overlay, written here, over a file that must stay.

Effects: idempotent; a volume is whole or not there.
"""

from collections.abc import Sequence
from pathlib import Path

from paddock.agent.skills.hypervisor.disks import cloning, headers, volumes
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.ports import SYSTEM, Disk
from paddock.agent.skills.hypervisor.stopping import Stop, stoppable


class Qcow2(Files):
    """Content and blank disks are raw files; clones of both are overlays. qemu-img would take a process for each."""

    name = "qcow2"
    needs_source = True

    async def clone(self, source: Path, target: Path, *, size: int = 0, blank: Sequence[int] = ()) -> None:
        """A volume of overlays; the system disk's may be larger than what lies below."""

        def make(stop: Stop) -> None:
            disks = volumes.found(source)
            with volumes.making(target, self._drop) as half:
                self._make(half)
                for disk in disks:
                    _overlay(disk, half, size if disk.name == SYSTEM else 0)
                volumes.add(half, volumes.blanks(blank, disks))

        await stoppable(make)

    async def copy(self, source: Path, target: Path) -> None:
        """Its files once more: overlays name what they lie on, not where they lie."""

        def make(stop: Stop) -> None:
            disks = volumes.found(source)
            with volumes.making(target, self._drop) as half:
                self._make(half)
                for disk in disks:
                    cloning.copy(disk.path, half / disk.path.name, stop)

        await stoppable(make)


def _overlay(disk: Disk, half: Path, size: int) -> None:
    """A file that holds nothing but whose rest it is; it names the format of that, lest somebody guesses."""
    own = headers.whole(max(size, headers.check_size(disk.path, disk.format)))
    with (half / f"{disk.name}.{headers.QCOW2}").open("xb") as file:
        for offset, data in headers.overlay(disk.path.absolute(), disk.format, own).items():
            file.seek(offset)
            file.write(data)
        file.truncate(headers.length(own))
