"""Reconciling: what a host carries that nobody owns is destroyed; what it lost is broken.

Effects: idempotent (orders commands that state an end, in the transaction that reads what the host told)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core import upkeep
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.host import Host
from paddock.engine.means import Means, order
from paddock.ports import Tables

LIST = "machine.list"
LIMIT = 600
"""Seconds that destroying one machine may take."""
_IN_USE = [environments.State.READY, environments.State.LEASED, environments.State.HELD]
_WITHOUT_MACHINES = (environments.State.GONE, environments.State.SAVED)


def take_stock(tables: Tables, means: Means, host: Host, *, now: datetime) -> Host:
    """The host's agent was away: ask it what it carries. A question that is open already is as good."""
    known = tables.commands.find(host.listing) if host.listing else None
    if known is not None and known.state is commands.State.QUEUED:
        return host
    command = order(tables, means, host.agent, LIST, {}, now=now)
    return tables.hosts.swap(host, replace(host, listing=command.id))


def settle(tables: Tables, means: Means, host: Host, *, now: datetime) -> tuple[Host, Sequence[Environment]]:
    """What follows from the answer, once it is there: machines that are destroyed, environments that lack some."""
    answer = tables.commands.find(host.listing) if host.listing else None
    if answer is not None and answer.is_open:
        return host, ()
    if host.listing:
        host = tables.hosts.swap(host, replace(host, listing=""))
    if answer is None or answer.state is not commands.State.COMPLETE:
        return host, ()
    listed = _listed(answer)
    for environment, machine in listed:
        _destroy_unowned(tables, means, host, environment, machine, fence=listed[environment, machine], now=now)
    return host, _lacking(tables, host, answer, listed)


def _listed(answer: Command) -> dict[tuple[str, str], int]:
    """(environment, machine) → the fence under which the host has it."""
    told = answer.result.get("machines")
    found = {}
    for one in told if isinstance(told, list | tuple) else ():
        if isinstance(one, Mapping):
            fence = one.get("fence")
            key = (str(one.get("environment", "")), str(one.get("machine", "")))
            found[key] = fence if isinstance(fence, int) and not isinstance(fence, bool) else 0
    return {key: fence for key, fence in found.items() if all(key)}


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


def _lacking(
    tables: Tables, host: Host, answer: Command, listed: Mapping[tuple[str, str], int]
) -> Sequence[Environment]:
    """Environments whose machines were all there before the host was asked, and that it does not have now."""
    return [
        one
        for one in tables.environments.where(host=host.id, state=_IN_USE)
        if one.spec is not None
        and one.since <= answer.asked
        and any((one.id, machine.name) not in listed for machine in one.machines)
    ]
