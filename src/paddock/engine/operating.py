"""Operating: what people and programs ask for, each as one transaction.

Effects: idempotent (rows alone; the stages carry out what follows)
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from paddock.core import access
from paddock.core import environment as environments
from paddock.core import event as events
from paddock.core import host as hosts
from paddock.core import lease as leases
from paddock.core import round as rounds
from paddock.core import run as runs
from paddock.core.access import Enrolment, Identity, Role, Token
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.configuration import ProjectJob
from paddock.core.environment import Environment, Pool
from paddock.core.errors import Refused, Stale
from paddock.core.event import Event, Kind
from paddock.core.host import Host
from paddock.core.lease import Lease
from paddock.core.queue import WhyLease
from paddock.core.report import spell
from paddock.core.run import Run, Verdict
from paddock.engine import alerting, imaging, leasing, ordering, planning, pressing
from paddock.engine.admission import release_from_shut_out
from paddock.engine.attending import revoke
from paddock.engine.leasing import Leasing
from paddock.engine.means import Means, move, need, record
from paddock.engine.ordering import Ordered, Wish, outdate
from paddock.ports import Tables, Touched
from paddock.wire.shapes import Drain

NOT_KNOWN = "token: it is not known, over or revoked"
LONGEST_HOLD = timedelta(days=30)
LONGEST_WAIT = timedelta(seconds=60)


class Operating:
    """The actions behind the API and the buttons. Real for web.actions.Actions."""

    def __init__(self, means: Means, leasing_stage: Leasing) -> None:
        self._means = means
        self._stage = leasing_stage
        self._identities: dict[str, tuple[Identity, datetime | None]] = {}
        self._changes = 0
        """How often a token changed: what was read before the last change is not remembered."""
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        means.store.subscribe(self._told)

    def _told(self, touched: Sequence[Touched]) -> None:
        """Forget identities whose token changed; wake who waits for a lease."""
        for one in touched:
            if one.noun == "tokens":
                self._identities.clear()
                self._changes += 1
            elif one.noun == "leases" and one.id in self._waiting:
                row = one.row
                if not isinstance(row, Lease) or row.state is not leases.State.QUEUED:
                    for future in self._waiting.pop(one.id):
                        if not future.done():
                            future.set_result(None)

    async def identify(self, secret: str) -> Identity:
        """Whose secret it is; from memory after the first time."""
        now, shown = self._means.clock.now(), access.digest(secret)
        known = self._identities.get(shown)
        if known is not None and (known[1] is None or now < known[1]):
            return known[0]
        changes = self._changes
        found = await self._means.store.read(lambda tables: tables.tokens.where(digest=shown, limit=1))
        if not found or not access.is_valid(found[0], now=now):
            raise Refused(NOT_KNOWN, hint="ask an operator for one: paddock token create NAME")
        identity = Identity(name=found[0].id, role=found[0].role)
        if changes == self._changes:
            self._identities[shown] = (identity, found[0].expires)
        return identity

    async def acquire(
        self, *, pool: str, holder: str, owner: str, ttl: timedelta | None, wait: timedelta | None
    ) -> Lease:
        """Granted at once if possible; else queued, and waited for if asked."""
        means, now, id = self._means, self._means.clock.now(), self._means.chance.name("")
        if self._stage.is_draining:
            raise Refused("lease: the server is being drained", hint="ask again after its restart")
        configuration = means.configuration()
        lease = await means.store.write(
            lambda tables: leasing.acquire(
                tables, configuration, id=id, pool=pool, holder=holder, owner=owner, ttl=ttl, now=now
            )
        )
        if lease.state is leases.State.QUEUED and wait:
            return await self.granted(lease.id, wait=wait)
        return lease

    async def granted(self, id: str, *, wait: timedelta) -> Lease:
        """The lease once it is no longer queued, or as it is when the wait is over."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id, []).append(future)
        try:
            lease = await self._lease(id)
            if lease.state is leases.State.QUEUED:
                async with asyncio.timeout(min(wait, LONGEST_WAIT).total_seconds()):
                    await future
        except TimeoutError:
            pass
        finally:
            waiting = self._waiting.get(id, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(id, None)
        return await self._lease(id)

    async def _lease(self, id: str) -> Lease:
        return await self._means.store.read(lambda tables: need(tables.leases, id, "lease"))

    async def renew(self, lease: str, *, fence: int, ttl: timedelta | None, identity: Identity) -> Lease:
        now, configuration = self._means.clock.now(), self._means.configuration()

        def step(tables: Tables) -> Lease:
            _check_owner(need(tables.leases, lease, "lease"), identity)
            pool = configuration.pools.get(need(tables.leases, lease, "lease").pool)
            return leasing.renew(tables, lease, fence=fence, ttl=ttl, now=now, pool=pool)

        return await self._means.store.write(step)

    async def release(self, lease: str, *, fence: int, identity: Identity) -> Lease:
        now = self._means.clock.now()

        def step(tables: Tables) -> Lease:
            _check_owner(need(tables.leases, lease, "lease"), identity)
            return leasing.release(tables, lease, fence=fence, now=now, by=identity.name)

        return await self._means.store.write(step)

    async def cancel_lease(self, lease: str, *, identity: Identity) -> Lease:
        """Withdraw a queued lease; an operator's word revokes a granted one."""
        now = self._means.clock.now()

        def step(tables: Tables) -> Lease:
            row = need(tables.leases, lease, "lease")
            _check_owner(row, identity)
            if row.run:
                raise Refused(f"lease {lease}: it belongs to run {row.run}", hint=f"paddock run cancel {row.run}")
            if row.state is leases.State.GRANTED and identity.role is Role.OPERATOR:
                return leasing.end(
                    tables, row, leases.Signal.REVOKE, now=now, by=identity.name, reason=f"revoked by {identity.name}"
                )
            return leasing.cancel(tables, lease, now=now, reason=f"cancelled by {identity.name}")

        return await self._means.store.write(step)

    async def why(self, lease: str) -> WhyLease:
        now, configuration = self._means.clock.now(), self._means.configuration()
        return await self._means.store.read(lambda tables: leasing.explain(tables, configuration, lease, now=now))

    async def hold(self, environment: str, *, ttl: timedelta, disks: bool = False, identity: Identity) -> Environment:
        """Keep a leased environment for a person once its lease ends; a held one longer.

        `disks`: only copies of its disks, and its machines are let go.
        """
        now, configuration = self._means.clock.now(), self._means.configuration()
        if not timedelta(0) < ttl <= LONGEST_HOLD:
            raise Refused(f"environment {environment}: a hold lasts between 1s and 30d")

        def step(tables: Tables) -> Environment:
            row = need(tables.environments, environment, "environment")
            _check_holder(row, identity)
            _check_hold(row, configuration.pools.get(row.pool), ttl, disks=disks)
            wants_saving = row.wants_saving or (disks and row.state is not environments.State.SAVED)
            # It is a person's from now on, whatever run left it.
            row = tables.environments.swap(row, replace(row, wants_saving=wants_saving, held_for=None))
            if row.state is environments.State.LEASED:
                return tables.environments.swap(row, replace(row, held_by=identity.name, hold_ttl=ttl))
            held = environments.hold(row, by=identity.name, ttl=ttl, now=now)
            outdate(tables, held, now=now)
            return move(tables, "environments", row, held, environments.Signal.HOLD, now=now, by=identity.name)

        return await self._means.store.write(step)

    async def release_environment(self, environment: str, *, identity: Identity) -> Environment:
        """End a hold, or the wish for one."""
        now = self._means.clock.now()

        def step(tables: Tables) -> Environment:
            row = need(tables.environments, environment, "environment")
            _check_holder(row, identity)
            if row.state is environments.State.LEASED and row.hold_ttl is not None:
                back = replace(row, held_by="", held_for=None, hold_ttl=None, wants_saving=False)
                return tables.environments.swap(row, back)
            if row.state not in (environments.State.HELD, environments.State.SAVING, environments.State.SAVED):
                raise Refused(
                    f"environment {environment}: it is {row.state.value}, not held",
                    hint="a lease is given back with: paddock lease release ID",
                )
            return leasing.end_hold(tables, row, now=now, by=identity.name)

        return await self._means.store.write(step)

    async def fork(
        self, environment: str, *, holder: str, ttl: timedelta | None, wait: timedelta | None, identity: Identity
    ) -> Lease:
        """A lease of a new environment, booted from the disks that this one saved."""
        means, now, id = self._means, self._means.clock.now(), self._means.chance.name("")
        configuration = means.configuration()
        if self._stage.is_draining:
            raise Refused("lease: the server is being drained", hint="ask again after its restart")

        def step(tables: Tables) -> Lease:
            origin = need(tables.environments, environment, "environment")
            _check_holder(origin, identity)
            return leasing.fork(
                tables, configuration, origin, id=id, holder=holder, owner=identity.name, ttl=ttl, now=now
            )

        lease = await means.store.write(step)
        return await self.granted(lease.id, wait=wait) if wait else lease

    async def press(
        self, environment: str, machine: str, wish: Wish, *, fence: int | None, identity: Identity
    ) -> Ordered:
        """See web.actions."""
        now = self._means.clock.now()
        if not wish.id:
            wish = replace(wish, id=self._means.chance.name(f"{self._means.store.birth}-"))
        return await self._means.store.write(
            lambda tables: pressing.press(
                tables, self._means, environment, machine, wish, fence=fence, identity=identity, now=now
            )
        )

    async def build_image(self, name: str, *, host: str, identity: Identity) -> None:
        """See web.actions."""
        now, configuration = self._means.clock.now(), self._means.configuration()
        await self._means.store.write(
            lambda tables: imaging.build(tables, configuration, name, host, identity=identity, now=now)
        )

    async def collect_images(self, *, host: str, params: Mapping[str, object], identity: Identity) -> list[Command]:
        """See web.actions."""
        now = self._means.clock.now()
        return await self._means.store.write(
            lambda tables: imaging.collect(tables, self._means, host, params, identity=identity, now=now)
        )

    async def quarantine(self, environment: str, *, reason: str, identity: Identity) -> Environment:
        """Take it out of use until a person cleans it; whoever has it loses it."""
        now = self._means.clock.now()
        why = reason or f"quarantined by {identity.name}"

        def step(tables: Tables) -> Environment:
            row = need(tables.environments, environment, "environment")
            shut = environments.move(
                replace(row, lease="", held_by="", held_for=None, hold_ttl=None, hold_until=None, wants_saving=False),
                environments.Signal.QUARANTINE,
                now=now,
                reason=why,
            )
            shut = move(tables, "environments", row, shut, environments.Signal.QUARANTINE, now=now, by=identity.name)
            revoke(tables, row, now=now, reason=why, verdict=Verdict.LEASE_LOST)
            return shut

        return await self._means.store.write(step)

    async def clean(self, environment: str, *, identity: Identity) -> Environment:
        """Clean a free one now; destroy one that is broken or quarantined, for a new one to take its place."""
        now = self._means.clock.now()

        def step(tables: Tables) -> Environment:
            row = need(tables.environments, environment, "environment")
            is_last = row.state in (environments.State.QUARANTINED, environments.State.BROKEN)
            cleaning = environments.move(
                replace(row, retiring=row.retiring or is_last), environments.Signal.CLEAN, now=now
            )
            outdate(tables, cleaning, now=now)
            return move(tables, "environments", row, cleaning, environments.Signal.CLEAN, now=now, by=identity.name)

        return await self._means.store.write(step)

    async def retry(self, run: str, *, identity: Identity) -> Run:
        """A new attempt in the live round; after its report a round of its own, by an event by hand."""
        means, now = self._means, self._means.clock.now()
        configuration = means.configuration()

        def step(tables: Tables) -> Run:
            old = need(tables.runs, run, "run")
            if not old.is_done:
                raise Refused(f"run {run}: it is {old.state.value}, not done", hint=f"paddock run cancel {run}")
            if old.job not in configuration.jobs:
                raise Refused(f"run {run}: job {old.job} is no longer configured")
            round = need(tables.rounds, old.round, "round")
            attempts = [one.attempt for one in tables.runs.where(round=round.id) if one.job == old.job]
            if round.state is rounds.State.RUNNING:
                if max(attempts) != old.attempt:
                    raise Refused(f"run {run}: attempt {max(attempts)} of {old.job} is there already")
                return planning.add_run(
                    tables, round, old.job, configuration, voting=old.voting, attempt=max(attempts) + 1, now=now
                )
            by_hand = _manual_event(tables, round, old, identity, now=now)
            jobs = [ProjectJob(job=old.job, voting=old.voting)]
            again = planning.open_round(tables, by_hand, jobs, configuration, now=now)
            planned = replace(
                by_hand, state=events.State.PLANNED, round=again.id, outcome=f"round {again.id}: {old.job}"
            )
            move(tables, "events", by_hand, planned, events.Signal.PLAN, now=now, by=identity.name)
            return tables.runs.where(round=again.id)[0]

        return await means.store.write(step)

    async def cancel(self, run: str, *, identity: Identity, reason: str) -> Run:
        """End a run early: its trees are ended, `after` and collection still happen."""

        def step(tables: Tables) -> Run:
            row = need(tables.runs, run, "run")
            if row.is_done:
                raise Refused(f"run {run}: it is done: {row.verdict.value if row.verdict else 'without verdict'}")
            why = f"cancelled by {identity.name}" + (f": {reason}" if reason else "")
            return planning.ask_to_end(tables, row, Verdict.CANCELLED, reason=why)

        return await self._means.store.write(step)

    async def order(self, agent: str, wish: Wish, *, identity: Identity) -> Ordered:
        """See web.actions."""
        ordering.check(wish)
        now = self._means.clock.now()
        if not wish.id:
            wish = replace(wish, id=self._means.chance.name(f"{self._means.store.birth}-"))
        return await self._means.store.write(
            lambda tables: ordering.ask(tables, self._means, agent, wish, identity=identity, now=now)
        )

    async def cancel_order(self, agent: str, command: str, *, grace: float | None, identity: Identity) -> Command:
        """See web.actions."""
        now = self._means.clock.now()
        return await self._means.store.write(
            lambda tables: ordering.cancel(tables, self._means, agent, command, identity=identity, grace=grace, now=now)
        )

    async def acknowledge(self, alert: str, *, identity: Identity) -> Alert:
        """A person knows of it; its agent stops repeating it."""
        now = self._means.clock.now()
        return await self._means.store.write(
            lambda tables: alerting.acknowledge(tables, alert, identity=identity, now=now)
        )

    async def make_token(self, *, name: str, role: Role, ttl: timedelta | None, identity: Identity) -> str:
        secret, now = self._means.chance.secret(), self._means.clock.now()

        def step(tables: Tables) -> None:
            token = Token(
                id=name,
                role=role,
                digest=access.digest(secret),
                created=now,
                expires=now + ttl if ttl is not None else None,
            )
            old = tables.tokens.find(name)
            if old is None:
                tables.tokens.add(token)
            elif access.is_valid(old, now=now):
                raise Refused(f"token {name}: there is one of that name", hint=f"paddock token revoke {name}")
            else:
                tables.tokens.swap(old, token)

        await self._means.store.write(step)
        return secret

    async def revoke_token(self, name: str, *, identity: Identity) -> None:
        now = self._means.clock.now()

        def step(tables: Tables) -> None:
            token = need(tables.tokens, name, "token")
            if token.revoked is None:
                tables.tokens.swap(token, replace(token, revoked=now))

        await self._means.store.write(step)

    async def enrolment(self, *, host: str, ttl: timedelta, identity: Identity) -> str:
        """A code for one agent of a configured host."""
        secret, now = self._means.chance.secret(), self._means.clock.now()

        def step(tables: Tables) -> None:
            need(tables.hosts, host, "host")
            tables.enrolments.add(
                Enrolment(id=access.digest(secret), host=host, created=now, expires=now + ttl),
            )

        await self._means.store.write(step)
        return secret

    async def drain_host(self, host: str, *, identity: Identity) -> Host:
        now = self._means.clock.now()

        def step(tables: Tables) -> Host:
            row = need(tables.hosts, host, "host")
            if row.state is hosts.State.DRAINING:
                return row
            if row.state is not hosts.State.ONLINE:  # remembered, and done when its agent arrives
                return tables.hosts.swap(row, replace(row, drained_by=identity.name))
            state = hosts.LIFECYCLE.step(row.state, hosts.Signal.DRAIN)
            reason = f"drained by {identity.name}"
            drained = replace(row, state=state, since=now, drained_by=identity.name, reason=reason)
            return move(tables, "hosts", row, drained, hosts.Signal.DRAIN, now=now, by=identity.name)

        return await self._means.store.write(step)

    async def resume_host(self, host: str, *, identity: Identity) -> Host:
        """Lend from it again; an agent that was shut out is taken again."""
        now = self._means.clock.now()

        def step(tables: Tables) -> Host:
            row = need(tables.hosts, host, "host")
            if row.agent:
                release_from_shut_out(tables, host)
            if row.state is not hosts.State.DRAINING:
                return tables.hosts.swap(row, replace(row, drained_by=""))
            state = hosts.LIFECYCLE.step(row.state, hosts.Signal.RESUME)
            resumed = replace(row, state=state, since=now, drained_by="", reason="")
            return move(tables, "hosts", row, resumed, hosts.Signal.RESUME, now=now, by=identity.name)

        return await self._means.store.write(step)

    async def drain(self, *, identity: Identity) -> Drain:
        """Start nothing new from now on, until this server ends; how much is still under way."""
        self._stage.is_draining = True
        return await self._means.store.read(under_way)


def under_way(tables: Tables) -> Drain:
    """What an orderly stop waits for."""
    active = (runs.State.PREPARING, runs.State.RUNNING, runs.State.COLLECTING)
    waiting = (runs.State.QUEUED, runs.State.LEASING)
    return Drain(running=tables.runs.count(state=active), waiting=tables.runs.count(state=waiting))


def _check_owner(lease: Lease, identity: Identity) -> None:
    """Only who acquired a lease may touch it, or an operator."""
    if lease.owner != identity.name and identity.role is not Role.OPERATOR:
        raise Stale(f"lease {lease.id}: it belongs to {lease.owner or lease.holder}, not to {identity.name}")


def _check_holder(environment: Environment, identity: Identity) -> None:
    """Only who holds an environment, or wants to, may change that, or an operator.

    What a failed run left is there for whoever looks at it first.
    """
    if environment.held_for is not None and identity.role is Role.PERSON:
        return
    if environment.held_by not in ("", identity.name) and identity.role is not Role.OPERATOR:
        raise Refused(f"environment {environment.id}: it is held by {environment.held_by}")


def _check_hold(environment: Environment, pool: Pool | None, ttl: timedelta, *, disks: bool) -> None:
    """What its pool allows, and whether it has disks at all."""
    if disks and environment.spec is None:
        raise Refused(f"environment {environment.id}: its machines are processes, without disks of their own")
    if pool is not None and ttl > pool.hold.longest:
        raise Refused(f"environment {environment.id}: pool {pool.name} holds for at most {spell(pool.hold.longest)}")


def _manual_event(tables: Tables, round: rounds.Round, run: Run, identity: Identity, *, now: datetime) -> Event:
    number = tables.number("event")
    event = tables.events.add(
        Event(
            id=str(number),
            forge=round.forge,
            session=events.BY_HAND,
            position=number,
            heard=now,
            kind=Kind.MANUAL,
            type="retry",
            raw="",
            author=identity.name,
            comment=f"retry of run {run.id}",
            change=round.change,
            project=round.project,
            number=round.number,
        )
    )
    record(tables, "events", None, event, "ask", now=now, by=identity.name)
    return event
