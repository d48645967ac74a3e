"""Admission: who may open a session, and what an agent's own memory changes in ours.

Effects: idempotent (each function is part of one transaction)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from paddock.core import access, upkeep
from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core.agent import Agent, Kind
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.errors import Missing, Refused
from paddock.core.run import Verdict
from paddock.engine.alerting import end_all
from paddock.engine.attending import break_down
from paddock.engine.means import fail, need, record
from paddock.ports import Tables
from paddock.wire import methods
from paddock.wire.hello import Enrol, Facts, Hello, Relay

LARGEST_COUNT = 1 << 53
NOT_TAKEN = "agent: this identity and token are not known here"
"""One text for every kind of stranger: it does not tell which half was right."""


def enrol(tables: Tables, request: Enrol, *, id: str, token: str, now: datetime) -> Agent:
    """A new agent for the host that the code was made for. The code is used with it, in one transaction."""
    enrolment = tables.enrolments.find(access.digest(request.code))
    if enrolment is None:
        raise Refused("enrolment: this code is not known", hint="make a new one: paddock host add NAME")
    access.use(enrolment, now=now)
    tables.enrolments.swap(enrolment, replace(enrolment, used=now))
    host = need(tables.hosts, enrolment.host, "host")
    replace_agent(tables, host.agent, now=now)
    agent = tables.agents.add(
        Agent(
            id=id,
            name=host.id,
            kind=Kind.HOST,
            host=host.id,
            token=access.digest(token),
            facts=facts(request.facts),
            created=now,
        )
    )
    enrolled = tables.hosts.swap(host, replace(host, agent=agent.id))
    record(tables, "hosts", host, enrolled, "enrol", now=now, by=f"agent {agent.id}")
    return agent


def replace_agent(tables: Tables, id: str, *, now: datetime) -> None:
    """Another agent takes over a host: what the one before was asked is asked again of the new one."""
    older = tables.agents.find(id) if id else None
    if older is None:
        return
    for command in tables.commands.where(agent=older.id, state=sorted(commands.OPEN)):
        fail(tables, command, "interrupted", "another agent enrolled for its host", now=now)
    end_all(tables, older.id, now=now)
    tables.agents.swap(older, replace(older, shut_out="another agent enrolled for its host", session="", seen=now))


def facts(told: Facts) -> dict[str, object]:
    """As they are stored: evidence, for a page to show."""
    return dict(told.params())


def authenticate(tables: Tables, hello: Hello, relay: Relay | None) -> Agent:
    """The agent that speaks: by its own token, or vouched for by the host that carries its machine."""
    if relay is None:
        return _by_token(tables, hello.agent or "", hello.token or "")
    if hello.agent is not None:
        raise Refused("hello: a relayed agent has no identity of its own")
    return vouched_for(tables, relay)


def vouched_for(tables: Tables, relay: Relay) -> Agent:
    """The machine's agent that a host vouches for, if the host is ours and carries the machine."""
    host = _by_token(tables, relay.agent, relay.token)
    environment = tables.environments.find(relay.environment)
    if environment is None or environment.host != host.host or environment.state is environments.State.GONE:
        raise Refused(f"relay: host {host.host} does not carry {relay.environment}")
    machine = next((one for one in environment.machines if one.name == relay.machine), None)
    if machine is None:
        raise Refused(f"relay: {relay.environment} has no machine {relay.machine}")
    agent = need(tables.agents, machine.agent, "agent")
    if agent.shut_out:
        raise Refused(f"agent {agent.name}: shut out: {agent.shut_out}")
    return agent


def _by_token(tables: Tables, id: str, token: str) -> Agent:
    agent = tables.agents.find(id)
    shown = access.digest(token)
    if agent is None or agent.kind is not Kind.HOST or not token or shown not in (agent.token, agent.new_token):
        raise Refused(NOT_TAKEN, hint="enrol it again: paddock host add NAME")
    if agent.shut_out:
        raise Refused(f"agent {agent.name}: shut out: {agent.shut_out}", hint="paddock host resume NAME")
    host = tables.hosts.find(agent.host)
    if host is None or host.agent != agent.id:
        raise Refused(NOT_TAKEN, hint="another agent enrolled for this host since")
    return agent


def shut_out(tables: Tables, agent: Agent, *, now: datetime) -> None:
    """Two agents answer to one identity: neither is taken until a person has looked.

    Where it is a machine's nobody need look: what cannot tell its machines apart is destroyed.
    """
    agent = need(tables.agents, agent.id, "agent")
    reason = "two agents answered to this identity at once"
    tables.agents.swap(agent, replace(agent, shut_out=reason, session="", seen=now))
    environment = tables.environments.find(agent.environment) if agent.kind is Kind.MACHINE else None
    if environment is not None and environments.LIFECYCLE.allows(environment.state, environments.Signal.BREAK):
        break_down(tables, environment, now=now, reason=f"{agent.name}: {reason}", verdict=Verdict.ERROR)


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What an admitted agent is told: floors, and its tasks as we see them."""

    agent: Agent
    fences: Mapping[str, int]
    known: Mapping[str, Command]
    """Task → its command, for the tasks that the agent named and that are its own under a live fence."""
    forget: tuple[str, ...]


def settle(tables: Tables, agent: Agent, hello: Hello, *, session: str, now: datetime) -> Settled:
    """Steps (a) to (d) of protocol.md's Session 2: what hello ends, raises and makes us forget."""
    agent = need(tables.agents, agent.id, "agent")
    _check_counters(hello)
    open_ones = tables.commands.where(agent=agent.id, state=sorted(commands.OPEN))
    if agent.boot_id and agent.boot_id != hello.boot_id:
        open_ones = [one for one in open_ones if not _ended_by_boot(tables, one, now=now)]
    if agent.ledger and agent.ledger != hello.ledger:
        for command in open_ones:
            if command.state is not commands.State.QUEUED:
                fail(tables, command, "interrupted", "the agent came back with another ledger", now=now)
    if agent.kind is Kind.HOST:
        _raise_fences(tables, agent, hello, now=now)
    greeted = tables.agents.swap(
        agent,
        replace(
            _rotated(agent, hello),
            ledger=hello.ledger,
            boot_id=hello.boot_id,
            seq=max(agent.seq, hello.seq),
            software=hello.software,
            skills=hello.skills,
            methods=hello.methods,
            facts=facts(hello.facts),
            session=session,
            seen=now,
        ),
    )
    if hello.seq > agent.seq:
        greeted = renumber(tables, greeted)
    known = _known(tables, greeted, hello)
    return Settled(
        agent=greeted,
        fences=_floors(tables, greeted),
        known=known,
        forget=tuple(task.task_id for task in hello.tasks if task.task_id not in known),
    )


