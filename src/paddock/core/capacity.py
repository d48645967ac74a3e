"""What hosts have room for: what is booked, the choice of a host, why none will do."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from paddock.core.environment import Environment, Pool, State
from paddock.core.host import Stored
from paddock.core.image import HELPER, Chain, Entry, HostImage, again
from paddock.core.image import State as ImageState
from paddock.core.machine import MachineSettings, Size
from paddock.core.report import spell as duration

NOTHING = Size()
UNSEEN_DISK = 4 << 30
"""Bytes that building an image books of the disk where nobody has said how large that is, or seen it."""
DEVICES = 64 << 20
"""Bytes that a template takes at most for what the devices of its machine remember, a screen's memory included."""
_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


@dataclass(frozen=True, kw_only=True)
class Room:
    """One host as far as booking on it goes."""

    host: str
    labels: tuple[str, ...] = ()
    is_open: bool = False
    """Whether anything new may begin on it now."""
    why_closed: str = ""
    whole: Size | None = None
    """What may be booked on it in all, its overcommit included; None: its agent has not told yet."""
    booked: Size = NOTHING
    stored: Stored | None = None
    """What is booked of its disk by images and templates, as its agent counted it; None: it has not."""
    reserved: Size = NOTHING
    """What images wait for that are to be built on it: they come before any new environment."""

    @property
    def free(self) -> Size:
        """What is not booked."""
        return Size() if self.whole is None else self.whole - self.booked

    @property
    def open(self) -> Size:
        """What a new environment may have of it."""
        return self.free - self.reserved


def suits(pool: Pool, room: Room) -> bool:
    """Whether the pool's settings allow the host, whatever room it has."""
    if pool.host:
        return room.host == pool.host
    return set(pool.labels) <= set(room.labels)


def size_of(machines: Sequence[MachineSettings], disks: Mapping[str, int]) -> Size:
    """What an environment of these machines takes. `disks`: image → bytes of its disk, as a machine sees it."""
    return Size(
        memory=sum(machine.memory for machine in machines),
        vcpus=sum(machine.vcpus for machine in machines),
        disk=sum(disks.get(machine.image, 0) + sum(machine.disks) for machine in machines),
    )


def templates_size(machines: Sequence[MachineSettings], disks: Mapping[str, int]) -> int:
    """Bytes of disk that the templates of these machines take at most: what each remembers, and what it may have
    written. Those that are made the same share one. `disks` as of `size_of`.
    """
    shapes = {(one.image, one.memory, one.vcpus, one.disks, one.display): one for one in machines}
    return sum(one.memory + DEVICES + disks.get(one.image, 0) + sum(one.disks) for one in shapes.values())


def disk_of(images: Chain) -> int:
    """How large an image's disk is at least, as far as its configuration says."""
    return max((image.size for image in images), default=0)


def build_size(images: Chain, rows: Iterable[HostImage]) -> Size:
    """What building an image takes while it lasts: one machine at a time builds one layer after the other.

    `rows`: images that were built, of which some may be this one or below it: how large their disks are was seen.
    """
    names = {image.name for image in images}
    seen = max((row.apparent for row in rows if row.image in names), default=0)
    machines = [Size(memory=image.memory, vcpus=image.vcpus) for image in images]
    machines += [HELPER for image in images if image.entry is Entry.HELPER and not image.parent]
    return Size(
        memory=max((machine.memory for machine in machines), default=0),
        vcpus=max((machine.vcpus for machine in machines), default=0),
        disk=max(disk_of(images), seen) or UNSEEN_DISK,
    )


def booked(environments: Iterable[Environment], images: Collection[HostImage], stored: Stored | None = None) -> Size:
    """The sum of what is booked of one host: by environments that are not gone, by images, by what builds them.

    `stored` is what its agent counted on its disk. That has layers in it which no row knows any more, and lacks those
    that were removed by hand and will be built again: the larger of the two is what images take.
    """
    total = Size()
    for environment in environments:
        if environment.state is not State.GONE and environment.size is not None:
            total += environment.size + Size(disk=environment.for_templates)
    known = 0
    layers: dict[str, int] = {}
    for image in images:
        # Images share layers: each is there once.
        layers |= {layer.digest: layer.bytes for layer in image.layers}
        if not image.layers:
            known += image.bytes
        if image.state is ImageState.BUILDING:
            total += build_size(image.chain, images)
    known += sum(layers.values())
    counted = stored or Stored()
    return total + Size(disk=max(known, counted.images) + counted.templates)


def reserved(images: Collection[HostImage], whole: Size | None) -> Size:
    """What the images of one host wait for; one that would never have room there waits in vain, and keeps nothing."""
    total = Size()
    for image in images:
        size = build_size(image.chain, images)
        if image.state is ImageState.WANTED and whole is not None and size.fits(whole):
            total += size
    return total


