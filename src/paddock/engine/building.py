"""Building: pools are stocked, environments built by their host's agent, and retired.

Effects: idempotent (orders commands that state an end; each order is in the transaction that moves the environment)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import lease as leases
from paddock.core import upkeep
from paddock.core.command import Command
from paddock.core.environment import Environment, Machine, Pool
from paddock.core.host import Host
from paddock.core.image import HostImage, warm_up_limit
from paddock.core.lease import Lease
from paddock.engine import booking, imaging, leasing
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move, order
from paddock.engine.ordering import outdate
from paddock.engine.specifying import fits, spec_for
from paddock.engine.stocking import retire, stock
from paddock.hands import faults
from paddock.ports import Tables, Touched

LIMIT = 300
"""Seconds that building one machine may take."""
VIRTUAL_LIMIT = 600
"""The same for one that is made from an image: it may have to boot, on a processor that is not there. To build or clean
one that may be forked has `warm_up_limit` on top.
"""


class Building:
    """The stage from requested to ready, and the one that decides how many there should be."""

    name = "building"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Lease(state=leases.State.QUEUED) | Host() | HostImage():
                return True
            case Environment(state=environments.State.READY, pool=pool) as ready:
                configured = self._means.configuration().pools.get(pool)
                if configured is None or ready.spec is not None:
                    return True  # somebody else may wait for its room
                return ready.retiring or _is_other(ready, configured)
            case Environment(state=environments.State.LEASED, pool=pool):
                # One less in stock. Where all are built at any time there is nothing to do, and leases are many.
                configured = self._means.configuration().pools.get(pool)
                return configured is not None and 0 < configured.min_ready < configured.max
            case Environment(state=state):
                return state in _OURS
            case Command(method=upkeep.BUILD, is_open=False):
                return True
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        again = await self._means.store.write(lambda tables: self._pass(tables, now))
        faults.at("building.ordered")
        return again

    def _pass(self, tables: Tables, now: datetime) -> datetime | None:
        configuration = self._means.configuration()
        stock(tables, configuration, maker=self._means.store.birth, now=now)
        unbuilt = tables.environments.where(state=[environments.State.REQUESTED, environments.State.BUILDING])
        again = [build(tables, self._means, environment, now=now) for environment in unbuilt]
        for environment in tables.environments.where(state=environments.State.READY):
            if not fits(tables, configuration, environment) and not _is_waited_for(tables, environment):
                retire(tables, environment, now=now)
        return earliest(*again)


def _is_other(ready: Environment, pool: Pool) -> bool:
    """Whether its pool asks for something else by now; of machines that are processes."""
    names = tuple(machine.name for machine in ready.machines)
    return (pool.host, pool.machines, pool.reset, pool.is_virtual) != (ready.host, names, ready.reset, False)


def _is_waited_for(tables: Tables, environment: Environment) -> bool:
    """Whether somebody wants just this one: it was made of disks that they asked for."""
    return bool(
        environment.fork_of
        and not environment.retiring
        and tables.leases.count(fork_of=environment.fork_of, state=leases.State.QUEUED)
    )


_OURS = frozenset(
    {
        environments.State.REQUESTED,
        environments.State.BUILDING,
        environments.State.BROKEN,
        environments.State.QUARANTINED,
        environments.State.SAVED,
        environments.State.GONE,
    }
)
"""States that leave work to this stage: something to build, or one less that is coming for who waits."""


def build(tables: Tables, means: Means, environment: Environment, *, now: datetime) -> datetime | None:
    """Order what is missing; ready once every machine is built, quarantined once that has failed often enough.

    Returns when to look again without being woken.
    """
    if environment.state is environments.State.REQUESTED:
        building = environments.move(environment, environments.Signal.BUILD, now=now)
        environment = move(tables, "environments", environment, building, environments.Signal.BUILD, now=now)
    match upkeep.progress(environment, upkeep.BUILD, tables.commands.where(environment=environment.id), now=now):
        case upkeep.Ask(machines=names):
            limit = LIMIT if environment.spec is None else VIRTUAL_LIMIT
            if not ask(tables, means, environment, upkeep.BUILD, names, limit=limit, now=now):
                _give_up(tables, environment, why="an image of it was built anew meanwhile", now=now)
        case upkeep.Unbuilt(machines=names):
            images = images_of(environment, names)
            imaging.lost(tables, environment, images, now=now)
            _give_up(tables, environment, why=f"its host lacks a part of {', '.join(images)}", now=now)
        case upkeep.Done(commands=commands):
            made = replace(environment, machines=as_built(environment, commands))
            ready = environments.move(made, environments.Signal.BUILT, now=now)
            move(tables, "environments", environment, ready, environments.Signal.BUILT, now=now)
            leasing.serve(tables, environment.pool, fork_of=environment.fork_of, now=now)
        case upkeep.GiveUp(reason=reason):
            broken = environments.move(environment, environments.Signal.BREAK, now=now, reason=reason)
            broken = move(tables, "environments", environment, broken, environments.Signal.BREAK, now=now)
            shut = environments.move(broken, environments.Signal.QUARANTINE, now=now, reason=reason)
            outdate(tables, shut, now=now)
            move(tables, "environments", broken, shut, environments.Signal.QUARANTINE, now=now)
            if shut.fork_of:
                leasing.refuse_fork(tables, shut, reason, now=now)
        case upkeep.Waiting(until=moment):
            return moment
    return None


def ask(
    tables: Tables,
    means: Means,
    environment: Environment,
    method: str,
    machines: tuple[str, ...],
    *,
    limit: int,
    now: datetime,
    rest: Mapping[str, Mapping[str, object]] | None = None,
) -> bool:
    """Order `method` for machines of an environment from the agent that carries it. `rest`: machine → more params.

    False, and nothing ordered, where a machine is to be made as it cannot be made any more.
    """
    host = tables.hosts.find(environment.host)
    if host is None or not host.agent:
        return True
    more: dict[str, Mapping[str, object]] = dict(rest or {})
    if environment.spec is not None and method in (upkeep.BUILD, upkeep.CLEAN):
        roomy = booking.with_templates(tables, means.configuration(), environment)
        for machine in machines:
            spec = spec_for(tables, roomy, machine)
            if spec is None:
                return False
            more[machine] = {"spec": spec, "limit": limit + _warm_up(tables, environment, machine)}
        if roomy != environment:
            tables.environments.swap(environment, roomy)
    for machine in machines:
        order(
            tables,
            means,
            host.agent,
            method,
            {"machine": machine, "limit": limit, **more.get(machine, {})},
            now=now,
            environment=environment.id,
            fence=environment.fence,
            machine=machine,
        )
    return True


def _warm_up(tables: Tables, environment: Environment, machine: str) -> int:
    """Seconds more for one that may be the first of its kind."""
    if environment.spec is None or environment.fork_of:
        return 0
    (image,) = images_of(environment, (machine,))
    row = booking.images_on(tables, environment.host)[image]
    return round(warm_up_limit(row.serving).total_seconds())


def images_of(environment: Environment, machines: tuple[str, ...]) -> tuple[str, ...]:
    """The images that these machines of an environment are made from, each once."""
    assert environment.spec is not None, "only what is made from images lacks one"
    made = zip(environment.machines, environment.spec.machines, strict=True)
    return tuple(dict.fromkeys(settings.image for machine, settings in made if machine.name in machines))


def _give_up(tables: Tables, environment: Environment, *, why: str, now: datetime) -> None:
    """What there is of it is destroyed; another one is built for who waits, once that can be."""
    broken = environments.move(environment, environments.Signal.BREAK, now=now, reason=why)
    outdate(tables, broken, now=now)
    move(tables, "environments", environment, broken, environments.Signal.BREAK, now=now)


def as_built(environment: Environment, commands: Sequence[Command]) -> tuple[Machine, ...]:
    """The machines as their host told them when it had made them; of a process, where it is reached."""
    told = {one.machine: one.result for one in commands}
    return tuple(_as_told(machine, told[machine.name]) for machine in environment.machines)


def _as_told(machine: Machine, result: Mapping[str, object]) -> Machine:
    listed = result.get("addresses")
    addresses = tuple(str(one) for one in listed) if isinstance(listed, list | tuple) else machine.addresses
    return replace(
        machine,
        address=str(result.get("address", machine.address)),
        addresses=addresses,
        start=str(result.get("start", machine.start)),
        why=str(result.get("why") or ""),
        host_key=str(result.get("host_key", machine.host_key)),
    )
