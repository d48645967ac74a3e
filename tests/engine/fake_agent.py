"""An agent that a test plays against the desk: it accepts and reports as agents do, and misbehaves on request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from paddock.core.command import Command
from paddock.core.errors import Refused
from paddock.core.host import Stored
from paddock.core.machine import Size
from paddock.ports import Admitted, Desk
from paddock.wire import methods
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM, Facts, Hello, Output, Relay, Status, TaskReport, TaskState
from paddock.wire.messages import Code
from paddock.wire.methods import Toward


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an agent does with a command. By default it runs to its end at once and exits 0."""

    exit: int = 0
    code: str = ""
    """It does not complete but fails with this code."""
    result: Mapping[str, Any] = field(default_factory=dict)
    output: bytes = b"hello\n"
    files: Mapping[str, bytes] = field(default_factory=dict)
    """For file.collect: name → content."""
    lengths: Mapping[str, int] | None = None
    """Said instead of the true lengths of its streams."""
    is_running: bool = False
    """It goes on running until `finish` or a cancel."""
    is_silent: bool = False
    """It is not even answered."""
    is_withheld: bool = False
    """Its output is announced and not sent, until `deliver`."""
    is_refused: bool = False
    """Its answer is the error itself: it was never accepted."""


class FakeAgent:
    """One agent, host's or machine's. `received` are the commands it was sent, in order, repetitions included."""

    def __init__(
        self,
        desk: Desk,
        *,
        id: str,
        token: str = "",
        relay: Relay | None = None,
        ledger: str = "ledger-1",
        boot_id: str = "boot-1",
    ) -> None:
        self.desk = desk
        self.id = id
        self.token = token
        self.relay = relay
        self.ledger = ledger
        self.boot_id = boot_id
        self.session = ""
        self.seq = 0
        self.epoch = 0
        self.fences: dict[str, int] = {}
        self.offers: tuple[str, ...] = ()
        """What it says in hello that it can do; empty: it does not say."""
        self.is_away = True
        self.is_answering_pings = True
        self.received: list[Command] = []
        self.cancelled: list[str] = []
        self.withheld: list[Output] = []
        self.running: dict[str, Command] = {}
        self.capacity: Size | None = None
        """What it says in hello that machines may have of it."""
        self.stored: Stored | None = None
        """What it says there that images and templates take of its disk."""
        self.carried: dict[tuple[str, str], int] = {}
        """(environment, machine) → fence, as its records have it: what machine.list tells."""
        self.kept: dict[tuple[str, str], int] = {}
        """The same of the copies of disks that it keeps."""
        self.executed: list[str] = []
        """Ids of the commands that it began to carry out: what a ledger keeps from happening twice."""
        self.finals: dict[str, tuple[list[Output], Status]] = {}
        """Task → what it was told at its end, as a spool keeps it until the server has it."""
        self._replies: dict[str, list[Reply]] = {}
        self._sessions = 0
        self._is_pulling = False
        self._is_called = False

    def on(self, what: str, *replies: Reply) -> None:
        """How it answers a method, or a script by its text: one after the other, the last one for ever."""
        self._replies[what] = list(replies)

    def methods(self) -> list[str]:
        """The methods of what it was sent, in order."""
        return [command.method for command in self.received]

    def scripts(self) -> list[str]:
        """The texts of the scripts it was sent, in order."""
        return [str(command.params["run"]) for command in self.received if command.method == "script.run"]

    async def say_hello(self, *, tasks: Sequence[TaskReport] = (), pull: bool = True) -> Admitted:
        """Begin a session; what waits is fetched, unless the test wants to do that itself."""
        self._sessions += 1
        session = f"{self.id}-s{self._sessions}"
        tasks = [*tasks, *(TaskReport(task_id=id, state=TaskState.COMPLETE) for id in self.finals)]
        admitted = await self.desk.admit(self.hello(tasks=tasks), relay=self.relay, session=session, probe=self._probe)
        self.session, self.is_away = session, False
        self.fences = {**self.fences, **admitted.welcome.fences}
        self.epoch = admitted.welcome.epoch
        for id in admitted.welcome.forget:
            self.finals.pop(id, None)
        for id in list(self.finals):
            await self._tell_the_end(id)
        if pull:
            for command in await self.desk.unanswered(self.id, session):
                await self._take_and_bear(command)
            await self.pull()
        return admitted

    def hello(self, *, tasks: Sequence[TaskReport] = ()) -> Hello:
        return Hello(
            agent=None if self.relay else self.id,
            token=None if self.relay else self.token,
            software="fake 1",
            boot_id=self.boot_id,
            ledger=self.ledger,
            methods=self.offers,
            facts=Facts(hostname=self.id, capacity=self.capacity, stored=self.stored),
            fences=self.fences,
            epoch=self.epoch,
            seq=self.seq,
            tasks=tuple(tasks),
        )

    async def _probe(self, agent: str) -> bool:
        return self.is_answering_pings

    async def leave(self) -> None:
        """The connection ends; the agent and its tasks go on."""
        self.is_away = True
        await self.desk.left(self.id, self.session)

    async def pull(self) -> None:
        """Fetch what is queued, until there is no more; safe to call at any time."""
        self._is_called = True
        if self._is_pulling:
            return
        self._is_pulling = True
        try:
            while self._is_called and not self.is_away:
                self._is_called = False
                while commands := await self.desk.outgoing(self.id, self.session, limit=64):
                    for command in commands:
                        await self._take_and_bear(command)
        finally:
            self._is_pulling = False

    async def _take_and_bear(self, command: Command) -> None:
        """Carry it out; a word that is refused is an answer like any other, and no end of the connection."""
        try:
            await self.take(command)
        except Refused:
            self.finals.pop(command.id, None)

    async def take(self, command: Command) -> None:
        """Carry out one command as the replies say. Its params are looked at as a real agent does: a test that orders
        what none would take fails.
        """
        if command.method in methods.METHODS:
            methods.check(command.method, cast("dict[str, JSON]", command.params), toward=Toward.AGENT, is_strict=True)
        self.received.append(command)
        self.seq = max(self.seq, command.seq)
        if command.environment:
            self.fences[command.environment] = max(command.fence, self.fences.get(command.environment, 0))
        if command.method == "task.cancel":
            await self._cancel(command)
            return
        if command.id in self.executed:
            await self.accept(command)
            await self._tell_the_end(command.id)
            return
        reply = self._reply(command)
        if reply.is_silent:
            return
        self.executed.append(command.id)
        # Whatever becomes of the connection while it tells this: the task runs.
        if reply.is_running:
            self.running[command.id] = command
        else:
            self.end(command, reply)
        await self.accept(command)
        await self.tell(command, TaskState.RUNNING)
        if not reply.is_running:
            await self.finish(command, reply)

    def _reply(self, command: Command) -> Reply:
        for key in (str(command.params.get("run", "")), command.method):
            replies = self._replies.get(key)
            if replies:
                return replies.pop(0) if len(replies) > 1 else replies[0]
        return Reply()

    async def accept(self, command: Command) -> None:
        accepted = {"task_id": command.id, "state": "accepted"}
        await self.desk.answered(self.id, command.id, result=accepted, code="", message="")

    async def finish(self, command: Command, reply: Reply | None = None) -> None:
        """End a task and tell it: its output, then its last status."""
        self.end(command, reply or Reply())
        await self._say_the_end(command.id)

    def end(self, command: Command, reply: Reply) -> None:
        """A task is over; what is to be told of it is kept until the server has it."""
        self.running.pop(command.id, None)
        if command.id in self.finals:
            return
        outputs = self._outputs(command, reply)
        lengths = {output.stream: len(output.data) for output in outputs}
        if reply.is_withheld:
            self.withheld += outputs
            outputs = []
        if not reply.code:
            self._carry(command)
        status = Status(
            task_id=command.id,
            state=TaskState.ERROR if reply.code else TaskState.COMPLETE,
            code=Code(reply.code) if reply.code else None,
            msg="so it was" if reply.code else None,
            result=(reply.result or None) if reply.code else {**self._result(command, reply), **reply.result},
            outputs=lengths if reply.lengths is None else reply.lengths,
        )
        self.finals[command.id] = (outputs, status)

    def _carry(self, command: Command) -> None:
        key = (command.environment, command.machine)
        match command.method:
            case "machine.build" | "machine.clean":
                self.carried[key] = command.fence
            case "machine.destroy":
                self.carried.pop(key, None)
            case "machine.save":
                self.carried.pop(key, None)
                self.kept[key] = command.fence
            case "machine.forget":
                self.kept.pop(key, None)

    def _result(self, command: Command, reply: Reply) -> dict[str, Any]:
        if command.method == "machine.list":
            listed = [
                {"environment": environment, "machine": machine, "fence": fence}
                for (environment, machine), fence in self.carried.items()
            ]
            kept = [
                {"environment": environment, "machine": machine, "fence": fence}
                for (environment, machine), fence in self.kept.items()
            ]
            return {"machines": listed, "saved": kept}
        return {"address": "127.0.0.1", "exit": reply.exit}

    async def _say_the_end(self, id: str) -> None:
        outputs, status = self.finals[id]
        for output in outputs:
            await self.desk.output(self.id, output)
        await self.desk.told(self.id, status)
        self.finals.pop(id, None)

    async def _tell_the_end(self, id: str) -> None:
        """Once more what it was told at its end; what is refused is forgotten."""
        try:
            if id in self.finals:
                await self._say_the_end(id)
        except Refused:
            self.finals.pop(id, None)

    def _outputs(self, command: Command, reply: Reply) -> list[Output]:
        if command.method == "script.run" and reply.output:
            moment = datetime(2026, 1, 1, tzinfo=UTC)
            return [Output(task_id=command.id, stream=LOG_STREAM, offset=0, data=reply.output, times=((0, moment),))]
        if command.method == "file.collect":
            return [Output(task_id=command.id, stream=name, offset=0, data=data) for name, data in reply.files.items()]
        return []

    async def deliver(self) -> None:
        """Send the output that was withheld."""
        while self.withheld:
            await self.desk.output(self.id, self.withheld.pop(0))

    async def tell(self, command: Command, state: TaskState, **rest: Any) -> None:
        await self.desk.told(self.id, Status(task_id=command.id, state=state, **rest))

    async def _cancel(self, command: Command) -> None:
        self.cancelled.append(command.target)
        target = self.running.pop(command.target, None)
        if target is not None:
            await self.tell(target, TaskState.ERROR, code=Code.CANCELLED, msg="cancelled")
        await self.desk.answered(self.id, command.id, result={}, code="", message="")