class Standing(StrEnum):
    """How far the images of a pool are on a host."""

    READY = "ready"
    COMING = "coming"
    ABSENT = "absent"
    FAILED = "failed"


def standing(images: Iterable[str], there: Mapping[str, HostImage]) -> Standing:
    """The worst of the images that a pool needs. `there`: image → its row on the host."""
    rows = [there.get(image) for image in images]
    lacking = [row for row in rows if row is None or not row.serves]
    if not lacking:
        return Standing.READY
    if any(row is not None and row.state is ImageState.FAILED for row in lacking):
        return Standing.FAILED
    return Standing.ABSENT if any(row is None for row in lacking) else Standing.COMING


@dataclass(frozen=True, kw_only=True)
class Build:
    """Book it on this host now."""

    host: str


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Have this host build the images first."""

    host: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """There is no room now."""


def choose(
    pool: Pool, rooms: Sequence[Room], sizes: Mapping[str, Size], standings: Mapping[str, Standing]
) -> Build | Prepare | Wait:
    """Where the pool's next environment goes. `sizes`, `standings`: host → what one takes there, how its images are.

    Of the hosts that have the images and room, the one with the most room left, so that load spreads; only where there
    is none another one is to build them, and only one at a time.
    """
    fitting = [room for room in rooms if suits(pool, room) and room.is_open and sizes[room.host].fits(room.open)]
    ready = [room for room in fitting if standings[room.host] is Standing.READY]
    if ready:
        return Build(host=_most_room(ready).host)
    if any(standings[room.host] is Standing.COMING for room in rooms if suits(pool, room) and room.is_open):
        return Wait()
    absent = [room for room in fitting if standings[room.host] is Standing.ABSENT]
    return Prepare(host=_most_room(absent).host) if absent else Wait()


def _most_room(rooms: Sequence[Room]) -> Room:
    """The one with the most memory left; the first of those that have the same."""
    return max(rooms, key=lambda room: (room.open.memory, room.open.vcpus, room.open.disk))


def never(pool: Pool, rooms: Sequence[Room], least: Size, build: Size) -> str:
    """Why no host will ever have room for one, however empty; empty where one may.

    `least` is what one takes at the least, `build` what its images' building takes. A host whose agent has not told
    what it has may have room.
    """
    suited = [room for room in rooms if suits(pool, room)]
    if not suited:
        wanted = f"host {pool.host} is not configured" if pool.host else f"no host has the labels {listed(pool.labels)}"
        return f"pool {pool.name}: {wanted}"
    said = []
    for room in suited:
        if room.whole is None:
            return ""
        lacks = lacking(least, room.whole) or lacking(build, room.whole)
        if not lacks:
            return ""
        what = "" if lacking(least, room.whole) else " to build its image"
        said.append(f"host {room.host} has {lacks}{what}")
    return f"pool {pool.name} fits no host: {'; '.join(said)}"


def lacking(wanted: Size, room: Size) -> str:
    """`8GiB memory, 12GiB are wanted`, for the first of the three that is too little; empty where all fit."""
    if wanted.memory > room.memory:
        return f"{spell(room.memory)} memory, {spell(wanted.memory)} are wanted"
    if wanted.vcpus > room.vcpus:
        return f"{max(0, room.vcpus)} vcpus, {wanted.vcpus} are wanted"
    if wanted.disk > room.disk:
        return f"{spell(room.disk)} disk, {spell(wanted.disk)} are wanted"
    return ""


def waits_for(pool: Pool, rooms: Sequence[Room], sizes: Mapping[str, Size]) -> str:
    """What each host that could carry the pool lacks now; empty where one lacks nothing."""
    said = []
    for room in rooms:
        if not suits(pool, room):
            continue
        if not room.is_open:
            said.append(f"host {room.host}: {room.why_closed}")
            continue
        lacks = lacking(sizes[room.host], room.open)
        if not lacks:
            return ""
        said.append(f"host {room.host} has {lacks}")
    return "; ".join(said)


def tell_image(row: HostImage, *, now: datetime) -> str:
    """`image debian is being built on host vm-1 for 3m`, of one that does not serve yet."""
    what = f"image {row.image}"
    match row.state:
        case ImageState.BUILDING:
            return f"{what} is being built on host {row.host} for {duration(now - row.since)}"
        case ImageState.FAILED:
            due = again(row)
            moment = f", tried again at {due:%H:%M} UTC" if due is not None else ""
            return f"{what} failed on host {row.host}: {row.reason}{moment}"
        case _:
            return f"{what} is to be built on host {row.host} as soon as there is room"


def listed(names: Sequence[str]) -> str:
    """`a, b`."""
    return ", ".join(names)


def spell(amount: int) -> str:
    """Bytes as a person says them: `12GiB`, `1.5GiB`, `512MiB`."""
    amount = max(0, amount)
    for unit, name in _UNITS:
        if amount >= unit:
            return f"{round(amount / unit, 1):g}{name}"
    return f"{amount}B"
