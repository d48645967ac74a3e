"""Stocking: how many environments there are to be, on which host, who makes room.

Effects: idempotent (rows alone; what is booked is booked in the transaction that makes the environment's row)
"""

from dataclasses import dataclass, replace
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core import lease as leases
from paddock.core import queue
from paddock.core.agent import Agent, Kind
from paddock.core.capacity import Build, Prepare, Room, Standing, choose, suits
from paddock.core.configuration import Configuration
from paddock.core.environment import Environment, Machine, Pool, Spec
from paddock.core.image import HostImage, chain, id_of, recipe
from paddock.core.lease import Lease
from paddock.core.machine import Size
from paddock.engine import booking
from paddock.engine.means import move, record
from paddock.engine.specifying import spec_of
from paddock.ports import Tables

_LEAVING = frozenset({environments.State.DIRTY, environments.State.CLEANING, environments.State.BROKEN})


def stock(tables: Tables, configuration: Configuration, *, maker: str, now: datetime) -> None:
    """Request as many environments as are wanted: for who waits, and for the shelf. `maker`: the store's birth."""
    for pool in configuration.pools.values():
        if not pool.is_virtual and _is_online(tables, pool.host):
            waiting = tables.leases.count(pool=pool.name, state=leases.State.QUEUED)
            for _ in range(queue.wanted(pool, of_pool(tables, pool), queued=waiting)):
                request(tables, pool, pool.host, maker=maker, now=now)
    virtual = [pool for pool in configuration.pools.values() if pool.is_virtual]
    if virtual and _serve_demand(tables, configuration, virtual, maker=maker, now=now):
        for pool in virtual:
            _fill_shelf(tables, configuration, pool, maker=maker, now=now)


def of_pool(tables: Tables, pool: Pool) -> list[Environment]:
    """What counts against its `max`: not what only has its disks saved, nor what was made from such."""
    found = tables.environments.where(pool=pool.name, state=sorted(environments.LIVE))
    return [one for one in found if not one.fork_of and one.state is not environments.State.SAVED]


def _is_online(tables: Tables, host: str) -> bool:
    row = tables.hosts.find(host)
    return row is not None and row.state is hosts.State.ONLINE


def request(
    tables: Tables,
    pool: Pool,
    host: str,
    *,
    maker: str,
    now: datetime,
    size: Size | None = None,
    spec: Spec | None = None,
    fork_of: str = "",
) -> Environment:
    """A new environment of a pool, with the agents that its machines are going to have. `size` is booked with it."""
    name = f"{pool.name}-{tables.number(f'environment:{pool.name}')}"
    names = pool.machines if spec is None else tuple(machine.name for machine in spec.machines)
    machines = tuple(Machine(name=machine, agent=f"{name}.{machine}") for machine in names)
    environment = tables.environments.add(
        Environment(
            id=name,
            pool=pool.name,
            host=host,
            since=now,
            machines=machines,
            reset=pool.reset,
            fence=1,
            created=now,
            size=size,
            full_disk=size.disk if size is not None else 0,
            spec=spec,
            maker=maker,
            fork_of=fork_of,
        )
    )
    for machine in machines:
        tables.agents.add(
            Agent(
                id=machine.agent,
                name=machine.agent,
                kind=Kind.MACHINE,
                host=host,
                environment=name,
                machine=machine.name,
                created=now,
            )
        )
    record(tables, "environments", None, environment, "request", now=now, by=f"pool {pool.name}")
    return environment


@dataclass(frozen=True, kw_only=True)
class _Demand:
    """One environment that somebody waits for and that nothing is coming for."""

    pool: Pool
    lease: Lease


def _serve_demand(
    tables: Tables, configuration: Configuration, pools: list[Pool], *, maker: str, now: datetime
) -> bool:
    """Book for who waits, the longest first; whether nobody waits for room any more.

    Where the one whose turn it is finds no room, nothing is booked for who came later: else the small ones would keep
    a large one waiting for ever.
    """
    demands = [demand for pool in pools for demand in _demands(tables, pool)]
    blocked: set[str] = set()
    for demand in sorted(demands, key=lambda one: one.lease.asked):
        if _carriers(configuration, demand.pool) <= blocked:
            continue
        blocked |= _book(tables, configuration, demand.pool, blocked, lease=demand.lease, maker=maker, now=now)
    return not blocked


