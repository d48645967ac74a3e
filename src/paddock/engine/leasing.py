"""Leasing: who asked gets an environment, in order; who is over gives it back dirty.

Effects: idempotent (each function is one transaction on the store; the fence rises with every change of owner)
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from paddock.core import environment as environments
from paddock.core import lease as leases
from paddock.core import queue
from paddock.core import run as runs
from paddock.core.agent import Agent, Kind
from paddock.core.configuration import Configuration
from paddock.core.environment import Environment, Pool, Reset, Spec
from paddock.core.errors import Missing, Refused
from paddock.core.host import Host
from paddock.core.job import Phase
from paddock.core.lease import Lease
from paddock.core.queue import WhyLease
from paddock.core.report import spell
from paddock.core.run import Run, Span, Verdict
from paddock.engine import booking, reconciling
from paddock.engine.loop import earliest
from paddock.engine.means import Means, move, need, record
from paddock.engine.ordering import outdate
from paddock.hands import faults
from paddock.ports import Tables, Touched

DEFAULT_TTL = timedelta(hours=1)
SHORTEST_TTL = timedelta(seconds=1)
LONGEST_TTL = timedelta(days=7)
BATCH = 100
"""Runs that are queued for an environment in one transaction: a burst does not keep others from the store."""
_FEW = 8
"""Free environments that are looked at first; the others only where none of these may be lent."""


class Leasing:
    """The stage that queues runs for environments, ends overdue leases and holds, and serves the queues."""

    name = "leasing"

    def __init__(self, means: Means) -> None:
        self._means = means
        self._looks_again: datetime | None = None
        self._is_looking = False
        self._noticed: datetime | None = None
        """The first end that was noticed while a pass was under way, which may not have seen it."""
        self._awaited: frozenset[str] = frozenset()
        """Pools of virtual machines that somebody waits for."""
        self._silent: frozenset[str] = frozenset()
        """Free environments that who waits would get, were the agents of all of their machines heard."""
        self.is_draining = False
        """Whether no new run is started: an operator is about to stop the server. Ends with this server's life."""

    def wakes(self, touched: Touched) -> bool:
        """Most writes are grants and releases that served their queue themselves; those need no look."""
        match touched.row:
            case Run(state=runs.State.QUEUED | runs.State.LEASING) | Host() | Lease(state=leases.State.QUEUED):
                return True
            case Agent(kind=Kind.MACHINE, environment=environment, is_connected=True):
                return environment in self._silent
            case Environment(state=environments.State.READY, pool=pool, spec=Spec()):
                return pool in self._awaited  # and it was not lent as it came: a machine of it may be silent
            case Lease(state=leases.State.GRANTED, deadline=moment) | Environment(hold_until=moment):
                return moment is not None and self._is_sooner(moment)
            case _:
                return False

    def _is_sooner(self, moment: datetime) -> bool:
        if self._is_looking:
            self._noticed = earliest(self._noticed, moment)
            return False
        return self._looks_again is None or moment < self._looks_again

    async def step(self, now: datetime) -> datetime | None:
        """Queue, expire, serve; looks again when the next ttl or hold ends."""
        self._is_looking, self._noticed, self._looks_again = True, None, None
        try:
            found = await self._means.store.write(lambda tables: self._pass(tables, now))
        finally:
            self._is_looking = False
        self._looks_again = earliest(found, self._noticed)
        faults.at("leasing.served")
        return self._looks_again

    def _pass(self, tables: Tables, now: datetime) -> datetime | None:
        queued = tables.runs.where(state=runs.State.QUEUED, limit=BATCH)
        for run in queued:
            if run.ending is not None or not self.is_draining:
                queue_run(tables, self._means, run, now=now)
        expire(tables, now=now)
        configured = self._means.configuration().pools
        for pool in configured:
            serve(tables, pool, now=now)
        awaited = set()
        for pool in [one.name for one in configured.values() if one.is_virtual]:
            if waiting := tables.leases.where(pool=pool, state=leases.State.QUEUED):
                awaited.add(pool)
            for origin in {lease.fork_of for lease in waiting if lease.fork_of}:
                serve(tables, pool, fork_of=origin, now=now)
        if tables.leases.count(state=leases.State.QUEUED) > tables.leases.count(
            state=leases.State.QUEUED, pool=sorted(configured)
        ):
            for pool in {lease.pool for lease in tables.leases.where(state=leases.State.QUEUED)} - configured.keys():
                refuse(tables, pool, f"pool {pool} is no longer configured", now=now)
        refuse_impossible(tables, self._means.configuration(), now=now)
        self._awaited = frozenset(awaited)
        self._silent = _unheard(tables, self._awaited)
        return now if len(queued) == BATCH and not self.is_draining else next_end(tables)


