"""A small server for agents: it enrols, welcomes, relays, orders, and remembers everything it is told."""

import asyncio
import contextlib
import itertools
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from paddock.wire.hello import Deliver as Wanted
from paddock.wire.hello import Hello, Output, Relay, Status, TaskState, Welcome
from paddock.wire.messages import Code, Command, Failure, Success
from paddock.wire.session import Answered, Close, Deliver, Send, Session, Side

CODE, TOKEN = "code-1", "token-of-the-host-agent"


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True)
class Seat:
    """One session of an agent."""

    hello: Hello
    relay: Relay | None
    session: Session
    connection: ServerConnection


class Desk:
    """Agents by name: the host's is `host`, a machine's is `<environment>/<machine>`."""

    def __init__(self) -> None:
        self.epoch = 1
        self.port = 0
        self.seats: dict[str, Seat] = {}
        self.hellos: list[Hello] = []
        self.statuses: list[Status] = []
        self.finals: dict[str, list[Status]] = defaultdict(list)
        self.streams: dict[tuple[str, str], bytearray] = defaultdict(bytearray)
        self.times: list[tuple[int, datetime]] = []
        self.logs: list[Mapping[str, Any]] = []
        self.alerts: list[Mapping[str, Any]] = []
        self.alert_answer: Mapping[str, Any] = {"acknowledged": True, "repeat_after": None}
        self.connections: list[ServerConnection] = []
        self.forget: set[str] = set()
        self.fences: dict[str, int] = {}
        self.relays: list[Relay] = []
        self.tokens = {TOKEN}
        self.codes = {CODE: TOKEN}
        self.enrolments = 0
        self.refused: list[Hello] = []
        self.takes_status = True
        self.takes_output = True
        self.lose_answers = False
        self.answers_hello = True
        self.unheard = 0
        """So many hellos that are not answered, as if who says them hung from then on."""
        self.heartbeat = timedelta(seconds=5)
        self.drops_at_once = False
        self.retry_after: object = None
        self.unanswered: dict[str, tuple[str, Command]] = {}
        self._seqs = itertools.count(1)
        self._changed = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[Success | Failure]] = {}

    @contextlib.asynccontextmanager
    async def open(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["Desk"]:
        async with serve(self._serve, "127.0.0.1", port, ssl=tls, max_size=2 << 20, ping_interval=None) as server:
            self.port = _port(server)
            yield self

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/agent"

    # What a test asks for

    async def until(self, condition: Any, limit: float = 20) -> None:
        """Wait until something that this server is told makes the condition true."""
        async with asyncio.timeout(limit):
            while not condition():
                self._changed.clear()
                waiting = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({waiting}, timeout=0.05)
                waiting.cancel()

    async def here(self, name: str = "host", limit: float = 20) -> Seat:
        await self.until(lambda: name in self.seats, limit)
        return self.seats[name]

    def command(self, id: str, method: str, **params: Any) -> Command:
        return Command(id=id, method=method, params=params, seq=next(self._seqs), epoch=self.epoch)

    async def ask(self, command: Command, *, agent: str = "host", limit: float = 20) -> Success | Failure:
        """Send it and wait for its answer; after a reconnection it is sent again."""
        self.unanswered[command.id] = (agent, command)
        answer = self._waiting[command.id] = asyncio.get_running_loop().create_future()
        await self._send(await self.here(agent, limit), command)
        async with asyncio.timeout(limit):
            response = await asyncio.shield(answer)
        self.unanswered.pop(command.id, None)
        return response

    async def say(self, command: Command, *, agent: str = "host") -> None:
        """Send it, wait for nothing; it is sent again at each hello until it is answered."""
        self.unanswered[command.id] = (agent, command)
        await self._send(await self.here(agent), command)

    async def final(self, task: str, limit: float = 20) -> Status:
        await self.until(lambda: task in self.finals, limit)
        return self.finals[task][0]

    async def whole(self, task: str, stream: str = "out", limit: float = 20) -> bytes:
        """All bytes of a stream, once the final status has said how many."""
        status = await self.final(task, limit)
        length = status.outputs.get(stream, 0)
        await self.until(lambda: len(self.streams[task, stream]) >= length, limit)
        return bytes(self.streams[task, stream])

    async def drop_all(self) -> None:
        for connection in list(self.connections):
            connection.transport.abort()

    # Serving

    async def _serve(self, connection: ServerConnection) -> None:
        session = Session(side=Side.SERVER, heartbeat=self.heartbeat, now=now())
        self.connections.append(connection)
        state: dict[str, Any] = {"relay": None, "seat": None}
        try:
            async for text in connection:
                for act in session.receive(text, now()):
                    match act:
                        case Deliver(command=command):
                            await self._take(session, connection, command, state)
                        case Answered(request=request, response=response):
                            self._hear(request, response)
                        case Send(text=reply):
                            await connection.send(reply)
                        case Close():
                            return
        except ConnectionClosed:
            pass
        finally:
            self.connections.remove(connection)
            seat = state["seat"]
            for name, one in list(self.seats.items()):
                if one is seat:
                    del self.seats[name]
            self._changed.set()

    async def _take(self, session: Session, connection: ServerConnection, command: Command, state: Any) -> None:
        response: Success | Failure
        match command.method:
            case "enrol":
                token = self.codes.get(str(command.params["code"]))
                self.enrolments += 1
                if token and token != TOKEN:  # a test may have taken the usual one away
                    self.tokens.add(token)
                response = (
                    Success(id=command.id, result={"agent": "host", "token": token})
                    if token
                    else Failure(id=command.id, code=Code.REFUSED, msg="unknown code")
                )
            case "relay":
                relay = Relay.from_params(command.params)
                self.relays.append(relay)
                state["relay"] = relay
                response = Success(id=command.id, result={})
            case "hello":
                await self._welcome(session, connection, command, state)
                return
            case "task_status":
                response = self._status(command)
            case "output":
                response = self._output(command)
            case "token":
                self.tokens.add(str(command.params["new"]))
                response = Success(id=command.id, result={})
            case "log":
                self.logs += [command.params, *cast("list[Mapping[str, Any]]", command.params.get("more", []))]
                response = Success(id=command.id, result={})
            case "alert":
                self.alerts.append(command.params)
                response = Success(id=command.id, result=self.alert_answer)
            case _:
                response = Success(id=command.id, result={})
        self._changed.set()
        if not self.lose_answers:
            await connection.send(session.answer(response, now()))

    async def _welcome(self, session: Session, connection: ServerConnection, command: Command, state: Any) -> None:
        hello = Hello.from_params(command.params)
        relay: Relay | None = state["relay"]
        if relay is None and hello.token not in self.tokens:
            self.refused.append(hello)
            details = {} if self.retry_after is None else {"retry_after": self.retry_after}
            refused = Failure(id=command.id, code=Code.REFUSED, msg="unknown token", details=details)
            await connection.send(session.answer(refused, now()))
            return
        self.hellos.append(hello)
        if not self.answers_hello or self.unheard:
            self.unheard = max(0, self.unheard - 1)
            self._changed.set()
            return
        name = f"{relay.environment}/{relay.machine}" if relay else "host"
        seat = Seat(hello=hello, relay=relay, session=session, connection=connection)
        welcome = Welcome(
            session=f"session-{len(self.hellos)}",
            heartbeat=self.heartbeat,
            epoch=self.epoch,
            server_time=now(),
            fences=self.fences,
            forget=tuple(self.forget),
            deliver=tuple(
                Wanted(task_id=task, stream=stream, offset=len(data)) for (task, stream), data in self.streams.items()
            ),
        )
        await connection.send(session.answer(Success(id=command.id, result=welcome.params()), now()))
        if self.drops_at_once:
            self._changed.set()
            connection.transport.abort()
            return
        state["seat"] = self.seats[name] = seat
        self._changed.set()
        for agent, open_command in list(self.unanswered.values()):
            if agent == name:
                await self._send(seat, open_command)

    def _status(self, command: Command) -> Success | Failure:
        status = Status.from_params(command.params)
        if not self.takes_status:
            return Failure(id=command.id, code=Code.BUSY, msg="not now")
        self.statuses.append(status)
        if status.state is not TaskState.RUNNING:
            self.finals[status.task_id].append(status)
        return Success(id=command.id, result={})

    def _output(self, command: Command) -> Success | Failure:
        output = Output.from_params(command.params)
        data = self.streams[output.task_id, output.stream]
        if not self.takes_output:
            return Failure(id=command.id, code=Code.STALE, msg="its fence is over")
        if output.offset > len(data):
            return Failure(id=command.id, code=Code.REFUSED, msg="a gap")
        new = output.data[len(data) - output.offset :]
        data += new
        self.times += output.times
        return Success(id=command.id, result={"offset": len(data)})

    async def _send(self, seat: Seat, command: Command) -> None:
        with contextlib.suppress(ConnectionClosed):
            if command.id not in seat.session.unanswered:
                await seat.connection.send(seat.session.send_command(command, now()))

    def _hear(self, request: Command, response: Success | Failure) -> None:
        self.unanswered.pop(request.id, None)
        waiting = self._waiting.pop(request.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(response)
        self._changed.set()


def _port(server: Server) -> int:
    port = next(iter(server.sockets)).getsockname()[1]
    assert isinstance(port, int)
    return port