def _carriers(configuration: Configuration, pool: Pool) -> set[str]:
    """The names of the hosts that may carry a pool."""
    rooms = [Room(host=host.name, labels=host.labels) for host in configuration.hosts.values()]
    return {room.host for room in rooms if suits(pool, room)}


def _demands(tables: Tables, pool: Pool) -> list[_Demand]:
    waiting = tables.leases.where(pool=pool.name, state=leases.State.QUEUED)
    if not waiting:
        return []
    plain = [lease for lease in waiting if not lease.fork_of]
    existing = of_pool(tables, pool)
    count = queue.wanted(replace(pool, min_ready=0), existing, queued=len(plain))
    covered = len(plain) - queue.short(existing, queued=len(plain))
    lacking = plain[covered : covered + count]
    for origin in {lease.fork_of for lease in waiting if lease.fork_of}:
        mine = [lease for lease in waiting if lease.fork_of == origin]
        made = tables.environments.where(fork_of=origin, state=sorted(environments.LIVE))
        lacking += mine[len(mine) - queue.short(made, queued=len(mine)) :]
    return [_Demand(pool=pool, lease=lease) for lease in lacking]


def _book(
    tables: Tables,
    configuration: Configuration,
    pool: Pool,
    blocked: set[str],
    *,
    lease: Lease | None,
    maker: str,
    now: datetime,
) -> set[str]:
    """One environment of the pool, if a host that is not blocked has room; else the hosts where room is wanted."""
    if lease is not None and lease.fork_of:
        return _book_fork(tables, configuration, pool, blocked, lease, maker=maker, now=now)
    rooms = [
        replace(room, is_open=room.is_open and room.host not in blocked)
        for room in booking.rooms(tables, configuration)
    ]
    sizes = booking.sizes(tables, configuration, pool, rooms)
    standings = booking.standings(tables, pool, rooms)
    match choose(pool, rooms, sizes, standings):
        case Build(host=host):
            spec = spec_of(pool, booking.images_on(tables, host))
            request(tables, pool, host, maker=maker, now=now, size=sizes[host], spec=spec)
            return set()
        case Prepare(host=host):
            for image in booking.images_of(pool):
                want(tables, configuration, image, host, now=now)
            return set()
    if lease is None:
        return set()
    short = {
        room.host
        for room in rooms
        if suits(pool, room)
        and room.is_open
        and standings[room.host] is Standing.READY
        and room.whole is not None
        and sizes[room.host].fits(room.whole)
    }
    for room in rooms:
        if room.host in short:
            make_room(tables, room, sizes[room.host], room.open, now=now, lease=lease)
    return short


def _book_fork(
    tables: Tables,
    configuration: Configuration,
    pool: Pool,
    blocked: set[str],
    lease: Lease,
    *,
    maker: str,
    now: datetime,
) -> set[str]:
    """A new environment of saved disks, on the host that has them."""
    origin = _origin(tables, lease)
    settings = configuration.hosts.get(origin.host) if origin is not None else None
    if origin is None or origin.spec is None or origin.size is None or settings is None or origin.host in blocked:
        return set()
    room = booking.room_of(tables, settings)
    size = fork_size(origin)
    if not room.is_open:
        return set()
    if size.fits(room.open):
        request(tables, pool, origin.host, maker=maker, now=now, size=size, spec=origin.spec, fork_of=origin.id)
        return set()
    make_room(tables, room, size, room.open, now=now, lease=lease)
    return {room.host} if room.whole is not None and size.fits(room.whole) else set()


def _origin(tables: Tables, lease: Lease) -> Environment | None:
    """The environment whose saved disks a lease wants a fork of; None where it does not keep them any more."""
    found = tables.environments.find(lease.fork_of)
    return found if found is not None and found.state is environments.State.SAVED else None


def fork_size(origin: Environment) -> Size:
    """What an environment takes that is made of the disks that another one saved."""
    assert origin.spec is not None
    return Size(
        memory=sum(machine.memory for machine in origin.spec.machines),
        vcpus=sum(machine.vcpus for machine in origin.spec.machines),
        disk=origin.full_disk,
    )


def _fill_shelf(tables: Tables, configuration: Configuration, pool: Pool, *, maker: str, now: datetime) -> None:
    """As many as are to be ready ahead of demand, while there is room that nobody waits for."""
    for _ in range(queue.wanted(pool, of_pool(tables, pool), queued=0)):
        _book(tables, configuration, pool, set(), lease=None, maker=maker, now=now)


