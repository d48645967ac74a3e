"""What all kinds of volumes share: blank disks, content from images, copies, sizes.

Effects: idempotent; a volume is whole or not there.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from paddock.agent.skills.hypervisor.disks import cloning, headers, volumes
from paddock.agent.skills.hypervisor.ports import SYSTEM, Disk, Usage
from paddock.agent.skills.hypervisor.stopping import Stop, stoppable
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken, Missing


class Files:
    """Disks as plain files, raw. A kind says how a directory is made and dropped, and how one is cloned."""

    name = ""
    needs_source = False
    """Whether a clone is nothing without its source."""

    def __init__(self, root: Path) -> None:
        self.root = root

    async def check(self) -> None:
        """Refused, saying what is missing and what to do, where this cannot work below its root."""
        await in_thread(self._probe)

    async def create(self, volume: Path, disks: Mapping[str, int]) -> None:
        """A volume with blank disks of these sizes."""

        def make() -> None:
            with volumes.making(volume, self._drop) as half:
                self._make(half)
                volumes.add(half, disks)

        await in_thread(make)

    async def take(self, volume: Path, source: Path, *, format: str, size: int = 0) -> None:
        """A volume whose system disk has the content of a disk image, made larger if `size` is more than its own."""

        def make(stop: Stop) -> None:
            if not source.is_file():
                raise Missing(f"{source.name}: there is no such file")
            with volumes.making(volume, self._drop) as half:
                self._make(half)
                disk = half / f"{SYSTEM}.{headers.RAW}"
                if format == headers.QCOW2:
                    headers.harmless(source)
                    stop.run(
                        *("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(source), str(disk)),
                        package="qemu-utils",
                    )
                else:
                    cloning.copy(source, disk, stop)
                volumes.grow(disk, headers.whole(max(size, disk.stat().st_size)))

        await stoppable(make)

    async def clone(self, source: Path, target: Path, *, size: int = 0, blank: Sequence[int] = ()) -> None:
        """A volume with clones of the disks of another one, larger if asked, and blank disks beside them."""

        def make() -> None:
            disks = volumes.found(source)
            with volumes.making(target, self._drop) as half:
                self._clone(source, disks, half)
                self._grow(half, size)
                volumes.add(half, volumes.blanks(blank, disks))

        await in_thread(make)

    async def copy(self, source: Path, target: Path) -> None:
        """A clone that needs nothing of its source's own."""
        await self.clone(source, target)

    async def remove(self, volume: Path) -> None:
        """It does not exist, and neither does a half one."""

        def drop() -> None:
            try:
                self._drop(volume)
                self._drop(volumes.draft(volume))
            except OSError as exc:
                raise Broken(f"{volume.name}: {exc.strerror or exc}") from exc

        await in_thread(drop)

    async def disks(self, volume: Path) -> Sequence[Disk]:
        """Its disks, the system disk first. Missing if there is no such volume."""
        return await in_thread(lambda: volumes.found(volume))

    async def usage(self, volume: Path) -> Usage:
        """What it takes."""
        return await in_thread(lambda: volumes.usage(volumes.found(volume)))

    async def room(self) -> int:
        """Bytes that are free."""
        told = os.statvfs(self.root)
        return told.f_bavail * told.f_frsize

    def _probe(self) -> None:
        """Refused where it cannot work. A kind that needs nothing of its file system asks nothing."""

    def _make(self, place: Path) -> None:
        place.mkdir(mode=0o700)

    def _drop(self, place: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(place)

    def _clone(self, source: Path, disks: Sequence[Disk], half: Path) -> None:
        raise NotImplementedError

    def _grow(self, half: Path, size: int) -> None:
        volumes.grow(half / f"{SYSTEM}.{headers.RAW}", size)
