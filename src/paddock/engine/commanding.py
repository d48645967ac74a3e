"""Commanding: the desk behind the hub: admission, commands out, statuses and output in.

Effects: journaled (a command is durably `sent` before its first byte leaves; output is synced before it is
acknowledged)
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from paddock.core import access
from paddock.core import command as commands
from paddock.core import environment as environments
from paddock.core.agent import Agent
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.errors import Broken, Conflict, Missing, Refused, Stale
from paddock.core.redaction import sentence
from paddock.engine import admission, alerting, noting, storing
from paddock.engine.filing import COLLECT, lengths, stream_name, times_name
from paddock.engine.means import Means, fail, need
from paddock.hands import faults
from paddock.ports import Admitted, T, Tables, Touched
from paddock.wire import methods
from paddock.wire.hello import Alert, Deliver, Enrol, Heard, Hello, Output, Relay, Status, TaskState, Welcome

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Commands whose output is under way that are remembered between two pieces of it."""
LARGEST_LOG = 64 << 20
"""Bytes of output of a command that does not say how much it may have."""
MOST_STREAMS = 16
"""Streams of a command that prints; only collecting names a stream for each file."""
LAST_WORDS = 4096
"""Bytes beyond its limit that a log may have, to say that it was cut."""


class Commanding:
    """The desk behind the hub. What it remembers is derived from rows and forgotten when they change."""

    def __init__(self, means: Means, *, grew: Callable[[str, int], None], stir: Callable[[str], object]) -> None:
        self._means = means
        self._grew = grew
        self._stir = stir
        self._tasks: dict[str, _Task] = {}
        self._looked_up: set[str] = set()
        """Tasks that are being looked up, until a write to them makes the answer old."""
        self._fences: dict[str, int] = {}
        means.store.subscribe(self._told)

    def _told(self, touched: Sequence[Touched]) -> None:
        """Keep what is remembered true, and nudge the hub where a command waits."""
        for one in touched:
            match one.row:
                case Command(state=commands.State.QUEUED, agent=agent):
                    self._means.links.nudge(agent)
                case Command(id=id) as command:
                    self._looked_up.discard(id)
                    if id in self._tasks:
                        self._tasks[id].command = _light(command)
                case Agent(id=id, shut_out=why) if why:
                    self._means.links.drop(id, why)
                case Environment(id=id, state=environments.State.GONE):
                    self._fences.pop(id, None)
                case Environment(id=id, fence=fence):
                    self._fences[id] = fence
                case None if one.noun == "environments":
                    self._fences.pop(one.id, None)
                case _:
                    pass

    async def _write(self, step: Callable[[Tables], T]) -> T:
        """Write for an agent. A store that a later server took over is our trouble, not a fence of the agent's."""

        def answer(tables: Tables) -> T | Stale:
            try:
                return step(tables)
            except Stale as exc:
                return exc  # of a check before anything was written

        try:
            found = await self._means.store.write(answer)
        except (Stale, Conflict) as exc:
            raise Broken(exc.message) from exc
        if isinstance(found, Stale):
            raise found
        return found

    async def vouched(self, relay: Relay) -> None:
        """See ports.Desk."""
        await self._means.store.read(lambda tables: admission.vouched_for(tables, relay))

    async def enrol(self, enrol: Enrol) -> tuple[str, str]:
        """Agent id and token for a valid code."""
        id, token, now = self._means.chance.name("a"), self._means.chance.secret(), self._means.clock.now()
        await self._write(lambda tables: admission.enrol(tables, enrol, id=id, token=token, now=now))
        return id, token

    async def admit(
        self, hello: Hello, *, relay: Relay | None, session: str, probe: Callable[[str], Awaitable[bool]]
    ) -> Admitted:
        """See ports.Desk."""
        store, now = self._means.store, self._means.clock.now()
        agent = await store.read(lambda tables: admission.authenticate(tables, hello, relay))
        is_another = (agent.ledger, agent.boot_id) != (hello.ledger, hello.boot_id)
        if agent.is_connected and is_another and await probe(agent.id):
            await self._write(lambda tables: admission.shut_out(tables, agent, now=now))
            raise Refused(f"agent {agent.name}: another agent answers to this identity; both are shut out")
        if store.epoch < hello.epoch <= admission.LARGEST_COUNT and relay is None:
            await store.raise_epoch(hello.epoch)
            await self._drop_others(agent.id)
        settled = await self._write(lambda tables: admission.settle(tables, agent, hello, session=session, now=now))
        deliver, finished = await self._deliveries(settled)
        welcome = Welcome(
            session=session,
            heartbeat=self._means.configuration().server.heartbeat,
            epoch=store.epoch,
            server_time=now,
            fences=settled.fences,
            forget=(*settled.forget, *finished),
            deliver=deliver,
        )
        log.info("agent said hello", extra={"agent": agent.id, "session": session})
        return Admitted(agent=agent.id, session=session, welcome=welcome)

    async def _drop_others(self, agent: str) -> None:
        """The epoch was raised: sessions that were welcomed under the one before would be told stale commands."""
        for other in await self._means.store.read(lambda tables: tables.agents.where()):
            if other.is_connected and other.id != agent:
                self._means.links.drop(other.id, "the epoch was raised: say hello again")

    async def _deliveries(self, settled: admission.Settled) -> tuple[tuple[Deliver, ...], list[str]]:
        """Where each known task's output goes on, by what is on disk; and the tasks that we have whole."""
        deliver: list[Deliver] = []
        finished: list[str] = []
        for id, command in settled.known.items():
            there = await lengths(self._means.archive, command)
            if not command.is_open and all(there.get(name, 0) >= size for name, size in command.outputs.items()):
                finished.append(id)
                continue
            deliver += [Deliver(task_id=id, stream=stream, offset=length) for stream, length in there.items()]
        return tuple(deliver), finished

    async def outgoing(self, agent: str, session: str, *, limit: int) -> list[Command]:
        """Queued commands, durably `sent` now; one whose fence is over is never sent."""
        now = self._means.clock.now()
        faults.at("commanding.sending")
        sent = await self._write(lambda tables: send(tables, agent, session, limit=limit, now=now))
        faults.at("commanding.sent")
        return sent

    async def unanswered(self, agent: str, session: str) -> list[Command]:
        """Sent, and without an answer."""
        return await self._means.store.read(
            lambda tables: (
                tables.commands.where(agent=agent, state=commands.State.SENT)
                if _is_live_session(tables, agent, session)
                else []
            )
        )

    async def answered(
        self, agent: str, command: str, *, result: Mapping[str, object] | None, code: str, message: str
    ) -> None:
        """The direct response to a command."""
        now = self._means.clock.now()
        await self._write(
            lambda tables: answer(tables, agent, command, result=result, code=code, message=message, now=now)
        )
        faults.at("commanding.answered")

    async def told(self, agent: str, status: Status) -> None:
        """A task's status; the last one is final."""
        now = self._means.clock.now()
        faults.at("commanding.told")
        await self._write(lambda tables: tell(tables, agent, status, now=now))
        faults.at("commanding.recorded")

    async def output(self, agent: str, output: Output) -> int:
        """Append to the archive, times first: a line without its time would never get one."""
        task = self._tasks.get(output.task_id) or await self._look_up(agent, output.task_id)
        command = task.command
        if command.agent != agent:
            raise Refused(f"{output.task_id}: not a task of this agent")
        if command.environment and self._fences.get(command.environment, command.fence) != command.fence:
            raise Stale(f"{output.task_id}: fence {command.fence} of {command.environment} is over")
        name = stream_name(command, output.stream)
        if output.offset > task.lengths.get(output.stream, 0):
            # A piece that was cut off while it was being stored is stored all the same: ask what is there.
            task = await self._look_up(agent, output.task_id)
        task.check_sizes(output)
        if output.offset > task.lengths.get(output.stream, 0):
            # Before its times are noted: a gap that is told again and again would fill the index.
            raise Refused(f"{name}: offset {output.offset} is beyond its {task.lengths.get(output.stream, 0)} bytes")
        if output.times and output.offset + len(output.data) > task.lengths.get(output.stream, 0):
            await self._note_times(command, output)
        length = await self._means.archive.append(name, output.offset, output.data)
        task.note(output.stream, length)
        faults.at("commanding.stored")
        self._grew(name, length)
        if command.run and self._is_whole(output.task_id, output.stream):
            self._stir(command.run)
        return length

    def _is_whole(self, id: str, stream: str) -> bool:
        """Whether a run may have waited for just this piece: its task has ended (by now) and the stream is all there.

        A final status overtakes up to a megabyte of output, and a look at the run for each piece of it costs more than
        storing the piece.
        """
        task = self._tasks.get(id)
        return task is None or (not task.command.is_open and task.lacks_nothing_of(stream))

    async def _look_up(self, agent: str, id: str) -> "_Task":
        """The task with what is stored of it, remembered until others push it out."""

        def look(tables: Tables) -> tuple[Command, int | None]:
            command = tables.commands.find(id)
            if command is None or command.agent != agent:
                raise Refused(f"{id}: not a task of this agent")
            environment = tables.environments.find(command.environment) if command.environment else None
            return command, environment.fence if environment else None

        try:
            while True:
                self._looked_up.add(id)
                command, fence = await self._means.store.read(look)
                there = await lengths(self._means.archive, command)
                if id in self._looked_up:
                    break  # no write to it came meanwhile
        finally:
            self._looked_up.discard(id)
        if fence is not None:
            self._fences.setdefault(command.environment, fence)
        if len(self._tasks) >= REMEMBERED:
            self._tasks.pop(next(iter(self._tasks)))
        self._tasks[id] = _Task(_light(command), there)
        return self._tasks[id]

    async def _note_times(self, command: Command, output: Output) -> None:
        """The index beside a log: a line `<offset> <moment>` for each piece, at most one a byte."""
        name = times_name(command, output.stream)
        if not name:
            return
        end = output.offset + len(output.data)
        times = [one for one in output.times if output.offset <= one[0] < end][: len(output.data)]
        lines = "".join(f"{offset} {moment.isoformat(timespec='milliseconds')}\n" for offset, moment in times)
        await self._means.archive.append(name, await self._means.archive.length(name) or 0, lines.encode())

    async def alerted(self, agent: str, alert: Alert) -> Heard:
        """Something a person should know."""
        now = self._means.clock.now()
        return await self._write(lambda tables: alerting.tell(tables, agent, alert, now=now))

    async def logged(self, agent: str, entries: Sequence[Mapping[str, object]]) -> None:
        """Keep the last of an agent's own lines."""
        self._grew(noting.place(agent), await noting.note(self._means.archive, agent, entries))

    async def rotate(self, agent: str, token: str) -> None:
        """See ports.Desk."""

        def step(tables: Tables) -> None:
            row = need(tables.agents, agent, "agent")
            tables.agents.swap(row, replace(row, new_token=access.digest(token)))

        await self._write(step)

    async def left(self, agent: str, session: str) -> None:
        """The session is over; a newer one is not touched."""
        now = self._means.clock.now()

        def step(tables: Tables) -> None:
            row = tables.agents.find(agent)
            if row is not None and row.session == session:
                tables.agents.swap(row, replace(row, session="", seen=now))

        await self._write(step)


