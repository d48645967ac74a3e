"""Pressing: the buttons, console, keys and screen of machines, for who has them.

Effects: idempotent (rows alone; an id that is known is answered with its row, never ordered again)
"""

from datetime import datetime
from typing import cast

from paddock.core import environment as environments
from paddock.core.access import Identity, Role
from paddock.core.environment import Environment
from paddock.core.errors import Missing, NotAllowed, Refused, Stale
from paddock.engine.filing import directory_of
from paddock.engine.means import Means, need, order
from paddock.engine.ordering import Ordered, Wish, holds, same
from paddock.ports import Tables
from paddock.wire import methods
from paddock.wire.framing import JSON
from paddock.wire.methods import Toward

POWER = "machine.power"
CONSOLE = "machine.console"
TYPE = "machine.type"
SCREENSHOT = "machine.screenshot"
_LOOKING = (CONSOLE, SCREENSHOT)
_WITHOUT_MACHINES = (environments.State.SAVED, environments.State.GONE)


def press(
    tables: Tables,
    means: Means,
    id: str,
    machine: str,
    wish: Wish,
    *,
    fence: int | None,
    identity: Identity,
    now: datetime,
) -> Ordered:
    """Order it from the agent of the host that carries the machine, under the environment's fence."""
    environment = need(tables.environments, id, "environment")
    wish = Wish(id=wish.id, method=wish.method, params={**wish.params, "machine": machine})
    _check(environment, machine, wish)
    host = need(tables.hosts, environment.host, "host")
    agent = tables.agents.find(host.agent) if host.agent else None
    if agent is None:
        raise Refused(f"host {host.id}: it has no agent", hint=f"paddock host add {host.id}")
    known = tables.commands.find(wish.id)
    if known is not None:
        return Ordered(command=same(known, agent, wish, identity), is_new=False)
    _check_right(tables, environment, wish.method, fence, identity)
    made = order(
        tables,
        means,
        agent.id,
        wish.method,
        wish.params,
        now=now,
        id=wish.id,
        by=identity.name,
        environment=environment.id,
        fence=environment.fence,
        machine=machine,
        archive=directory_of(agent.id, wish.id),
    )
    return Ordered(command=made, is_new=True)


def _check(environment: Environment, machine: str, wish: Wish) -> None:
    """Refuse what no host would take."""
    names = [one.name for one in environment.machines]
    if machine not in names:
        raise Missing(f"environment {environment.id}: no machine {machine}", hint=f"it has {', '.join(names)}")
    if environment.spec is None:
        raise Refused(f"environment {environment.id}: its machines are processes on host {environment.host}")
    if environment.state in _WITHOUT_MACHINES:
        raise Refused(f"environment {environment.id}: it is {environment.state.value}, without machines")
    params = cast("dict[str, JSON]", {**wish.params, "environment": environment.id, "fence": environment.fence})
    methods.check(wish.method, params, toward=Toward.AGENT, is_strict=True)


def _check_right(tables: Tables, environment: Environment, method: str, fence: int | None, identity: Identity) -> None:
    """Who has it may do everything; an operator too, but does not press the buttons of what is free and clean."""
    if fence is not None and fence != environment.fence:
        raise Stale(f"environment {environment.id}: fence {fence} is over, the current one is {environment.fence}")
    if holds(tables, environment, identity):
        return
    if identity.role is not Role.OPERATOR:
        raise NotAllowed(
            f"{identity.name}: environment {environment.id} is not lent to you",
            hint=f"paddock lease acquire --env {environment.pool}",
        )
    if environment.state is environments.State.READY and method not in _LOOKING:
        raise Refused(
            f"environment {environment.id}: it is free, and clean for whoever borrows it next",
            hint=f"paddock lease acquire --env {environment.pool}",
        )
