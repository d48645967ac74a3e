"""Ordering: people and programs command agents, at most once by an id of their own choice.

Effects: idempotent (rows alone; an id that is known is answered with its row, never ordered again)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core.access import Identity, Role, is_allowed
from paddock.core.agent import Agent, Kind
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.errors import Missing, NotAllowed, NotOffered, Refused
from paddock.engine.filing import directory_of
from paddock.engine.means import Means, fail, order
from paddock.ports import Tables
from paddock.wire import methods
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON, canonical
from paddock.wire.methods import Effect, Method, Toward

CANCEL = "task.cancel"
FILLED_IN = ("environment", "fence")
"""Params that are the server's to give: they come from the rows of the agent's environment."""
AT_ONCE = 20_000
"""About so many commands may wait for one agent: whoever orders more has forgotten to wait for answers."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What somebody wants an agent to do. `id` is the caller's: the same one again is the same command."""

    id: str
    method: str
    params: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Ordered:
    """The command of a wish, and whether it was ordered just now."""

    command: Command
    is_new: bool


def agent_of(tables: Tables, typed: str) -> Agent:
    """The agent of this id, or of the host of this name."""
    found = tables.agents.find(typed)
    if found is None:
        host = tables.hosts.find(typed)
        found = tables.agents.find(host.agent) if host is not None and host.agent else None
    if found is None:
        raise Missing(f"agent {typed}: there is none", hint="paddock agent list")
    return found


def check(wish: Wish) -> None:
    """Refuse what no agent would take, before anything is looked up. BadParams names the field."""
    params = cast("Mapping[str, JSON]", wish.params)
    row = methods.METHODS.get(wish.method)
    for name in FILLED_IN:
        if name in params:
            raise BadParams(f"params.{name}", "the server fills it in")
    if row is None:
        return  # of a skill that is installed beside Paddock: its agent has the table
    if row.toward is Toward.SERVER:
        raise NotOffered(f"{wish.method}: agents ask this of the server, nobody asks it of an agent")
    if row.fenced:
        raise Refused(f"{wish.method}: only the server's own upkeep orders it", hint="paddock env clean ENVIRONMENT")
    if row.task and params.get("task_id") not in (None, wish.id):
        raise BadParams("params.task_id", "a task has the id of its command")
    methods.check(wish.method, params, toward=Toward.AGENT, is_strict=True)


def ask(tables: Tables, means: Means, typed: str, wish: Wish, *, identity: Identity, now: datetime) -> Ordered:
    """Queue it for the agent, which may be away; or find it, where this id was asked before."""
    agent = agent_of(tables, typed)
    known = tables.commands.find(wish.id)
    if known is not None:
        return Ordered(command=same(known, agent, wish, identity), is_new=False)
    environment = _place(tables, agent)
    _check_right(tables, agent, environment, wish.method, identity)
    _check_offered(agent, wish.method)
    # Counting costs what there is to count: now and then is often enough.
    if agent.seq % 64 == 0 and tables.commands.count(agent=agent.id, state=commands.State.QUEUED) >= AT_ONCE:
        raise Refused(f"agent {agent.name}: {AT_ONCE} commands are queued for it", hint="wait for some of them")
    target = wish.params.get("task_id") if wish.method == CANCEL else ""
    made = order(
        tables,
        means,
        agent.id,
        wish.method,
        wish.params,
        now=now,
        id=wish.id,
        by=identity.name,
        environment=environment.id if environment else "",
        fence=environment.fence if environment else 0,
        machine=agent.machine,
        target=str(target),
        archive=directory_of(agent.id, wish.id),
    )
    return Ordered(command=made, is_new=True)


def same(known: Command, agent: Agent, wish: Wish, identity: Identity) -> Command:
    """The command of an id that was asked before; Refused if something else was asked under it."""
    is_theirs = known.agent == agent.id and known.by == identity.name
    asked = {name: value for name, value in known.params.items() if not known.environment or name not in FILLED_IN}
    if not is_theirs or known.method != wish.method or _text(asked) != _text(wish.params):
        raise Refused(
            f"command {wish.id}: this id was given to another command", hint="give each command an id of its own"
        )
    return known


def _text(params: Mapping[str, object]) -> str:
    """What tells params apart: in Python 1, 1.0 and True are the same."""
    return canonical(cast("JSON", params))


def _place(tables: Tables, agent: Agent) -> Environment | None:
    """The environment of a machine's agent. `Missing` for an agent that is no more, `Refused` while it is shut out."""
    environment = tables.environments.find(agent.environment) if agent.kind is Kind.MACHINE else None
    if agent.kind is Kind.MACHINE:
        if environment is None or environment.state is environments.State.GONE:
            raise Missing(f"agent {agent.id}: its environment {agent.environment} is gone", hint="paddock env list")
    else:
        host = tables.hosts.find(agent.host)
        if host is None or host.agent != agent.id:
            raise Missing(f"agent {agent.id}: another agent stands for host {agent.host} now", hint="paddock host list")
    if agent.shut_out:
        raise Refused(f"agent {agent.name}: shut out: {agent.shut_out}", hint=f"paddock host resume {agent.host}")
    return environment