def queue_run(tables: Tables, means: Means, run: Run, *, now: datetime) -> None:
    """From queued to leasing with a lease in the queue; a run without machines is done at once."""
    if run.ending is not None:
        finish_early(tables, run, run.ending, now=now)
    elif not run.spec.environment:
        finish_early(tables, run, Verdict.SUCCESS, now=now)
    else:
        lease = tables.leases.add(
            Lease(
                id=means.chance.name(""),
                pool=run.spec.environment,
                holder=f"run {run.id}",
                asked=now,
                run=run.id,
            )
        )
        record(tables, "leases", None, lease, "ask", now=now, by=f"run {run.id}")
        leasing = replace(
            run,
            state=runs.LIFECYCLE.step(run.state, runs.Signal.LEASE),
            lease=lease.id,
        )
        move(tables, "runs", run, leasing, runs.Signal.LEASE, now=now)


def finish_early(tables: Tables, run: Run, verdict: Verdict, *, now: datetime, reason: str = "") -> None:
    """A run that ends without having held an environment."""
    done = runs.finish(run, verdict, reason=reason or run.reason, now=now)
    move(tables, "runs", run, done, runs.Signal.FINISH, now=now)


def acquire(
    tables: Tables,
    configuration: Configuration,
    *,
    id: str,
    pool: str,
    holder: str,
    owner: str,
    ttl: timedelta | None,
    now: datetime,
) -> Lease:
    """Ask for an environment of a pool: granted in this transaction if one is free and nobody waits, else queued.

    Impossible at once where no host could ever carry one.
    """
    configured = configuration.pools.get(pool)
    if configured is None:
        raise Missing(f"pool {pool}: it is not configured", hint="paddock env list shows the pools")
    ttl = check_ttl(ttl, configured)
    asked = Lease(id=id, pool=pool, holder=holder, owner=owner, asked=now, ttl=ttl)
    free = None
    if not tables.leases.where(pool=pool, state=leases.State.QUEUED, fork_of="", limit=1):
        free = _longest_idle(tables, pool)
    if free is None:
        lease = tables.leases.add(asked)
        record(tables, "leases", None, lease, "ask", now=now, by=holder)
        why = booking.never(tables, configuration, configured) if configured.is_virtual else ""
        return end(tables, lease, leases.Signal.REFUSE, now=now, reason=why) if why else lease
    leased = environments.move(replace(free, lease=id), environments.Signal.LEASE, now=now)
    granted = leases.grant(asked, environment=free.id, fence=leased.fence, now=now)
    move(tables, "environments", free, leased, environments.Signal.LEASE, now=now, by=holder)
    lease = tables.leases.add(granted)
    record(tables, "leases", None, asked, "ask", now=now, by=holder)
    record(tables, "leases", asked, lease, leases.Signal.GRANT, now=now, by=holder)
    return lease


def fork(
    tables: Tables,
    configuration: Configuration,
    origin: Environment,
    *,
    id: str,
    holder: str,
    owner: str,
    ttl: timedelta | None,
    now: datetime,
) -> Lease:
    """Ask for a new environment of the disks that `origin` saved. It is made for this lease, and for no other."""
    configured = configuration.pools.get(origin.pool)
    if configured is None:
        raise Missing(f"pool {origin.pool}: it is no longer configured")
    if origin.state is not environments.State.SAVED:
        raise Refused(
            f"environment {origin.id}: it is {origin.state.value}, its disks are not saved",
            hint=f"paddock env hold {origin.id} --disks",
        )
    ttl = check_ttl(ttl, configured)
    lease = tables.leases.add(
        Lease(id=id, pool=origin.pool, holder=holder, owner=owner, asked=now, ttl=ttl, fork_of=origin.id)
    )
    record(tables, "leases", None, lease, "ask", now=now, by=holder, note=f"of the disks of {origin.id}")
    return lease


