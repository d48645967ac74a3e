"""What machines may take of this host: as its configuration says, else most of what it has.

Effects: none; it looks.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from paddock.agent.settings import Hypervisor
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.core.machine import Size

_SHARE = 0.9
"""Of memory and disk: the host itself needs some."""
_VCPUS = 8
"""Virtual processors for each of the host's: most machines wait most of the time."""
_BLOCK = 512
"""Bytes in which st_blocks counts."""


def figures(settings: Hypervisor, layout: Layout) -> Size:
    """What may be booked on this host."""
    return Size(
        memory=settings.memory or int(_memory() * _SHARE),
        vcpus=settings.vcpus or (os.cpu_count() or 1) * _VCPUS,
        disk=settings.disk or _disk(layout),
    )


def _memory() -> int:
    """All of the host's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _disk(layout: Layout) -> int:
    """What is free, and what images and machines have of it already: that is booked."""
    place = next(one for one in (layout.root, *layout.root.parents) if one.exists())
    found = os.statvfs(place)
    taken = sum(_taken(directory) for directory in (layout.images, layout.machines, layout.saved))
    return int(found.f_bavail * found.f_frsize * _SHARE) + taken


def _taken(directory: Path) -> int:
    return sum(_BLOCK * file.stat(follow_symlinks=False).st_blocks for file in _files(directory))


def _files(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_file(follow_symlinks=False):
            yield entry
