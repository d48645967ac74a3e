"""Who belongs to which machine: by its control group, or by marks on processes.

Effects: none.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.hands import trees
from paddock.hands.order import HELD_IN
from paddock.hands.trees import Cgroup, Identity

_MARK = f"{HELD_IN}=".encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One process as a look at /proc shows it: its parent, the directory it is marked with, where it stands."""

    identity: Identity
    parent: int
    mark: str
    place: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Whose:
    """How one machine's processes are known. Its directory is no other's on this computer; names may be another's."""

    directory: Path
    group: Cgroup | None = None
    agent: Identity | None = None
    """Its agent, whose descendants are the machine's too."""


class Looks:
    """Looks at all processes, shared: whoever asks while a look is under way gets the next one, with all the others."""

    def __init__(self, look: Callable[[], list[Seen]]) -> None:
        self._look = look
        self._running: asyncio.Task[list[Seen]] | None = None
        self._next: asyncio.Task[list[Seen]] | None = None

    async def fresh(self) -> list[Seen]:
        """A look that began after this was asked."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._after(self._running))
        return await asyncio.shield(self._next)

    async def _after(self, before: "asyncio.Task[list[Seen]] | None") -> list[Seen]:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        return await asyncio.to_thread(self._look)


def look() -> list[Seen]:
    """All processes that we may look at."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError, ValueError):
                seen = _see(int(name))
                if seen is not None:
                    found.append(seen)
    return found


def members(whose: Whose, everyone: list[Seen]) -> list[Identity]:
    """Those of the machine: marked, standing in its directory, or below its agent or below another member.

    Never ourselves or whoever we descend from, and nobody for being unmarked: most processes of a host are.
    """
    top = os.path.realpath(whose.directory)
    if len(Path(top).parts) < 3:
        raise AssertionError("a machine in such a directory would be everybody")
    spared = _lineage(everyone)
    pids = {whose.agent.pid} if whose.agent else set()
    found: dict[int, Identity] = {}
    for seen in everyone:
        if (_is_below(seen.mark, top) or _is_below(seen.place, top)) and seen.identity.pid not in spared:
            found[seen.identity.pid] = seen.identity
    pids |= set(found)
    grown = True
    while grown:
        below = {
            seen.identity.pid: seen.identity
            for seen in everyone
            if seen.parent in pids and seen.identity.pid not in spared
        }
        grown = not set(below) <= pids
        pids |= set(below)
        found |= below
    return list(found.values())


def _is_below(place: str, top: str) -> bool:
    return place == top or place.startswith(f"{top}/")


def _lineage(everyone: list[Seen]) -> set[int]:
    """Our own pid and those of all our ancestors."""
    parents = {seen.identity.pid: seen.parent for seen in everyone}
    found = {1}
    pid = os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        pid = parents.get(pid, 0)
    return found


def find(whose: Whose) -> list[Identity]:
    """Everyone of the machine, now."""
    if whose.group is not None:
        return whose.group.procs()
    return members(whose, look())


def is_child(identity: Identity, parent: Identity) -> bool:
    """Whether one is the other's own child."""
    with suppress(OSError, ValueError):
        return int(_stat(identity.pid)[1]) == parent.pid
    return False


def _see(pid: int) -> Seen | None:
    identity = trees.identify(pid)
    if identity is None:
        return None
    mark = b""
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if entry.startswith(_MARK):
            mark = entry.removeprefix(_MARK)
    place = os.readlink(f"/proc/{pid}/cwd").removesuffix(" (deleted)")
    return Seen(
        identity=identity,
        parent=int(_stat(pid)[1]),
        mark=os.fsdecode(mark),
        place=place,
    )


def _stat(pid: int) -> list[bytes]:
    text = Path(f"/proc/{pid}/stat").read_bytes()
    return text[text.rindex(b")") + 2 :].split()
