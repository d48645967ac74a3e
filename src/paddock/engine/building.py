"""Building: pools are stocked, environments built by their host's agent, and retired.

Effects: idempotent (orders commands that state an end; each order is in the transaction that moves the environment)
"""

from dataclasses import replace
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core import lease as leases
from paddock.core import queue, upkeep
from paddock.core.agent import Agent, Kind
from paddock.core.command import Command
from paddock.core.environment import Environment, Machine, Pool
from paddock.core.host import Host
from paddock.core.lease import Lease
from paddock.engine import leasing
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move, order, record
from paddock.hands import faults
from paddock.ports import Tables, Touched

LIMIT = 300
"""Seconds that building one machine may take."""


class Building:
    """The stage from requested to ready, and the one that decides how many there should be."""

    name = "building"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Lease(state=leases.State.QUEUED) | Host():
                return True
            case Environment(state=environments.State.READY, pool=pool) as ready:
                return not fits(ready, self._means.configuration().pools.get(pool))
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
        configured = self._means.configuration().pools
        for pool in configured.values():
            if _is_online(tables, pool.host):
                stock(tables, pool, now=now)
        unbuilt = tables.environments.where(state=[environments.State.REQUESTED, environments.State.BUILDING])
        again = [build(tables, self._means, environment, now=now) for environment in unbuilt]
        for environment in tables.environments.where(state=environments.State.READY):
            if not fits(environment, configured.get(environment.pool)):
                retire(tables, environment, now=now)
        return earliest(*again)


_OURS = frozenset(
    {
        environments.State.REQUESTED,
        environments.State.BUILDING,
        environments.State.BROKEN,
        environments.State.QUARANTINED,
        environments.State.GONE,
    }
)
"""States that leave work to this stage: something to build, or one less that is coming for who waits."""


def _is_online(tables: Tables, host: str) -> bool:
    row = tables.hosts.find(host)
    return row is not None and row.state is hosts.State.ONLINE


def stock(tables: Tables, pool: Pool, *, now: datetime) -> None:
    """Request as many environments as are wanted: for who waits, and for the shelf."""
    living = sorted(state.value for state in environments.State if state is not environments.State.GONE)
    existing = tables.environments.where(pool=pool.name, state=living)
    waiting = tables.leases.count(pool=pool.name, state=leases.State.QUEUED)
    for _ in range(queue.wanted(pool, existing, queued=waiting)):
        request(tables, pool, now=now)


def request(tables: Tables, pool: Pool, *, now: datetime) -> Environment:
    """A new environment of a pool, with the agents that its machines are going to have."""
    name = f"{pool.name}-{tables.number(f'environment:{pool.name}')}"
    machines = tuple(Machine(name=machine, agent=f"{name}.{machine}") for machine in pool.machines)
    environment = tables.environments.add(
        Environment(
            id=name,
            pool=pool.name,
            host=pool.host,
            since=now,
            machines=machines,
            reset=pool.reset,
            fence=1,
            created=now,
        )
    )
    for machine in machines:
        tables.agents.add(
            Agent(
                id=machine.agent,
                name=machine.agent,
                kind=Kind.MACHINE,
                host=pool.host,
                environment=name,
                machine=machine.name,
                created=now,
            )
        )
    record(tables, "environments", None, environment, "request", now=now, by=f"pool {pool.name}")
    return environment


def build(tables: Tables, means: Means, environment: Environment, *, now: datetime) -> datetime | None:
    """Order what is missing; ready once every machine is built, quarantined once that has failed often enough.

    Returns when to look again without being woken.
    """
    if environment.state is environments.State.REQUESTED:
        building = environments.move(environment, environments.Signal.BUILD, now=now)
        environment = move(tables, "environments", environment, building, environments.Signal.BUILD, now=now)
    match upkeep.progress(environment, upkeep.BUILD, tables.commands.where(environment=environment.id), now=now):
        case upkeep.Ask(machines=names):
            ask(tables, means, environment, upkeep.BUILD, names, limit=LIMIT, now=now)
        case upkeep.Done(commands=commands):
            addresses = {one.machine: str(one.result.get("address", "")) for one in commands}
            machines = tuple(replace(one, address=addresses[one.name]) for one in environment.machines)
            ready = environments.move(replace(environment, machines=machines), environments.Signal.BUILT, now=now)
            move(tables, "environments", environment, ready, environments.Signal.BUILT, now=now)
            leasing.serve(tables, environment.pool, now=now)
        case upkeep.GiveUp(reason=reason):
            broken = environments.move(environment, environments.Signal.BREAK, now=now, reason=reason)
            broken = move(tables, "environments", environment, broken, environments.Signal.BREAK, now=now)
            shut = environments.move(broken, environments.Signal.QUARANTINE, now=now, reason=reason)
            move(tables, "environments", broken, shut, environments.Signal.QUARANTINE, now=now)
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
) -> None:
    """Order `method` for machines of an environment from the agent that carries it."""
    host = tables.hosts.find(environment.host)
    if host is None or not host.agent:
        return
    for machine in machines:
        order(
            tables,
            means,
            host.agent,
            method,
            {"machine": machine, "limit": limit},
            now=now,
            environment=environment.id,
            fence=environment.fence,
            machine=machine,
        )


def fits(environment: Environment, pool: Pool | None) -> bool:
    """Whether the environment is what its pool asks for today."""
    if pool is None or environment.retiring:
        return False
    names = tuple(machine.name for machine in environment.machines)
    return (pool.host, pool.machines, pool.reset) == (environment.host, names, environment.reset)


def retire(tables: Tables, environment: Environment, *, now: datetime) -> None:
    """A free environment that nobody wants any more is cleaned a last time, and gone."""
    last = environments.move(
        replace(environment, retiring=True), environments.Signal.CLEAN, now=now, reason="its pool changed"
    )
    move(tables, "environments", environment, last, environments.Signal.CLEAN, now=now)
