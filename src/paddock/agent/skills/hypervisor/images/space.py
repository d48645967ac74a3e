"""What layers and templates take of the disk: what files share counts for who holds it last.

Effects: none; it looks.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from paddock.agent.skills.hypervisor.disks import cloning

OTHERS = "*"
"""Whoever holds something and is neither layer nor template: machines, saved disks, what is being made."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Bytes by who holds them: each part of the disk is counted once, for all its holders together."""

    held: Mapping[frozenset[str], int] = field(default_factory=dict)

    def added(self, name: str, below: str = "") -> int:
        """What one takes that it does not have from what it was made from."""
        return sum(size for holders, size in self.held.items() if name in holders and below not in holders)

    def freed(self, name: str, gone: Set[str] = frozenset()) -> int:
        """What is free once one goes, after others went: what nobody else holds any more."""
        return sum(size for holders, size in self.held.items() if name in holders and holders <= gone | {name})


def measure(places: Iterable[tuple[str, Path]]) -> Space:
    """Of holders and their directories on one file system; a holder may have several."""
    held: Counter[frozenset[str]] = Counter()
    shared: list[tuple[int, int, str]] = []
    for name, place in places:
        for path in _files(place):
            with suppress(OSError):  # it went meanwhile
                alone, extents = cloning.extents(path)
                held[frozenset((name,))] += alone
                shared += [(begin, end, name) for begin, end in extents]
    held.update(together(shared))
    return Space(held=held)


def together(extents: Iterable[tuple[int, int, str]]) -> Counter[frozenset[str]]:
    """Of parts of a disk, each with who holds it: how much of it which of them hold together."""
    edges = sorted(edge for begin, end, name in extents for edge in ((begin, 1, name), (end, -1, name)) if begin < end)
    found: Counter[frozenset[str]] = Counter()
    holding: Counter[str] = Counter()
    at = 0
    for place, change, name in edges:
        if holding and place > at:
            found[frozenset(holding)] += place - at
        at = place
        holding[name] += change
        if not holding[name]:
            del holding[name]
    return found


def _files(place: Path) -> Iterator[Path]:
    for above, _, names in os.walk(place, followlinks=True):  # a volume may be a link
        yield from (path for name in names if not (path := Path(above) / name).is_symlink() and path.is_file())
