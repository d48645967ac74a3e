"""Which layers and templates go: the longest unused first, leaves before what they stand on.

Effects: none; pure.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta

from paddock.agent.skills.hypervisor.images.space import Space
from paddock.core.capacity import spell

GRACE = timedelta(minutes=10)
"""What was used so lately stays: whoever asked for it may be about to clone it."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A layer or a template. Times are in seconds since 1970."""

    name: str
    """Digest or key."""
    below: str = ""
    """The layer that it was made from."""
    used: float = 0.0
    users: tuple[str, ...] = ()
    """Machines and saved disks that were cloned from it."""
    is_template: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for; with neither `unused` nor `room`, whatever nobody needs goes."""

    unused: timedelta | None = None
    room: int | None = None
    """Bytes that should be free."""
    keep: Set[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Removal:
    """One that goes, and why."""

    thing: Thing
    why: str
    freed: int
    """Bytes that are free with it, once those before it went."""


def collect(things: Sequence[Thing], wanted: Wanted, *, space: Space, free: int, now: float) -> Sequence[Removal]:
    """What goes, in the order in which it goes. What somebody stands on, uses, keeps or used just now never does."""
    left: dict[str, Thing] = {thing.name: thing for thing in things}
    removals: list[Removal] = []
    while wanted.unused is not None or wanted.room is None or free < wanted.room:
        candidates = [thing for thing in _leaves(left) if not _is_needed(thing, wanted.keep, now)]
        chosen = min(candidates, key=lambda thing: (thing.used, thing.name), default=None)
        why = "" if chosen is None else _why(chosen, wanted, free=free, now=now)
        if chosen is None or not why:
            return removals
        freed = space.freed(chosen.name, {removal.thing.name for removal in removals})
        removals.append(Removal(thing=chosen, why=why, freed=freed))
        free += freed
        del left[chosen.name]
    return removals


def _leaves(things: Mapping[str, Thing]) -> Sequence[Thing]:
    below = {thing.below for thing in things.values()}
    return [thing for thing in things.values() if thing.name not in below]


def _is_needed(thing: Thing, keep: Set[str], now: float) -> bool:
    return bool(thing.users) or thing.name in keep or now - thing.used < GRACE.total_seconds()


def _why(thing: Thing, wanted: Wanted, *, free: int, now: float) -> str:
    """Empty if it stays after all. The candidate is the longest unused: if it stays, all do."""
    idle = now - thing.used
    if wanted.unused is not None and idle >= wanted.unused.total_seconds():
        return f"not used for {_span(idle)}"
    if wanted.room is not None and free < wanted.room:
        return f"{spell(free)} are free, not {spell(wanted.room)}"
    if wanted.unused is None and wanted.room is None:
        return "nobody needs it"
    return ""


def _span(seconds: float) -> str:
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} seconds"