def check_ttl(ttl: timedelta | None, pool: Pool | None) -> timedelta:
    """The ttl of an outside holder's lease; who does not say gets the pool's."""
    longest = LONGEST_TTL if pool is None or pool.ttl is None else pool.ttl
    if ttl is None:
        return DEFAULT_TTL if pool is None or pool.ttl is None else pool.ttl
    if not SHORTEST_TTL <= ttl <= LONGEST_TTL:
        raise Refused(f"lease: ttl {ttl.total_seconds():g}s is not between 1s and 7d")
    if ttl > longest:
        assert pool is not None
        raise Refused(
            f"lease: ttl {spell(ttl)} is more than pool {pool.name} lends for, {spell(longest)}",
            hint="ask for less, and renew it",
        )
    return ttl


def serve(tables: Tables, pool: str, *, now: datetime, fork_of: str = "") -> None:
    """Grant the pool's free environments to who waits, first come first served.

    One that was made of saved disks goes to who asked for them, and to nobody else.
    """
    while waiting := tables.leases.where(pool=pool, state=leases.State.QUEUED, fork_of=fork_of, limit=1):
        free = _longest_idle(tables, pool, fork_of)
        if free is None:
            return
        _grant(tables, waiting[0], free, now=now)


def _unheard(tables: Tables, pools: frozenset[str]) -> frozenset[str]:
    """The free environments of these pools that are not lent because a machine of theirs is silent."""
    ready = tables.environments.where(pool=sorted(pools), state=environments.State.READY) if pools else []
    return frozenset(reconciling.silent(tables, ready))


def _longest_idle(tables: Tables, pool: str, fork_of: str = "") -> Environment | None:
    for limit in (_FEW, None):
        ready = tables.environments.where(pool=pool, state=environments.State.READY, fork_of=fork_of, limit=limit)
        states = {host.id: host.state for host in tables.hosts.where(id=sorted({one.host for one in ready}))}
        free = [one for one in ready if not one.retiring]
        usable = queue.lendable(free, states, reconciling.silent(tables, free))
        if usable or len(ready) < _FEW:
            return usable[0] if usable else None
    return None


def _grant(tables: Tables, lease: Lease, free: Environment, *, now: datetime) -> None:
    leased = environments.move(replace(free, lease=lease.id), environments.Signal.LEASE, now=now)
    leased = move(tables, "environments", free, leased, environments.Signal.LEASE, now=now, by=lease.holder)
    granted = leases.grant(lease, environment=free.id, fence=leased.fence, now=now)
    move(tables, "leases", lease, granted, leases.Signal.GRANT, now=now, by=lease.holder)
    if lease.run:
        _prepare(tables, need(tables.runs, lease.run, "run"), leased, now=now)


def _prepare(tables: Tables, run: Run, environment: Environment, *, now: datetime) -> None:
    """The run has its environment: it waits for the agents' hello from here on."""
    preparing = replace(
        run,
        state=runs.LIFECYCLE.step(run.state, runs.Signal.PREPARE),
        environment=environment.id,
        fence=environment.fence,
        phase=Phase.HELLO,
        phase_since=now,
        spans=(Span(phase=Phase.HELLO.value, began=now),),
    )
    move(tables, "runs", run, preparing, runs.Signal.PREPARE, now=now, by=f"lease {run.lease}")


def renew(
    tables: Tables, id: str, *, fence: int, ttl: timedelta | None, now: datetime, pool: Pool | None = None
) -> Lease:
    """Start an outside holder's ttl again; another one is at most what its pool lends for."""
    lease = need(tables.leases, id, "lease")
    if ttl is not None:
        check_ttl(ttl, pool)
    return move(
        tables, "leases", lease, leases.renew(lease, fence=fence, now=now, ttl=ttl), leases.Signal.RENEW, now=now
    )


def release(tables: Tables, id: str, *, fence: int, now: datetime, by: str = "") -> Lease:
    """The holder is done. Released before is the same answer again, so that a repeated request is harmless."""
    lease = need(tables.leases, id, "lease")
    if lease.state is leases.State.RELEASED and lease.fence == fence:
        return lease
    leases.prove(lease, fence=fence)
    return end(tables, lease, leases.Signal.RELEASE, now=now, by=by or lease.holder)


