"""Volumes as directories of disk files: begun under another name, whole with one rename.

Effects: idempotent; what a killed process left under the other name is removed by whoever makes or removes the volume.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills.hypervisor.disks import cloning, headers
from paddock.agent.skills.hypervisor.ports import SYSTEM, Disk, Usage
from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock.hands import faults

_DISK = re.compile(rf"({SYSTEM}|blank-([1-9][0-9]*))\.(raw|qcow2)")


def draft(volume: Path) -> Path:
    """Where a volume is made."""
    return volume.with_name(f".{volume.name}.making")


@contextmanager
def making(volume: Path, drop: Callable[[Path], None]) -> Iterator[Path]:
    """Gives the path at which to make it: nothing is there, its parent is. Whole or not at all when this ends.

    Refused if there is such a volume already: it is never written over. `drop` removes a half one.
    """
    if os.path.lexists(volume):
        raise Refused(f"{volume.name}: there is such a volume already")
    half = draft(volume)
    try:
        volume.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        drop(half)
        yield half
        faults.at("hypervisor.volume_made")
        half.rename(volume)
        faults.at("hypervisor.volume_named")
    except BaseException as exc:
        if not isinstance(exc, faults.Fault):
            with suppress(OSError, PaddockError):
                drop(half)
        if isinstance(exc, OSError):
            raise Broken(f"{volume.name}: {exc.strerror or exc}", hint=_hint(exc)) from exc
        raise


def _hint(exc: OSError) -> str:
    return "image.collect makes room" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ""


def found(volume: Path) -> list[Disk]:
    """Its disks, the system disk first. Missing if there is no such volume."""
    try:
        names = os.listdir(volume)
    except (FileNotFoundError, NotADirectoryError):
        raise Missing(f"{volume.name}: there is no such volume") from None
    disks = [match for name in names if (match := _DISK.fullmatch(name))]
    disks.sort(key=lambda match: int(match[2] or 0))
    if not disks:
        raise Missing(f"{volume.name}: there is no disk in this volume")
    return [Disk(name=match[1], path=volume / match[0], format=match[3]) for match in disks]


def usage(disks: Sequence[Disk]) -> Usage:
    """What they take together."""
    return Usage(
        own=sum(cloning.own_bytes(disk.path) for disk in disks),
        apparent=sum(headers.check_size(disk.path, disk.format) for disk in disks),
    )


def blanks(sizes: Sequence[int], disks: Sequence[Disk] = ()) -> dict[str, int]:
    """Names for more blank disks beside those that are there."""
    return {f"blank-{number}": size for number, size in enumerate(sizes, start=len(disks) or 1)}


def add(place: Path, disks: Mapping[str, int]) -> None:
    """Blank disks: as long as they should be, and nothing in them."""
    for name, size in disks.items():
        if not _DISK.fullmatch(f"{name}.raw"):
            raise Refused(f"{name}: is no name of a disk; {SYSTEM}, blank-1, blank-2...")
        if not 0 < size <= headers.MOST_SIZE:
            raise Refused(f"{name}: a disk of {size} bytes cannot be")
        with (place / f"{name}.raw").open("xb") as file:
            file.truncate(size)


def grow(path: Path, size: int) -> None:
    """A raw disk is made larger; one that is large enough stays as it is."""
    if path.stat().st_size < size:
        os.truncate(path, size)


def settle(volume: Path) -> None:
    """What is in it stays so after a power cut."""
    for path in (*(disk.path for disk in found(volume)), volume, volume.parent):
        durable.sync(path)
