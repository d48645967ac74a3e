"""Disks in btrfs subvolumes: a clone is one snapshot, whatever its source consists of.

Effects: idempotent; a volume is whole or not there.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddock.agent.skills.hypervisor.disks import cloning
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.ports import Disk
from paddock.core.errors import Refused


class Btrfs(Files):
    """Raw files in subvolumes. A reflink takes as long as a file has extents, a snapshot does not."""

    name = "btrfs"

    def _probe(self) -> None:
        place = Path(tempfile.mkdtemp(dir=self.root, prefix=".probe-"))
        try:
            cloning.make_subvolume(place / "one")
            cloning.snapshot(place / "one", place / "two")
        except OSError:
            raise Refused(f"{self.root}: does not lie on btrfs", hint="choose reflink or qcow2") from None
        finally:
            for name in ("one", "two"):
                self._drop(place / name)
            place.rmdir()

    def _make(self, place: Path) -> None:
        cloning.make_subvolume(place)
        place.chmod(0o700)

    def _drop(self, place: Path) -> None:
        if cloning.is_subvolume(place):
            with suppress(OSError):  # not root: emptied, it goes like any directory
                cloning.drop_subvolume(place)
                return
        super()._drop(place)

    def _clone(self, source: Path, disks: Sequence[Disk], half: Path) -> None:
        cloning.snapshot(source, half)
        for name in set(os.listdir(half)) - {disk.path.name for disk in disks}:
            (half / name).unlink()