def cancel(tables: Tables, id: str, *, now: datetime, reason: str) -> Lease:
    """Take a request out of the queue."""
    lease = need(tables.leases, id, "lease")
    return end(tables, lease, leases.Signal.CANCEL, now=now, reason=reason)


def refuse(tables: Tables, pool: str, reason: str, *, now: datetime) -> None:
    """None of the pool will ever come: say so to everybody who waits for it."""
    for lease in tables.leases.where(pool=pool, state=leases.State.QUEUED):
        end(tables, lease, leases.Signal.REFUSE, now=now, reason=reason)
        if lease.run:
            run = need(tables.runs, lease.run, "run")
            finish_early(tables, run, Verdict.ERROR, now=now, reason=reason)


def refuse_fork(tables: Tables, failed: Environment, reason: str, *, now: datetime) -> None:
    """A fork of saved disks could not be made: say so to the first who waits for one and has none coming.

    Another one would fail like it, and each keeps the room that it has until a person looks at it.
    """
    waiting = tables.leases.where(fork_of=failed.fork_of, state=leases.State.QUEUED)
    made = tables.environments.where(fork_of=failed.fork_of, state=sorted(environments.LIVE))
    if queue.short(made, queued=len(waiting)):
        why = f"{failed.id}, made of the disks of {failed.fork_of}: {reason}"
        end(tables, waiting[0], leases.Signal.REFUSE, now=now, reason=why)


def refuse_impossible(tables: Tables, configuration: Configuration, *, now: datetime) -> None:
    """Who waits for what no host could ever carry, or for disks that are no longer kept, is told so."""
    for pool in configuration.pools.values():
        if not pool.is_virtual:
            continue
        waiting = tables.leases.where(pool=pool.name, state=leases.State.QUEUED)
        if waiting and (why := booking.never(tables, configuration, pool)):
            refuse(tables, pool.name, why, now=now)
            continue
        for id in {lease.fork_of for lease in waiting if lease.fork_of}:
            origin = tables.environments.find(id)
            if origin is None or origin.state is not environments.State.SAVED:
                _refuse_gone(tables, id, now=now)


def _refuse_gone(tables: Tables, origin: str, *, now: datetime) -> None:
    """The disks that `origin` saved are given up: say so to everybody who waits for a fork of them."""
    for lease in tables.leases.where(fork_of=origin, state=leases.State.QUEUED):
        end(tables, lease, leases.Signal.REFUSE, now=now, reason=f"{origin}: its disks are gone")


def end(tables: Tables, lease: Lease, signal: leases.Signal, *, now: datetime, by: str = "", reason: str = "") -> Lease:
    """End a lease for whatever reason; what it held is dirty, and on its way to be lent again."""
    over = leases.end(lease, signal, now=now, reason=reason)
    over = move(tables, "leases", lease, over, signal, now=now, by=by)
    environment = tables.environments.find(lease.environment) if lease.environment else None
    if environment is not None and environment.lease == lease.id:
        _give_back(tables, environment, now=now, by=by or lease.holder)
    return over


def _give_back(tables: Tables, environment: Environment, *, now: datetime, by: str) -> None:
    """From leased to dirty; one that needs no cleaning goes on to ready in the same transaction. A held one stays."""
    if environment.state is not environments.State.LEASED:
        return
    if environment.hold_ttl is not None:
        held = environments.hold(environment, by=environment.held_by, ttl=environment.hold_ttl, now=now)
        outdate(tables, held, now=now)
        move(tables, "environments", environment, held, environments.Signal.HOLD, now=now, by=environment.held_by)
        return
    dirty = environments.move(replace(environment, lease=""), environments.Signal.RELEASE, now=now)
    outdate(tables, dirty, now=now)
    record(tables, "environments", environment, dirty, environments.Signal.RELEASE, now=now, by=by)
    if environment.reset is not Reset.NONE or environment.retiring:
        tables.environments.swap(environment, dirty)
        return
    cleaning = environments.move(dirty, environments.Signal.CLEAN, now=now)
    record(tables, "environments", dirty, cleaning, environments.Signal.CLEAN, now=now)
    ready = environments.move(cleaning, environments.Signal.CLEANED, now=now)
    record(tables, "environments", cleaning, ready, environments.Signal.CLEANED, now=now, note="reset: none")
    tables.environments.swap(environment, ready)
    serve(tables, environment.pool, now=now)


