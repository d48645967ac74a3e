"""How long a machine's disks take to be cloned, beside copies of the same file by other means."""

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.aims import CLONE, CLONE_1, CLONE_BTRFS, CLONE_XFS
from bench.figure import Measured, quantile
from bench.pace import Pace
from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor.disks.files import Files
from tools.filesystems import mounted

MIB, GIB = 1 << 20, 1 << 30
_DATA = 256 * MIB
"""What is in a disk; the rest of it is a hole."""
_TIMES = 100

Copy = Callable[[Path, Path], tuple[str, ...]]


def overlays(pace: Pace) -> Mapping[str, Measured]:
    """On any file system, by overlays."""
    with _scratch() as root:
        return {
            CLONE_1: _beside(pace, kinds.named("qcow2", root), GIB, "cp --sparse=always", _cp),
            CLONE: _beside(pace, kinds.named("qcow2", root), 20 * GIB, "qemu-img convert", _convert),
        }


def snapshots(pace: Pace) -> Mapping[str, Measured]:
    """On btrfs, by subvolumes."""
    with _scratch() as scratch, mounted("btrfs", scratch, 2 * GIB) as root:
        return {CLONE_BTRFS: _beside(pace, kinds.named("btrfs", root), 20 * GIB, "cp --sparse=always", _cp)}


def references(pace: Pace) -> Mapping[str, Measured]:
    """On XFS, by reflinks."""
    with _scratch() as scratch, mounted("xfs", scratch, 2 * GIB) as root:
        return {CLONE_XFS: _beside(pace, kinds.named("reflink", root), 20 * GIB, "cp --sparse=always", _cp)}


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)


def _beside(pace: Pace, disks: Files, size: int, peer: str, words: Copy) -> Measured:
    root = disks.root
    image, base = root / "image", root / f"base-{size}"
    with image.open("wb") as file:
        for _ in range(_DATA // MIB):
            file.write(os.urandom(MIB))
        file.truncate(size)
    asyncio.run(disks.take(base, image, format="raw"))
    ours, theirs = [], []
    for run in range(pace.runs):
        ours.append(asyncio.run(_p95(disks, base, root / f"clones-{size}-{run}")))
        theirs.append(_timed(words(image, root / "copy")))
        (root / "copy").unlink()
    return Measured(values=tuple(ours), peer=peer, peer_values=tuple(theirs))


async def _p95(disks: Files, base: Path, place: Path) -> float:
    took = []
    for number in range(_TIMES):
        began = time.perf_counter()
        await disks.clone(base, place / str(number))
        took.append(1e3 * (time.perf_counter() - began))
    for number in range(_TIMES):
        await disks.remove(place / str(number))
    return quantile(took, 0.95)


def _cp(source: Path, target: Path) -> tuple[str, ...]:
    # Where files are copied by reference, plain cp would do so too: that is what is measured here.
    return ("cp", "--sparse=always", "--reflink=never", str(source), str(target))


def _convert(source: Path, target: Path) -> tuple[str, ...]:
    return ("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(target))


def _timed(words: tuple[str, ...]) -> float:
    began = time.perf_counter()
    subprocess.run(words, check=True)
    return 1e3 * (time.perf_counter() - began)
