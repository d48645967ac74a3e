"""The hub: agents' WebSockets at `/agent`; it moves messages and decides nothing.

Effects: none (what has to last is the desk's; a session that is cut off is begun again by the agent)
"""

import asyncio
import contextlib
import logging
import secrets
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

from paddock.core.command import Command as Ordered
from paddock.core.errors import Conflict, PaddockError, Refused, Stale
from paddock.ports import Desk
from paddock.wire import methods
from paddock.wire.fields import BadParams
from paddock.wire.hello import Alert, Enrol, Hello, Output, Relay, Status
from paddock.wire.messages import JSON, Code, Command, Failure, Malformed, Success
from paddock.wire.methods import Toward, UnknownMethod
from paddock.wire.session import Act, Answered, Close, Deliver, Send, Session, Side

log = logging.getLogger(__name__)

HEARTBEAT = timedelta(seconds=15)
PIECES = 32
"""Messages of output that wait to be stored, and that are stored together; the rest waits in the connection."""
BATCH = 64
"""Commands that are taken from the queue at once."""
AT_ONCE = 256
"""Answers and statuses of one agent that wait for the store together: one flush makes all of them durable."""
SILENCE = 5.0
"""Seconds that an older session gets to answer before a newer one takes its identity."""
LONGEST_REASON = 120
"""Bytes that a WebSocket's close has for its reason."""
SLOW = 20.0
"""Seconds that a message may wait for a side that does not read; then the connection is cut."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Transmit = Callable[[MutableMapping[str, Any]], Awaitable[None]]


WIDEN = "paddock.widen"
"""What a transport that takes little from strangers puts into a scope's extensions: called after a good hello.
Spelt as in adapters.links.sockets, which this module does not know."""


def _nothing() -> None:
    """A transport without such a limit."""


class Gone(Exception):
    """The connection is over; only its own tasks see this."""


class Hub:
    """All live connections, by agent. Real for ports.Links; `attach` gives it its desk before it serves."""

    def __init__(self) -> None:
        self._desk: Desk | None = None
        self._live: dict[str, Connection] = {}
        self._all: set[Connection] = set()
        # Forgotten when the last connection that waits for its turn or has it lets go.
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def attach(self, desk: Desk) -> None:
        """Set the desk; the desk needs the hub's links, so neither can be made with the other."""
        self._desk = desk

    def nudge(self, agent: str) -> None:
        """See ports.Links."""
        if agent in self._live:
            self._live[agent].nudge()

    def drop(self, agent: str, reason: str) -> None:
        """See ports.Links."""
        if agent in self._live:
            self._live[agent].end(reason)

    async def close(self) -> None:
        """End every connection: the server stops, the agents dial again."""
        for connection in list(self._all):
            connection.end("the server is going away")

    @property
    def connected(self) -> int:
        """How many agents have a live session."""
        return len(self._live)

    async def __call__(self, scope: Scope, receive: Receive, send: Transmit) -> None:
        """Serve one WebSocket to its end."""
        if self._desk is None:
            raise AssertionError("hub: it serves before it has a desk")
        widen = scope.get("extensions", {}).get(WIDEN, _nothing)
        connection = Connection(self._desk, receive, send, self, widen=widen)
        self._all.add(connection)
        try:
            await connection.serve()
        finally:
            self._all.discard(connection)

    def register(self, connection: "Connection") -> None:
        """The connection's hello was accepted: an older one of the same agent is replaced."""
        older = self._live.get(connection.agent)
        self._live[connection.agent] = connection
        if older is not None and older is not connection:
            older.end("a newer session of this agent took over")

    def forget(self, connection: "Connection") -> None:
        if self._live.get(connection.agent) is connection:
            del self._live[connection.agent]

    def turn(self, identity: str) -> asyncio.Lock:
        """Connections of one identity are let in one after the other: the last one let in is the live one."""
        lock = self._turns.get(identity) or asyncio.Lock()
        self._turns[identity] = lock
        return lock

    async def probe(self, agent: str) -> bool:
        """Whether the agent's live session answers a ping."""
        live = self._live.get(agent)
        return live is not None and await live.answers()