def _check_counters(hello: Hello) -> None:
    """Counters that nobody could have counted would leave no room above them, for anybody, for ever."""
    for name, value in {"epoch": hello.epoch, "seq": hello.seq, **hello.fences}.items():
        if value > LARGEST_COUNT:
            raise Refused(f"hello: {name} {value} is higher than anything was ever counted")


def _rotated(agent: Agent, hello: Hello) -> Agent:
    """The first hello with a new token ends the old one."""
    if hello.token and agent.new_token and access.digest(hello.token) == agent.new_token:
        return replace(agent, token=agent.new_token, new_token="")
    return agent


def _ended_by_boot(tables: Tables, command: Command, *, now: datetime) -> bool:
    """A command whose end is a new boot is complete with it, whatever the ledger says, if it came within its limit."""
    method = methods.METHODS.get(command.method)
    if method is None or not method.ends_boot or command.state is commands.State.QUEUED:
        return False
    if _is_too_late(command, now=now):
        fail(tables, command, "timed_out", "its limit was over before the machine was back", now=now)
        return True
    state = commands.LIFECYCLE.step(command.state, commands.Signal.COMPLETE)
    tables.commands.swap(command, replace(command, state=state, result={"booted": True}, ended=now))
    return True


def _is_too_late(command: Command, *, now: datetime) -> bool:
    limit = command.params.get("limit")
    since = command.started or command.sent
    if since is None or not isinstance(limit, int | float) or isinstance(limit, bool):
        return False
    return now - since > timedelta(seconds=limit)


def _raise_fences(tables: Tables, agent: Agent, hello: Hello, *, now: datetime) -> None:
    """A host that saw a higher fence than ours: this store is an old copy. What it says of the environment is over."""
    for name, seen in hello.fences.items():
        environment = tables.environments.find(name)
        if environment is None or environment.host != agent.host or seen <= environment.fence:
            continue
        raised = tables.environments.swap(environment, replace(environment, fence=seen))
        if environments.LIFECYCLE.allows(raised.state, environments.Signal.BREAK):
            reason = f"host {agent.host} saw fence {seen}, the store only {environment.fence}: it was restored"
            break_down(tables, raised, now=now, reason=reason, verdict=Verdict.ERROR)


def renumber(tables: Tables, agent: Agent) -> Agent:
    """Give what is queued new seqs above what the agent saw: an old copy of the store counted from below."""
    for command in tables.commands.where(agent=agent.id, state=commands.State.QUEUED):
        agent = tables.agents.swap(agent, replace(agent, seq=agent.seq + 1))
        tables.commands.swap(command, replace(command, seq=agent.seq))
    return agent


def _floors(tables: Tables, agent: Agent) -> dict[str, int]:
    """Environment → fence, for what a host carries; for a machine its own."""
    if agent.kind is Kind.MACHINE:
        environment = tables.environments.find(agent.environment)
        return {environment.id: environment.fence} if environment else {}
    return {one.id: one.fence for one in tables.environments.where(host=agent.host, state=sorted(environments.LIVE))}


def _known(tables: Tables, agent: Agent, hello: Hello) -> dict[str, Command]:
    """The tasks in hello that are this agent's and whose answer is still taken."""
    known = {}
    for task in hello.tasks:
        command = tables.commands.find(task.task_id)
        if command is not None and command.agent == agent.id and is_live(tables, command):
            known[command.id] = command
    return known


def is_live(tables: Tables, command: Command) -> bool:
    """Whether the fence that the command was given under is the live one."""
    if not command.environment:
        return True
    environment: Environment | None = tables.environments.find(command.environment)
    if environment is None:
        # Of an environment that we do not know, or no longer: a host has to destroy, and forget, what nobody owns.
        return command.method in (upkeep.DESTROY, upkeep.FORGET) and not command.by
    return environment.fence == command.fence


def greet_nobody(tables: Tables, *, now: datetime) -> None:
    """At a server's start no session is live, whatever the store of the last one says."""
    for agent in tables.agents.where():
        if agent.session:
            tables.agents.swap(agent, replace(agent, session="", seen=now))


def release_from_shut_out(tables: Tables, host: str) -> None:
    """A person looked: the identity is taken again."""
    row = need(tables.hosts, host, "host")
    agent = tables.agents.find(row.agent)
    if agent is None:
        raise Missing(f"host {host}: no agent has enrolled for it")
    if agent.shut_out:
        tables.agents.swap(agent, replace(agent, shut_out=""))