_HELD = [environments.State.HELD, environments.State.SAVED]
"""Kept for a person, until a moment."""


def expire(tables: Tables, *, now: datetime) -> None:
    """End the leases of outside holders whose ttl is over, the holds, and the waiting of runs that are to end."""
    for lease in tables.leases.where(state=leases.State.GRANTED, run=""):
        if leases.is_overdue(lease, now=now):
            end(tables, lease, leases.Signal.EXPIRE, now=now, reason=f"its ttl of {lease.ttl} ended without a renewal")
    for environment in tables.environments.where(state=_HELD):
        if environment.hold_until is not None and now >= environment.hold_until:
            end_hold(tables, environment, now=now, by="time")
    for run in tables.runs.where(state=runs.State.LEASING, ending=[verdict.value for verdict in Verdict]):
        assert run.ending is not None
        cancel(tables, run.lease, now=now, reason=run.reason)
        finish_early(tables, run, run.ending, now=now)


def end_hold(tables: Tables, environment: Environment, *, now: datetime, by: str) -> Environment:
    """A held environment is given back: dirty, like everything that was lent; nothing more is made of its disks."""
    dirty = environments.move(
        replace(environment, held_by="", held_for=None, hold_until=None, lease="", wants_saving=False),
        environments.Signal.RELEASE,
        now=now,
    )
    outdate(tables, dirty, now=now)
    _refuse_gone(tables, environment.id, now=now)
    return move(tables, "environments", environment, dirty, environments.Signal.RELEASE, now=now, by=by)


def next_end(tables: Tables) -> datetime | None:
    """When the next ttl or hold ends."""
    granted = tables.leases.where(state=leases.State.GRANTED, run="")
    held = tables.environments.where(state=_HELD)
    return earliest(*(lease.deadline for lease in granted), *(one.hold_until for one in held))


def full_ttls(tables: Tables, *, now: datetime) -> None:
    """At a server's start every outside holder gets one full ttl: it could not renew while nobody listened."""
    for lease in tables.leases.where(state=leases.State.GRANTED):
        if lease.ttl is not None:
            tables.leases.swap(lease, replace(lease, deadline=now + lease.ttl))


def explain(tables: Tables, configuration: Configuration, id: str, *, now: datetime) -> WhyLease:
    """What a lease waits for, its place in the queue, and what would help."""
    lease = need(tables.leases, id, "lease")
    pool = configuration.pools.get(lease.pool)
    waiting = [one.id for one in tables.leases.where(pool=lease.pool, state=leases.State.QUEUED)]
    existing = tables.environments.where(pool=lease.pool, state=sorted(environments.LIVE))
    if pool is not None and pool.is_virtual and lease.state is leases.State.QUEUED:
        ready = [one for one in existing if one.state is environments.State.READY]
        virtual = replace(
            booking.why(tables, configuration, pool, existing, now=now),
            silent=tuple(
                f"{name}: {', '.join(machines)} not heard by the server"
                for name, machines in reconciling.silent(tables, ready).items()
            ),
        )
    else:
        virtual = None
    return queue.why(
        lease,
        ahead=waiting.index(lease.id) if lease.id in waiting else 0,
        virtual=virtual,
        pool=pool,
        existing=existing,
        host=tables.hosts.find(pool.host) if pool else None,
        ends=_ends(tables, existing),
        now=now,
    )


def _ends(tables: Tables, existing: list[Environment]) -> Mapping[str, datetime]:
    """Environment → when what holds it has to end at the latest: a ttl, a hold, or the sum of a run's limits."""
    ends: dict[str, datetime] = {}
    for environment in existing:
        lease = tables.leases.find(environment.lease) if environment.lease else None
        run = tables.runs.find(lease.run) if lease and lease.run else None
        moment = environment.hold_until or (lease.deadline if lease else None) or (_last_end(run) if run else None)
        if moment is not None:
            ends[environment.id] = moment
    return ends


def _last_end(run: Run) -> datetime | None:
    if run.phase is None or run.phase_since is None:
        return None
    phases = list(Phase)
    left = phases[phases.index(run.phase) :]
    return run.phase_since + sum((run.spec.limits.of(phase) for phase in left), timedelta())