_LIMITS = ("output_limit", "file_limit", "total_limit", "names_limit")


def _light(command: Command) -> Command:
    """The command without what is of no use here: thousands are remembered, and a script may be long."""
    return replace(command, params={name: value for name, value in command.params.items() if name in _LIMITS})


class _Task:
    """A task whose output is under way: its command, and how much of each of its streams is stored."""

    def __init__(self, command: Command, lengths: Mapping[str, int]) -> None:
        self.command = command
        self.lengths = dict(lengths)
        self._total = sum(lengths.values())

    def note(self, stream: str, length: int) -> None:
        """So much of a stream is stored now."""
        self._total += length - self.lengths.get(stream, 0)
        self.lengths[stream] = length

    def lacks_nothing_of(self, stream: str) -> bool:
        """Whether as much of a stream is stored as its ended task said that there is."""
        return self.lengths.get(stream, 0) >= self.command.outputs.get(stream, 0)

    def check_sizes(self, output: Output) -> None:
        """The limits are the agent's to keep; what goes beyond them is refused here by name."""
        end = output.offset + len(output.data)
        if self.command.method != COLLECT:
            most = self._limit("output_limit", LARGEST_LOG)
            if end > most + LAST_WORDS:
                raise Refused(f"{output.stream}: {end} bytes, at most {most} are taken")
            if output.stream not in self.lengths and len(self.lengths) >= MOST_STREAMS:
                raise Refused(f"{output.stream}: at most {MOST_STREAMS} streams are taken")
            return
        most, total, files = (self._limit(name, LARGEST_LOG) for name in ("file_limit", "total_limit", "names_limit"))
        known = self.lengths.get(output.stream)
        if end > most:
            raise Refused(f"{output.stream}: {end} bytes, at most {most} are taken")
        if known is None and len(self.lengths) >= files:
            raise Refused(f"{output.stream}: at most {files} files are taken")
        if self._total + max(0, end - (known or 0)) > total:
            raise Refused(f"{output.stream}: at most {total} bytes are taken of all files")

    def _limit(self, name: str, default: int) -> int:
        limit = self.command.params.get(name, _default(self.command.method, name))
        return limit if isinstance(limit, int) else default


