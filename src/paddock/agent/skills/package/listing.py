"""What is installed, as lists: read, compared, cut into pages."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from paddock.wire.framing import JSON

_ROOM = 600 << 10
"""Bytes that one answer's rows may take: a message holds 1 MiB."""
_NO_PACKAGE = "gpg-pubkey"
"""How rpm keeps keys."""


@dataclass(frozen=True, kw_only=True, order=True)
class Installed:
    """One installed package; of some, as kernels of rpm, several versions are there at once."""

    name: str
    arch: str
    version: str

    @property
    def room(self) -> int:
        """About what it takes in a message."""
        return len(self.name) + len(self.arch) + 2 * len(self.version) + 60


def parse(text: str) -> list[Installed]:
    """The lines that the listings of all managers have: name, architecture and version, with tabs between."""
    found = []
    for line in text.splitlines():
        name, _, rest = line.partition("\t")
        arch, _, version = rest.partition("\t")
        if name and version and name != _NO_PACKAGE:
            found.append(Installed(name=name, arch=arch, version=re.sub(r"\A0:", "", version)))
    return sorted(set(found))


def changes(before: Iterable[Installed], after: Iterable[Installed]) -> list[dict[str, JSON]]:
    """What is different: a version for another where one was replaced, else what came and what went."""
    old, new = _versions(before), _versions(after)
    found: list[dict[str, JSON]] = []
    for name, arch in sorted({*old, *new}):
        gone, come = old[name, arch] - new[name, arch], new[name, arch] - old[name, arch]
        pairs: list[tuple[str | None, str | None]]
        if len(gone) == len(come) == 1:
            pairs = [(gone.pop(), come.pop())]
        else:
            pairs = [*((version, None) for version in sorted(gone)), *((None, version) for version in sorted(come))]
        found += [{"name": name, "arch": arch, "from": source, "to": target} for source, target in pairs]
    return found


def told(found: list[dict[str, JSON]]) -> dict[str, JSON]:
    """The changes as they fit into a message; `more` counts those that do not."""
    room, fitting = _ROOM, 0
    for change in found:
        room -= sum(len(str(value)) for value in change.values()) + 60
        if room < 0:
            break
        fitting += 1
    rows: list[JSON] = [dict(change) for change in found[:fitting]]
    return {"changed": rows, **({"more": len(found) - fitting} if fitting < len(found) else {})}


def page(found: Iterable[Installed], *, glob: str, cursor: str, most: int) -> dict[str, JSON]:
    """What comes after the cursor and fits: at least one row, so that whoever goes on comes to the end.

    The cursor is the last row's own words: nothing is kept for it, and it means the same after any change.
    """
    after = tuple([*cursor.split("\t"), "", "", ""][:3])
    rest = [
        one
        for one in sorted(found)
        if (one.name, one.arch, one.version) > after and (not glob or fnmatchcase(one.name, glob))
    ]
    rows = list(_fitting(rest, most))
    packages: list[JSON] = [{"name": one.name, "arch": one.arch, "version": one.version} for one in rows]
    last = rows[-1] if len(rows) < len(rest) else None
    return {"packages": packages, **({"cursor": f"{last.name}\t{last.arch}\t{last.version}"} if last else {})}


def _fitting(rows: list[Installed], most: int) -> Iterator[Installed]:
    room = _ROOM
    for index, row in enumerate(rows[:most]):
        room -= row.room
        if index and room < 0:
            return
        yield row


def _versions(found: Iterable[Installed]) -> defaultdict[tuple[str, str], set[str]]:
    versions: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for one in found:
        versions[one.name, one.arch].add(one.version)
    return versions
