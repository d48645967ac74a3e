"""Attending: hosts come, go and are given up; what a lost host carried is broken.

Effects: idempotent (one transaction a pass, on rows alone)
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core import lease as leases
from paddock.core.agent import Agent, Kind
from paddock.core.command import Command
from paddock.core.environment import Environment, Spec
from paddock.core.host import Host
from paddock.core.machine import Size
from paddock.core.run import Verdict
from paddock.engine import leasing, reconciling, storing
from paddock.engine.booking import SKILL
from paddock.engine.loop import earliest
from paddock.engine.means import Means, fail, move, record
from paddock.engine.planning import give_up
from paddock.ports import Tables, Touched


class Attending:
    """The stage that keeps the hosts' rows true to the configuration and to their agents' sessions."""

    name = "attending"

    def __init__(self, means: Means) -> None:
        self._means = means

    def wakes(self, touched: Touched) -> bool:
        match touched.row:
            case Agent(kind=Kind.HOST):
                return True
            case Agent(kind=Kind.MACHINE, session=session):
                return not session
            case Environment(state=environments.State.READY, spec=Spec()):
                return True  # a machine of it may not have been heard at all, and then nothing else ever tells
            case Command(method=reconciling.LIST, is_open=False):
                return True
            case _:
                return False

    async def step(self, now: datetime) -> datetime | None:
        return await self._means.store.write(lambda tables: self._pass(tables, now))

    def _pass(self, tables: Tables, now: datetime) -> datetime | None:
        configuration = self._means.configuration()
        for settings in configuration.hosts.values():
            if tables.hosts.find(settings.name) is None:
                host = tables.hosts.add(Host(id=settings.name, skills=settings.skills, since=now))
                record(tables, "hosts", None, host, "configure", now=now)
        looks = [self._attend(tables, host, now=now) for host in tables.hosts.where()]
        if any(pool.is_virtual for pool in configuration.pools.values()):
            looks.append(self._look_after_free_ones(tables, now=now))
        return earliest(*looks)

    def _look_after_free_ones(self, tables: Tables, *, now: datetime) -> datetime | None:
        """A free environment whose machine is silent past the grace is replaced; when to look again.

        Its host is asked before: whose process is gone need not wait for the grace. Where somebody has the environment,
        its run or its holder finds out.
        """
        looks = []
        for environment in tables.environments.where(state=environments.State.READY):
            host = tables.hosts.find(environment.host)
            if environment.spec is None or host is None or host.state is not hosts.State.ONLINE:
                continue
            for agent in tables.agents.where(environment=environment.id):
                if agent.is_connected:
                    continue
                away = max(agent.seen or environment.since, environment.since, host.since)
                lost_at = away + self._means.configuration().server.host_grace
                if now < lost_at:
                    looks.append(min(lost_at, reconciling.look(tables, self._means, host, since=away, now=now)))
                    continue
                reason = f"the agent of {agent.machine} has been away since {away:%H:%M:%S} UTC"
                break_down(tables, environment, now=now, reason=reason, verdict=Verdict.ERROR)
                break
        return earliest(*looks)

    def _attend(self, tables: Tables, host: Host, *, now: datetime) -> datetime | None:
        """Move one host to where its agent is; when to look again."""
        agent = tables.agents.find(host.agent) if host.agent else None
        host = _believe(tables, host, agent)
        if agent is not None and agent.is_connected:
            if host.state in (hosts.State.JOINING, hosts.State.OFFLINE, hosts.State.LOST):
                host = arrive(tables, host, now=now)
                if self._carries_machines(host):
                    host = reconciling.take_stock(tables, self._means, host, now=now)
            self._reconcile(tables, host, now=now)
            return None
        if host.state in (hosts.State.ONLINE, hosts.State.DRAINING):
            host = _step(tables, host, hosts.Signal.LEAVE, now=now, reason="its agent is away")
        if host.state is not hosts.State.OFFLINE:
            return None
        lost_at = host.since + self._means.configuration().server.host_grace
        if now < lost_at:
            return lost_at
        lose(tables, host, now=now)
        return None

    def _carries_machines(self, host: Host) -> bool:
        settings = self._means.configuration().hosts.get(host.id)
        return settings is not None and SKILL in settings.skills

    def _reconcile(self, tables: Tables, host: Host, *, now: datetime) -> None:
        """What nobody owns is destroyed; what lacks a machine cannot be used on."""
        if not host.listing:
            return
        host, lacking = reconciling.settle(tables, self._means, host, now=now)
        for environment in lacking:
            reason = f"host {host.id} has not all of its machines any more"
            break_down(tables, environment, now=now, reason=reason, verdict=Verdict.ERROR)


def _believe(tables: Tables, host: Host, agent: Agent | None) -> Host:
    """What its agent said in its last hello that there is, and what it counted since."""
    host = storing.believe(tables, host, agent.facts.get("stored")) if agent is not None else host
    told = agent.facts.get("capacity") if agent is not None else None
    if not isinstance(told, Mapping):
        return host
    memory, vcpus, disk = (told.get(name) for name in ("memory", "vcpus", "disk"))
    if not (isinstance(memory, int) and isinstance(vcpus, int) and isinstance(disk, int)):
        return host
    capacity = Size(memory=memory, vcpus=vcpus, disk=disk)
    return host if capacity == host.capacity else tables.hosts.swap(host, replace(host, capacity=capacity))


def arrive(tables: Tables, host: Host, *, now: datetime) -> Host:
    """Its agent said hello; one that was being drained goes on draining."""
    host = _step(tables, host, hosts.Signal.ARRIVE, now=now, reason="")
    if host.drained_by:
        host = _step(tables, host, hosts.Signal.DRAIN, now=now, reason=f"drained by {host.drained_by}")
    return host


def _step(tables: Tables, host: Host, signal: hosts.Signal, *, now: datetime, reason: str) -> Host:
    after = replace(host, state=hosts.LIFECYCLE.step(host.state, signal), since=now, reason=reason)
    return move(tables, "hosts", host, after, signal, now=now)


def lose(tables: Tables, host: Host, *, now: datetime) -> None:
    """Away past the grace: its environments are broken, and whoever had them is told."""
    reason = f"host {host.id} has been away since {host.since:%H:%M:%S} UTC"
    _step(tables, host, hosts.Signal.LOSE, now=now, reason=reason)
    for environment in tables.environments.where(host=host.id):
        if environments.LIFECYCLE.allows(environment.state, environments.Signal.BREAK):
            break_down(tables, environment, now=now, reason=reason, verdict=Verdict.ERROR)


def break_down(tables: Tables, environment: Environment, *, now: datetime, reason: str, verdict: Verdict) -> None:
    """The environment cannot be used on: its lease is revoked, its run ends, its fence rises."""
    broken = environments.move(replace(environment, lease=""), environments.Signal.BREAK, now=now, reason=reason)
    move(tables, "environments", environment, broken, environments.Signal.BREAK, now=now)
    revoke(tables, environment, now=now, reason=reason, verdict=verdict)


def revoke(tables: Tables, environment: Environment, *, now: datetime, reason: str, verdict: Verdict) -> None:
    """Take the environment from whoever holds it; its open commands are over."""
    lease = tables.leases.find(environment.lease) if environment.lease else None
    if lease is not None and lease.state is leases.State.GRANTED:
        leasing.end(tables, lease, leases.Signal.REVOKE, now=now, reason=reason)
    if lease is not None and lease.run:
        run = tables.runs.find(lease.run)
        if run is not None:
            give_up(tables, run, verdict, reason=reason)
    for command in tables.commands.where(environment=environment.id, state=sorted(commands.OPEN)):
        fail(tables, command, "stale", reason, now=now)