def _default(method: str, name: str) -> object:
    """What the table says of a param that was not given."""
    row = methods.METHODS.get(method)
    return next((param.default for param in row.params if param.name == name), None) if row is not None else None


_BULK = frozenset({"spec", "chain"})


def _without_bulk(params: Mapping[str, object]) -> Mapping[str, object]:
    """What machines and images are made of is long, and of no use once that is over."""
    return {name: value for name, value in params.items() if name not in _BULK} if _BULK & params.keys() else params


def _is_live_session(tables: Tables, agent: str, session: str) -> bool:
    row = tables.agents.find(agent)
    return row is not None and row.session == session


def send(tables: Tables, agent: str, session: str, *, limit: int, now: datetime) -> list[Command]:
    """Move queued commands to sent, in order of seq."""
    if not _is_live_session(tables, agent, session):
        return []
    sent: list[Command] = []
    # Until something can be sent or nothing is left: an empty answer means that there is nothing.
    while not sent and (queued := tables.commands.where(agent=agent, state=commands.State.QUEUED, limit=limit)):
        for command in sorted(queued, key=lambda one: one.seq):
            if not admission.is_live(tables, command):
                fail(tables, command, "stale", f"fence {command.fence} was over before it was sent", now=now)
                continue
            state = commands.LIFECYCLE.step(command.state, commands.Signal.SEND)
            sent.append(tables.commands.swap(command, replace(command, state=state, sent=now)))
    return sent