def want(
    tables: Tables, configuration: Configuration, image: str, host: str, *, now: datetime, by: str = ""
) -> HostImage:
    """The image's row on a host; a new one is built as soon as there is room."""
    row = tables.images.find(id_of(image, host))
    if row is not None:
        return row
    wanted = chain(configuration.images, image)
    made = tables.images.add(
        HostImage(
            id=id_of(image, host), image=image, host=host, since=now, chain=wanted, recipe=recipe(wanted), asked_by=by
        )
    )
    record(tables, "images", None, made, "want", now=now, by=by)
    return made


def make_room(
    tables: Tables, room: Room, wanted: Size, free: Size, *, now: datetime, lease: Lease | None = None
) -> None:
    """Retire what idles on a host, the longest idle first, if that and what is leaving anyway makes enough room.

    `lease`: who wants it. What is free and not lent yet to somebody who came before, as it is silent, is left to them.
    """
    free += _leaving(tables, room.host)
    ready = tables.environments.where(host=room.host, state=environments.State.READY)
    idle = sorted((one for one in ready if one.size is not None and not one.retiring), key=lambda one: one.since)
    idle = _without_awaited(tables, idle, lease) if lease is not None else idle
    if wanted.fits(free) or not wanted.fits(sum((one.size or Size() for one in idle), free)):
        return
    for one in idle:
        retire(tables, one, now=now, reason="its room is wanted")
        free += one.size or Size()
        if wanted.fits(free):
            return


def _without_awaited(tables: Tables, idle: list[Environment], lease: Lease) -> list[Environment]:
    """Those but for as many of each pool as are waited for since before `lease` was asked for."""
    left = []
    kept: dict[tuple[str, str], int] = {}
    for one in reversed(idle):
        key = one.pool, one.fork_of
        if key not in kept:
            waiting = tables.leases.where(pool=one.pool, state=leases.State.QUEUED, fork_of=one.fork_of)
            kept[key] = sum(other.asked <= lease.asked for other in waiting)
        if kept[key]:
            kept[key] -= 1
        else:
            left.append(one)
    return left[::-1]


def _leaving(tables: Tables, host: str) -> Size:
    """What is on its way to be free on a host."""
    going = tables.environments.where(host=host, state=sorted(_LEAVING))
    sizes = [one.size or Size() for one in going if one.retiring or one.state is environments.State.BROKEN]
    return sum(sizes, Size())


def gives_way(tables: Tables, configuration: Configuration, environment: Environment) -> bool:
    """Whether one that comes back is not cleaned but destroyed, because its room is wanted by who came first.

    That is an image that is to be built on its host, or somebody who waits for another pool, and longer than everybody
    who waits for its own: else a pool whose environments go from hand to hand would never let another one begin.
    """
    settings = configuration.hosts.get(environment.host)
    if environment.spec is None or settings is None:
        return False
    room, leaving = booking.room_of(tables, settings), _leaving(tables, environment.host)
    if room.whole is None or not room.is_open:
        return False
    if not room.reserved.fits(room.free + leaving):
        return True
    own = tables.leases.where(pool=environment.pool, state=leases.State.QUEUED, limit=1)
    for pool in configuration.pools.values():
        if not pool.is_virtual or pool.name == environment.pool:
            continue
        for demand in _demands(tables, pool)[:1]:
            if own and own[0].asked <= demand.lease.asked:
                continue
            size = _size_on(tables, configuration, demand, room)
            if size is not None and size.fits(room.whole) and not size.fits(room.open + leaving):
                return True
    return False


def _size_on(tables: Tables, configuration: Configuration, demand: _Demand, room: Room) -> Size | None:
    """What a demand takes on a host; None where it is not to come there."""
    if demand.lease.fork_of:
        origin = _origin(tables, demand.lease)
        if origin is None or origin.spec is None or origin.host != room.host:
            return None
        return fork_size(origin)
    if not suits(demand.pool, room) or booking.standings(tables, demand.pool, [room])[room.host] is not Standing.READY:
        return None
    return booking.sizes(tables, configuration, demand.pool, [room])[room.host]


def retire(tables: Tables, environment: Environment, *, now: datetime, reason: str = "its pool changed") -> None:
    """A free environment that nobody wants any more is cleaned a last time, and gone."""
    last = environments.move(replace(environment, retiring=True), environments.Signal.CLEAN, now=now, reason=reason)
    move(tables, "environments", environment, last, environments.Signal.CLEAN, now=now)
