"""What machines may take of this host, and what images and templates take of it already.

Effects: none; it looks.
"""

import os
import secrets
import threading
from dataclasses import replace
from pathlib import Path

from paddock.agent.settings import Hypervisor
from paddock.agent.skills.hypervisor.images.space import measure
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.core.host import Stored
from paddock.core.machine import Size

_SHARE = 0.9
"""Of memory and disk: the host itself needs some."""
_VCPUS = 8
"""Virtual processors for each of the host's: most machines wait most of the time."""


def figures(settings: Hypervisor, layout: Layout) -> Size:
    """What may be booked on this host: as its configuration says, else most of what it has."""
    return Size(
        memory=settings.memory or int(_memory() * _SHARE),
        vcpus=settings.vcpus or (os.cpu_count() or 1) * _VCPUS,
        disk=settings.disk or _disk(layout),
    )


def _memory() -> int:
    """All of the host's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _disk(layout: Layout) -> int:
    """What is free, and what images, templates and machines have of it already: that is booked."""
    place = next(one for one in (layout.root, *layout.root.parents) if one.exists())
    found = os.statvfs(place)
    taken = _taken(layout.images, layout.templates, layout.machines, layout.saved)
    return int(found.f_bavail * found.f_frsize * _SHARE) + taken


def stored(layout: Layout) -> Stored:
    """What is taken of the disk, whoever is carried. What templates share with images is in the images' share."""
    images = _taken(layout.images)
    return Stored(images=images, templates=max(0, _taken(layout.images, layout.templates) - images))


def kept(layout: Layout, volume: Path) -> int:
    """Bytes that disks take beside images, whoever else has the same ones: theirs stays as long as they do, while
    templates and other disks may go.
    """
    return max(0, _taken(layout.images, volume) - _taken(layout.images))


class Count:
    """What is stored, counted again only when a layer or a template came or went: each is sealed under its name."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names: frozenset[Path] = frozenset()
        self._turn = threading.Lock()
        self.last = Stored(counter=secrets.token_hex(8))

    def again(self) -> Stored:
        """Now; `last` is the same from now on. Of two counts the one with the higher number looked later."""
        with self._turn:
            names = frozenset(
                path for directory in (self._layout.images, self._layout.templates) for path in directory.glob("*/*")
            )
            if names != self._names:
                found, last = stored(self._layout), self.last
                self.last = replace(found, counter=last.counter, number=last.number + 1)
                self._names = names
            return self.last


def _taken(*directories: Path) -> int:
    """Bytes below all of them: what files share counts once."""
    return sum(measure(("", directory) for directory in directories).held.values())
