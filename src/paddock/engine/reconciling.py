"""Reconciling: what a host has that nobody owns is destroyed; what it lost is broken.

Effects: idempotent (orders commands that state an end, in the transaction that reads what the host told)
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core import upkeep
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.host import Host
from paddock.engine.means import Means, order
from paddock.engine.specifying import saved_name
from paddock.ports import Tables

LIST = "machine.list"
LIMIT = 600
"""Seconds that destroying one machine may take."""
PATIENCE = timedelta(seconds=15)
"""How long a free machine may be silent before its host is asked what runs, and until it is asked once more."""
_IN_USE = [environments.State.READY, environments.State.LEASED, environments.State.HELD]
_WITHOUT_MACHINES = (environments.State.GONE, environments.State.SAVED)


def take_stock(tables: Tables, means: Means, host: Host, *, now: datetime) -> Host:
    """The host's agent was away: ask it what it carries. A question that is open already is as good."""
    known = tables.commands.find(host.listing) if host.listing else None
    if known is not None and known.state is commands.State.QUEUED:
        return host
    command = order(tables, means, host.agent, LIST, {}, now=now)
    return tables.hosts.swap(host, replace(host, listing=command.id))


def silent(tables: Tables, found: Sequence[Environment]) -> dict[str, tuple[str, ...]]:
    """Environment → its virtual machines whose agents the server does not hear; only those that have such."""
    virtual = sorted(one.id for one in found if one.spec is not None)
    away: dict[str, tuple[str, ...]] = {}
    for agent in tables.agents.where(environment=virtual) if virtual else ():
        if not agent.is_connected:
            away[agent.environment] = (*away.get(agent.environment, ()), agent.machine)
    return away


def look(tables: Tables, means: Means, host: Host, *, since: datetime, now: datetime) -> datetime:
    """A free machine has been silent since then: ask its host now and then whether it runs. When to look again."""
    known = tables.commands.find(host.listing) if host.listing else None
    if known is not None and known.is_open:
        return now + PATIENCE
    last = tables.commands.where(agent=host.agent, method=LIST, newest=True, limit=1)
    due = max(since, *(one.asked for one in last)) + PATIENCE if last else since + PATIENCE
    if now < due:
        return due
    take_stock(tables, means, host, now=now)
    return now + PATIENCE


def settle(tables: Tables, means: Means, host: Host, *, now: datetime) -> tuple[Host, Sequence[Environment]]:
    """What follows from the answer, once it is there: machines that are destroyed, environments that lack some."""
    answer = tables.commands.find(host.listing) if host.listing else None
    if answer is not None and answer.is_open:
        return host, ()
    if host.listing:
        host = tables.hosts.swap(host, replace(host, listing=""))
    if answer is None or answer.state is not commands.State.COMPLETE:
        return host, ()
    listed = _listed(answer, "machines")
    for (environment, machine), one in listed.items():
        _destroy_unowned(tables, means, host, environment, machine, fence=one.fence, now=now)
    kept = _listed(answer, "saved")
    for (environment, machine), one in kept.items():
        _forget_unowned(tables, means, host, environment, machine, fence=one.fence, now=now)
    return host, _lacking(tables, host, answer, listed, kept)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A machine as its host has it."""

    fence: int
    is_off: bool
    """Whether nothing runs of it."""


def _listed(answer: Command, what: str) -> dict[tuple[str, str], _Listed]:
    """(environment, machine) → what the host has of it."""
    told = answer.result.get(what)
    found = {}
    for one in told if isinstance(told, list | tuple) else ():
        if isinstance(one, Mapping):
            fence = one.get("fence")
            key = (str(one.get("environment", "")), str(one.get("machine", "")))
            seen = fence if isinstance(fence, int) and not isinstance(fence, bool) else 0
            found[key] = _Listed(fence=seen, is_off=one.get("state") == "off")
    return {key: one for key, one in found.items() if all(key)}


def _destroy_unowned(
    tables: Tables, means: Means, host: Host, environment: str, machine: str, *, fence: int, now: datetime
) -> None:
    row = tables.environments.find(environment)
    if row is not None and row.host == host.id and row.state not in _WITHOUT_MACHINES:
        return  # ours; what is not to be is destroyed by whoever cleans it
    order(
        tables,
        means,
        host.agent,
        upkeep.DESTROY,
        {"machine": machine, "limit": LIMIT},
        now=now,
        environment=environment,
        fence=row.fence if row is not None else fence,
        machine=machine,
    )


def _forget_unowned(
    tables: Tables, means: Means, host: Host, environment: str, machine: str, *, fence: int, now: datetime
) -> None:
    """Copies of disks that no row knows: of a restored store, or of what an operator removed from it."""
    row = tables.environments.find(environment)
    if row is not None and row.host == host.id and row.has_saved and row.state is not environments.State.GONE:
        return
    if tables.environments.count(fork_of=environment, state=sorted(environments.LIVE)):
        return  # what is made of them may need them
    order(
        tables,
        means,
        host.agent,
        upkeep.FORGET,
        {"machine": machine, "saved": saved_name(environment, machine), "limit": LIMIT},
        now=now,
        environment=environment,
        fence=row.fence if row is not None else fence,
        machine=machine,
    )


def _lacking(
    tables: Tables,
    host: Host,
    answer: Command,
    listed: Mapping[tuple[str, str], _Listed],
    kept: Collection[tuple[str, str]],
) -> Sequence[Environment]:
    """Environments whose machines were all there before the host was asked, and that it does not have now.

    Whoever has one may have switched a machine off; in one that is free nobody has. Of one that was saved in part its
    host has the disks of some machines alone, and somebody wants those.
    """
    return [
        one
        for one in tables.environments.where(host=host.id, state=_IN_USE)
        if one.spec is not None
        and one.since <= answer.asked
        and any(
            _is_lost(one, listed.get((one.id, machine.name)))
            for machine in one.machines
            if not (one.has_saved and (one.id, machine.name) in kept)
        )
    ]


def _is_lost(environment: Environment, there: _Listed | None) -> bool:
    return there is None or (there.is_off and environment.state is environments.State.READY)
