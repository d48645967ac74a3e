"""Booking: what each host has room for, by the rows of one transaction.

Effects: none (reads rows; who books writes them in the same transaction)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from paddock.core import capacity, queue
from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core.capacity import (
    Room,
    Standing,
    booked,
    build_size,
    disk_of,
    reserved,
    size_of,
    standing,
    templates_size,
)
from paddock.core.configuration import Configuration, HostSettings
from paddock.core.environment import Environment, Pool
from paddock.core.host import Host
from paddock.core.image import HostImage, chain
from paddock.core.machine import Size, Start
from paddock.core.queue import Virtual
from paddock.ports import Tables

SKILL = "hypervisor"
"""What a host's agent can do that makes machines from images."""


def rooms(tables: Tables, configuration: Configuration) -> list[Room]:
    """Every configured host that carries virtual machines, in the order of the configuration."""
    carrying = [settings for settings in configuration.hosts.values() if SKILL in settings.skills]
    return [room_of(tables, settings) for settings in carrying]


def room_of(tables: Tables, settings: HostSettings) -> Room:
    """One host's figures, and what is booked of them by now."""
    host = tables.hosts.find(settings.name)
    images = tables.images.where(host=settings.name)
    size = whole(settings, host)
    return Room(
        host=settings.name,
        labels=settings.labels,
        is_open=host is not None and host.state is hosts.State.ONLINE,
        why_closed=f"it is {host.state.value if host else 'unknown'}",
        whole=size,
        booked=booked(
            tables.environments.where(host=settings.name, state=sorted(environments.LIVE)),
            images,
            host.stored if host is not None else None,
        ),
        stored=host.stored if host is not None else None,
        reserved=reserved(images, size),
    )


def whole(settings: HostSettings, host: Host | None) -> Size | None:
    """What may be booked on a host: its settings, or what its agent says, times its overcommit; None: not known yet."""
    said = (host.capacity if host is not None else None) or Size()
    size = Size(
        memory=settings.memory or said.memory, vcpus=settings.vcpus or said.vcpus, disk=settings.disk or said.disk
    )
    return settings.overcommit.of(size) if size.memory and size.vcpus and size.disk else None


def images_on(tables: Tables, host: str) -> dict[str, HostImage]:
    """Image → its row on a host."""
    return {row.image: row for row in tables.images.where(host=host)}


def images_of(pool: Pool) -> tuple[str, ...]:
    """The images that a pool's machines are made from, each once."""
    return tuple(dict.fromkeys(machine.image for machine in pool.settings))


def sizes(tables: Tables, configuration: Configuration, pool: Pool, found: list[Room]) -> dict[str, Size]:
    """Host → what one environment of the pool takes there: how large a disk is was seen when it was built."""
    named = images_of(pool)
    return {room.host: size_of(pool.settings, disks(tables, configuration, room.host, named)) for room in found}


def disks(tables: Tables, configuration: Configuration, host: str, images: Iterable[str]) -> dict[str, int]:
    """Image → bytes of its disk on a host, as a machine sees it."""
    there = images_on(tables, host)
    return {name: _disk(configuration, there, name) for name in images}


def with_templates(tables: Tables, configuration: Configuration, environment: Environment) -> Environment:
    """With room for the templates that its machines are forked from, if there is room that nobody else is to have.

    Which of them their host has already is not known here: it is booked for as long as machines are made, no longer.
    """
    spec, settings = environment.spec, configuration.hosts.get(environment.host)
    if spec is None or spec.start is not Start.FORK or environment.fork_of or environment.for_templates or not settings:
        return environment
    wanted = templates_size(spec.machines, disks(tables, configuration, environment.host, spec.images))
    if wanted > room_of(tables, settings).open.disk:
        return environment
    return replace(environment, for_templates=wanted)


def _disk(configuration: Configuration, there: Mapping[str, HostImage], name: str) -> int:
    row = there.get(name)
    configured = disk_of(chain(configuration.images, name)) if name in configuration.images else 0
    return max(configured, row.apparent or row.bytes) if row is not None else configured


def standings(tables: Tables, pool: Pool, found: list[Room]) -> dict[str, Standing]:
    """Host → how far the pool's images are there."""
    return {room.host: standing(images_of(pool), images_on(tables, room.host)) for room in found}


def never(tables: Tables, configuration: Configuration, pool: Pool) -> str:
    """Why no host could ever carry one of the pool; empty where one may."""
    own, build = least(tables, configuration, pool)
    return capacity.never(pool, rooms(tables, configuration), own, build)


def why(
    tables: Tables, configuration: Configuration, pool: Pool, existing: Sequence[Environment], *, now: datetime
) -> Virtual:
    """What who waits for one of the pool waits for: an image, or room on a host; empty where it is neither."""
    found = [room for room in rooms(tables, configuration) if capacity.suits(pool, room)]
    lacking = [
        row
        for room in found
        for name in images_of(pool)
        if (row := images_on(tables, room.host).get(name)) is not None and not row.serves
    ]
    size = sizes(tables, configuration, pool, found)
    coming = queue.short(existing, queued=1) == 0
    return Virtual(
        is_open=any(room.is_open for room in found),
        hosts=tuple(f"host {room.host}: {room.why_closed}" for room in found if not room.is_open),
        images=tuple(capacity.tell_image(row, now=now) for row in lacking),
        failed=tuple(row.image for row in lacking if row.reason),
        room="" if coming else capacity.waits_for(pool, found, size),
    )


def least(tables: Tables, configuration: Configuration, pool: Pool) -> tuple[Size, Size]:
    """What one environment of a pool takes at the least, and what building the largest of its images takes."""
    chains = {name: chain(configuration.images, name) for name in images_of(pool) if name in configuration.images}
    own = size_of(pool.settings, {name: disk_of(images) for name, images in chains.items()})
    rows = tables.images.where()
    builds = [build_size(images, rows) for images in chains.values()]
    return own, Size(
        memory=max((one.memory for one in builds), default=0),
        vcpus=max((one.vcpus for one in builds), default=0),
        disk=max((one.disk for one in builds), default=0),
    )