def steady() -> datetime:
    """The loop's clock as a moment: steady, never sent, good for comparing."""
    return datetime.fromtimestamp(asyncio.get_running_loop().time(), UTC)


class Connection:
    """One WebSocket: receives, sends what is queued, and keeps the heartbeat."""

    def __init__(self, desk: Desk, receive: Receive, send: Transmit, hub: Hub, *, widen: Callable[[], object]) -> None:
        self._desk = desk
        self._widen = widen
        self._receive = receive
        self._send = send
        self._hub = hub
        self._session = Session(side=Side.SERVER, heartbeat=HEARTBEAT, now=steady())
        self._relay: Relay | None = None
        self._nudged = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._ended = asyncio.Event()
        self._answered = asyncio.Event()
        self._end_reason = ""
        self._admission: asyncio.Future[dict[str, JSON]] | None = None
        self._pieces: deque[tuple[Command, Output]] = deque()
        """Output that waits for its turn to be stored."""
        self._printed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._beside: set[asyncio.Task[None]] = set()
        """Answers and statuses that are being recorded, begun in the order in which they came."""
        self._sending = asyncio.Lock()
        self.agent = ""
        self._name = secrets.token_hex(6)
        self._epoch = 0

    def nudge(self) -> None:
        """There may be something to send."""
        self._nudged.set()

    def end(self, reason: str) -> None:
        """Close soon; idempotent."""
        self._end_reason = self._end_reason or reason
        self._ended.set()

    async def answers(self) -> bool:
        """Ping, and say whether anything came back in time."""
        self._answered.clear()
        ping = Command(id=f"probe-{secrets.token_hex(4)}", method="ping", params={})
        try:
            async with asyncio.timeout(SILENCE):
                await self._put(self._session.send_command(ping, steady()))
                await self._answered.wait()
        except (TimeoutError, Gone, Refused):
            return False
        return True

    async def serve(self) -> None:
        """Wait for: a message; something to send or to store; the heartbeat; somebody who ends it.

        The first to end ends all.
        """
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})
        duties = (self._hear(), self._order(), self._store(), self._beat(), self._watch())
        tasks = [asyncio.create_task(duty) for duty in duties]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is not None and not isinstance(error, Gone):
                    log.error("session ended badly", extra={"agent": self.agent}, exc_info=error)
        finally:
            # What is cut off here was not answered: the agent tells it again.
            tasks += self._beside
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()

    async def _leave(self) -> None:
        with contextlib.suppress(Exception):  # the other side may be gone already; there is nobody to tell
            async with asyncio.timeout(1):
                reason = self._end_reason.encode()[:LONGEST_REASON].decode(errors="ignore")
                await self._send({"type": "websocket.close", "code": 1000, "reason": reason})
        if self._admission is not None:
            # Cut off while it is being let in: that ends in order, or its session would stay recorded as live.
            await asyncio.wait([self._admission])
        if self.agent:
            self._hub.forget(self)
            await self._desk.left(self.agent, self._name)
            log.info("agent left", extra={"agent": self.agent, "session": self._name, "reason": self._end_reason})

    async def _hear(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                self._end_reason = self._end_reason or f"closed by the agent ({message.get('code', '')})"
                raise Gone
            text = message.get("text")
            if text is None:
                await self._act(self._session.refuse("a binary frame is no message"))
                continue
            self._answered.set()
            await self._act(self._session.receive(text, steady()))

    async def _beat(self) -> None:
        while True:
            due = self._session.next_due
            wait = 1.0 if due is None else max(0.01, (due - steady()).total_seconds())
            await asyncio.sleep(min(wait, 1.0))
            await self._act(self._session.due(steady()))

    async def _watch(self) -> None:
        await self._ended.wait()
        raise Gone

    async def _order(self) -> None:
        """After each welcome: what has no answer is sent again, then what is queued, as it comes."""
        while True:
            await self._nudged.wait()
            self._nudged.clear()
            if not self._session.is_welcome:
                continue
            if self._welcomed.is_set():
                self._welcomed.clear()
                for command in await self._desk.unanswered(self.agent, self._name):
                    await self._put_command(command)
            while commands := await self._desk.outgoing(self.agent, self._name, limit=BATCH):
                for command in commands:
                    await self._put_command(command)

    async def _put_command(self, ordered: Ordered) -> None:
        command = Command(
            id=ordered.id, method=ordered.method, params=_json(ordered.params), seq=ordered.seq, epoch=self._epoch
        )
        try:
            text = self._session.send_command(command, steady())
        except Malformed as exc:
            # No connection will ever carry it: it ends here, or it would end every session of this agent.
            await self._desk.answered(self.agent, ordered.id, result=None, code=Code.BAD_PARAMS, message=exc.message)
            return
        except Refused:
            return  # it has been sent and waits for its answer, or it will be sent after the next hello
        await self._put(text)

    async def _put(self, text: str) -> None:
        async with self._sending:
            try:
                async with asyncio.timeout(SLOW):
                    await self._send({"type": "websocket.send", "text": text})
            except TimeoutError:
                self.end("it did not read for too long")
                raise Gone from None
            except (OSError, RuntimeError) as exc:  # what a server says of a connection that is over
                self.end(f"cut off: {exc}")
                raise Gone from exc

    async def _act(self, acts: list[Act]) -> None:
        for act in acts:
            match act:
                case Send(text=text):
                    await self._put(text)
                case Close(reason=reason):
                    self._end_reason = self._end_reason or reason
                    raise Gone
                case Answered(request=request, response=response):
                    await self._begin(partial(self._take_answer, request, response))
                case Deliver(command=command) if command.method == "task_status":
                    await self._begin(partial(self._deliver, command))
                case Deliver(command=command) if command.method == "output" and self._session.is_welcome:
                    await self._take_piece(command)
                case Deliver(command=command):
                    if command.method == "hello" and self._beside:
                        await asyncio.wait(self._beside)  # what was said before it is recorded before it
                    await self._deliver(command)

    async def _begin(self, record: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Record beside the listening, so that many go into one flush; no more than AT_ONCE of them."""
        while len(self._beside) >= AT_ONCE:
            await asyncio.wait(self._beside, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(record())
        self._beside.add(task)
        task.add_done_callback(self._recorded)

    def _recorded(self, task: "asyncio.Task[None]") -> None:
        self._beside.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, Gone):
            log.error("session ended badly", extra={"agent": self.agent}, exc_info=error)
        self.end("what it said could not be recorded")

    async def _take_piece(self, command: Command) -> None:
        """Put output into the queue of what is to be stored; whoever sends faster than disks write waits."""
        try:
            # Stricter than the table, and its bytes are decoded once only.
            piece = Output.from_params(command.params)
        except BadParams as exc:
            await self._put(self._session.answer(_failure(command, exc, self.agent), steady()))
            return
        while len(self._pieces) >= PIECES:
            self._has_room.clear()
            await self._has_room.wait()
        self._pieces.append((command, piece))
        self._printed.set()

    async def _store(self) -> None:
        """Store output in the order in which it came: what came together and follows each other, with one flush."""
        while True:
            await self._printed.wait()
            self._printed.clear()
            while self._pieces:
                together = [self._pieces.popleft()]
                while self._pieces and _follows(together[-1][1], self._pieces[0][1]) and len(together) < PIECES:
                    together.append(self._pieces.popleft())
                self._has_room.set()
                await self._store_all(together)

    async def _store_all(self, together: list[tuple[Command, Output]]) -> None:
        try:
            length = await self._desk.output(self.agent, Output.joined([piece for _, piece in together]))
            answers: list[Success | Failure] = [Success(id=one.id, result={"offset": length}) for one, _ in together]
        except PaddockError as exc:
            if len(together) > 1:  # some of it may be taken: each piece for itself
                for one in together:
                    await self._store_all([one])
                return
            answers = [_failure(together[0][0], exc, self.agent)]
        for answer in answers:
            await self._put(self._session.answer(answer, steady()))

    async def _take_answer(self, request: Command, response: Success | Failure) -> None:
        if request.id.startswith("probe-"):
            return
        if isinstance(response, Success):
            await self._desk.answered(self.agent, request.id, result=response.result, code="", message="")
        else:
            await self._desk.answered(
                self.agent, request.id, result=None, code=response.code.value, message=response.msg
            )

    async def _deliver(self, command: Command) -> None:
        """Answer one command of the agent's; whatever it says, it gets an answer and nothing is raised at it."""
        is_opening = not self._session.is_welcome
        try:
            params = methods.check(command.method, command.params, toward=Toward.SERVER)
            response: Success | Failure = Success(id=command.id, result=await self._carry_out(command, params))
        except PaddockError as exc:
            response = _failure(command, exc, self.agent)
        await self._put(self._session.answer(response, steady()))
        if is_opening and isinstance(response, Failure):
            self._end_reason = f"refused: {response.msg}"
            raise Gone
        if command.method == "hello":
            self._widen()
            self._welcomed.set()
            self.nudge()

    async def _carry_out(self, command: Command, params: dict[str, JSON]) -> dict[str, JSON]:
        match command.method:
            case "task_status":
                await self._desk.told(self.agent, Status.from_params(command.params))
            case "log":
                await self._desk.logged(self.agent, _lines(params))
            case "alert":
                return (await self._desk.alerted(self.agent, Alert.from_params(params))).params()
            case "hello":
                return await self._admit(Hello.from_params(command.params))
            case "enrol":
                agent, token = await self._desk.enrol(Enrol.from_params(command.params))
                return {"agent": agent, "token": token}
            case "relay":
                relay = Relay.from_params(command.params)
                await self._desk.vouched(relay)
                self._relay = relay
            case "token":
                await self._desk.rotate(self.agent, str(params["new"]))
            case _:
                raise AssertionError(f"{command.method}: the table has it, the hub does not")
        return {}

    async def _admit(self, hello: Hello) -> dict[str, JSON]:
        self._admission = asyncio.ensure_future(self._let_in(hello, self._relay))
        try:
            return await asyncio.shield(self._admission)
        finally:
            if self._admission.done():
                self._admission = None

    async def _let_in(self, hello: Hello, relay: Relay | None) -> dict[str, JSON]:
        identity = f"{relay.environment}/{relay.machine}" if relay is not None else f"{hello.agent}"
        async with self._hub.turn(identity):
            admitted = await self._desk.admit(hello, relay=relay, session=self._name, probe=self._hub.probe)
            self.agent = admitted.agent
            self._epoch = admitted.welcome.epoch
            self._hub.register(self)
        return admitted.welcome.params()


_CODES: tuple[tuple[type[PaddockError], Code], ...] = (
    (UnknownMethod, Code.UNKNOWN_METHOD),
    (BadParams, Code.BAD_PARAMS),
    (Conflict, Code.BUSY),
    (Stale, Code.STALE),
    (Refused, Code.REFUSED),
    (PaddockError, Code.BUSY),
)
"""What an agent is told of what was raised on purpose; the first that fits."""


def _failure(command: Command, exc: PaddockError, agent: str) -> Failure:
    if not isinstance(exc, Refused):
        log.warning("command of an agent was put off", extra={"agent": agent, "reason": exc.message})
    code = next(code for kind, code in _CODES if isinstance(exc, kind))
    return Failure(id=command.id, code=code, msg=exc.message)


def _follows(before: Output, after: Output) -> bool:
    """Whether `after` goes on where `before` ends."""
    return (before.task_id, before.stream, before.end) == (after.task_id, after.stream, after.offset)


def _json(params: Mapping[str, object]) -> dict[str, JSON]:
    """Params come out of the store as the JSON that went in: this only says so."""
    return cast("dict[str, JSON]", dict(params))


def _lines(params: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    """The lines of one `log`; those that follow the first are checked like it. Raises BadParams."""
    more = params.get("more")
    others = more if isinstance(more, list) else []
    found = [params, *(methods.check("log", one) for one in others if isinstance(one, dict))]
    return [{"kind": "log", **{name: value for name, value in one.items() if name != "more"}} for one in found]