def _check_right(
    tables: Tables, agent: Agent, environment: Environment | None, method: str, identity: Identity
) -> None:
    """An operator may everything; others read from hosts, and use the machines that are lent to them."""
    row = methods.METHODS.get(method)
    is_free = environment is not None and environment.state is environments.State.READY
    if environment is not None and is_free and (row is None or row.effect is not Effect.READ):
        raise Refused(
            f"environment {environment.id}: it is free, and clean for whoever borrows it next",
            hint=f"paddock lease acquire --env {environment.pool}",
        )
    if identity.role is Role.OPERATOR:
        return
    wants = Role.OPERATOR if row is None else row.role
    if environment is None:
        if row is None or not _is_harmless(row):
            wants = Role.OPERATOR
        if not is_allowed(identity.role, wants=wants):
            raise NotAllowed(f"{identity.name}: {method} on host {agent.host} is for {_an(wants)}")
        return
    if not holds(tables, environment, identity):
        raise NotAllowed(
            f"{identity.name}: environment {environment.id} is not lent to you",
            hint=f"paddock lease acquire --env {environment.pool}",
        )
    if wants is Role.OPERATOR:
        raise NotAllowed(f"{identity.name}: {method} is for an operator")


def _is_harmless(row: Method) -> bool:
    """A read that names no file: whoever reads any file of a host reads its agent's token."""
    return row.effect is Effect.READ and not any(param.kind is methods.Kind.PATH for param in row.params)


def _an(role: Role) -> str:
    return f"{'an' if role is Role.OPERATOR else 'a'} {role.value}"


def holds(tables: Tables, environment: Environment, identity: Identity) -> bool:
    """Whether it is lent to them, or held for them."""
    if environment.state is environments.State.HELD:
        return environment.held_by == identity.name
    lease = tables.leases.find(environment.lease) if environment.lease else None
    return lease is not None and lease.owner == identity.name


def _check_offered(agent: Agent, method: str) -> None:
    # One that has never said hello, or does not say, may have what our table has.
    if method not in (agent.methods or methods.METHODS):
        raise NotOffered(
            f"agent {agent.name}: it has no method {method}",
            hint=f"it offers: {' '.join(sorted(agent.methods))}" if agent.methods else "docs/methods.md has them all",
        )


def may_see(tables: Tables, command: Command, identity: Identity) -> bool:
    """Whether results and output of a command are theirs to see: whose it is, who holds its machine, operators.

    What a run printed is on its page, and is seen by whoever may read that.
    """
    if identity.role is Role.OPERATOR or command.run or not command.by or command.by == identity.name:
        return True
    environment = tables.environments.find(command.environment) if command.environment else None
    return environment is not None and environment.fence == command.fence and holds(tables, environment, identity)


def own(tables: Tables, typed: str, id: str) -> Command:
    """A command of this agent. `Missing` where there is none of that id."""
    agent = agent_of(tables, typed)
    command = tables.commands.find(id)
    if command is None or command.agent != agent.id:
        raise Missing(f"command {id}: agent {agent.id} has none of that id")
    return command


def cancel(
    tables: Tables, means: Means, typed: str, id: str, *, identity: Identity, grace: float | None, now: datetime
) -> Command:
    """End it: what was not sent yet is not sent, else the agent is told to end its tree. Idempotent."""
    command = own(tables, typed, id)
    if not command.by:
        what = f"run {command.run}" if command.run else "the upkeep of its environment"
        raise Refused(f"command {id}: it belongs to {what}", hint=f"paddock run cancel {command.run or 'RUN'}")
    if not may_see(tables, command, identity):
        raise NotAllowed(f"{identity.name}: command {id} is {command.by}'s")
    if not command.is_open:
        raise Refused(f"command {id}: it is {command.state.value} already")
    if command.state is commands.State.QUEUED:
        return fail(tables, command, "cancelled", f"cancelled by {identity.name} before it was sent", now=now)
    if not any(one.target == id for one in tables.commands.where(agent=command.agent, state=_OPEN, target=id)):
        params: dict[str, object] = {"task_id": id} if grace is None else {"task_id": id, "grace": grace}
        order(
            tables,
            means,
            command.agent,
            CANCEL,
            params,
            now=now,
            by=identity.name,
            environment=command.environment,
            fence=command.fence,
            machine=command.machine,
            target=id,
        )
    return command


_OPEN = sorted(commands.OPEN)


def outdate(tables: Tables, environment: Environment, *, now: datetime) -> None:
    """The environment's owner changed: what was ordered under an older fence is over, and no answer to it is taken."""
    for command in tables.commands.where(environment=environment.id, state=_OPEN):
        if not command.run and command.fence < environment.fence:
            fail(tables, command, "stale", f"fence {command.fence} of {environment.id} is over", now=now)


def need_seen(tables: Tables, typed: str, id: str, identity: Identity) -> Command:
    """A command whose result and output these eyes may see."""
    command = own(tables, typed, id)
    if not may_see(tables, command, identity):
        raise NotAllowed(f"{identity.name}: command {id} is {command.by}'s")
    return command