def _own(tables: Tables, agent: str, id: str) -> Command:
    """The command, if it is this agent's and its fence is live."""
    command = tables.commands.find(id)
    if command is None or command.agent != agent:
        raise Refused(f"{id}: not a task of this agent")
    if not admission.is_live(tables, command):
        raise Stale(f"{id}: fence {command.fence} of {command.environment} is over")
    return command


def answer(
    tables: Tables,
    agent: str,
    id: str,
    *,
    result: Mapping[str, object] | None,
    code: str,
    message: str,
    now: datetime,
) -> None:
    """Accepted, complete at once, or failed at once. A repeated answer changes nothing.

    Of a task that is known it may tell another state: how that ended, and with how much output, its status alone says.
    """
    try:
        command = _own(tables, agent, id)
    except (Refused, Missing):
        return  # nobody waits for it any more
    if not command.is_open:
        return
    if result is None:
        fail(tables, command, code, sentence(message), now=now)
    elif "task_id" in result and result.get("state") in tuple(TaskState):
        if result["state"] != TaskState.ACCEPTED:
            return
        state = commands.LIFECYCLE.step(command.state, commands.Signal.ACCEPT)
        tables.commands.swap(command, replace(command, state=state))
    else:
        state = commands.LIFECYCLE.step(command.state, commands.Signal.COMPLETE)
        tables.commands.swap(command, replace(command, state=state, result=dict(result), ended=now))


def tell(tables: Tables, agent: str, status: Status, *, now: datetime) -> None:
    """Record a task's status. What comes after the final one is a repetition."""
    command = _own(tables, agent, status.task_id)
    if not command.is_open:
        return
    match status.state:
        case TaskState.RUNNING:
            state = commands.LIFECYCLE.step(command.state, commands.Signal.PROGRESS)
            eta = status.eta.total_seconds() if status.eta is not None else None
            started = command.started or now
            after = replace(command, state=state, percent=status.percent, eta=eta, started=started)
        case TaskState.COMPLETE:
            state = commands.LIFECYCLE.step(command.state, commands.Signal.COMPLETE)
            after = replace(command, state=state, result=cast("Mapping[str, object]", status.result or {}), ended=now)
        case _:
            state = commands.LIFECYCLE.step(command.state, commands.Signal.FAIL)
            code = status.code.value if status.code else "failed"
            after = replace(
                command,
                state=state,
                code=code,
                message=sentence(status.msg or ""),
                result=cast("Mapping[str, object]", status.result or {}),
                ended=now,
            )
    if status.outputs:
        after = replace(after, outputs=dict(status.outputs))
    if not after.is_open and not after.by:
        after = replace(after, params=_without_bulk(after.params))
    tables.commands.swap(command, after)
    if not after.is_open:
        storing.heard(tables, agent, after.result)
