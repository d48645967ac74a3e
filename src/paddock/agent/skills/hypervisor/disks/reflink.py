"""Disks on a file system that copies files by reference: XFS or btrfs.

Effects: idempotent; a volume is whole or not there.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from paddock.agent.skills.hypervisor.disks import cloning
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.ports import Disk
from paddock.core.errors import Refused


class Reflink(Files):
    """Raw files; a clone shares all blocks until one of both writes them."""

    name = "reflink"

    def _probe(self) -> None:
        with tempfile.TemporaryFile(dir=self.root) as source, tempfile.TemporaryFile(dir=self.root) as target:
            source.write(b"x" * 4096)
            source.flush()
            try:
                cloning.reflink(source.fileno(), target.fileno())
            except OSError:
                raise Refused(
                    f"{self.root}: its file system copies no file by reference",
                    hint="XFS does, made with reflink=1, and so does btrfs; or choose qcow2",
                ) from None

    def _clone(self, source: Path, disks: Sequence[Disk], half: Path) -> None:
        self._make(half)
        for disk in disks:
            with disk.path.open("rb") as taken, (half / disk.path.name).open("xb") as made:
                cloning.reflink(taken.fileno(), made.fileno())
