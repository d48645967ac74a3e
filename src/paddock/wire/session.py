"""One end of a connection as rules: who speaks first, what is answered, what ends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

from paddock.core.errors import Refused
from paddock.wire import framing, messages
from paddock.wire.fields import BadParams
from paddock.wire.framing import FIRST_CONTACT, Malformed
from paddock.wire.hello import Welcome
from paddock.wire.messages import Command, Failure, Fatal, Success

UNANSWERED_PINGS = 3
"""So many in a row, and the connection is taken for dead."""
WELCOME_LIMIT = timedelta(seconds=60)
"""How long an agent waits for the answer to its first message: the server may be reading a large store."""
OPENINGS = frozenset({"hello", "enrol", "relay", "parked"})
"""What an agent may say before it is welcome."""
WHILE_PARKED = frozenset({"wake", "park", "ping"})
"""What a machine's host may say to it before it is anybody."""


class Side(StrEnum):
    """Whose end it is."""

    AGENT = "agent"
    SERVER = "server"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deliver:
    """Carry out this command and answer it."""

    command: Command


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A command of ours was answered."""

    request: Command
    response: Success | Failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Send:
    """Put this message on the link."""

    text: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Close:
    """Close the link; nothing more is received or sent."""

    reason: str


Act: TypeAlias = Deliver | Answered | Send | Close


class Session:
    """The state of one end. Its owner reads the link and the clock, and carries out the acts in their order.

    `now` only has to be steady: moments are compared with each other and never sent. Two ends of one link may differ in
    heartbeat; the agent's becomes the welcome's. Ids of commands are the owner's, those of pings begin with `ping-`.

    With `is_host` it is the end of a host for its own machine: the machine may be parked, and may take its time to
    boot. `is_parked` where the machine is known to be parked before it says so: a fork finds itself in the middle.
    """

    def __init__(
        self,
        *,
        side: Side,
        heartbeat: timedelta,
        now: datetime,
        welcome_limit: timedelta = WELCOME_LIMIT,
        is_host: bool = False,
        is_parked: bool = False,
    ) -> None:
        self._side = side
        self._is_host = is_host
        self._is_parked = is_parked
        self._heartbeat = heartbeat
        self._welcome_limit = welcome_limit
        self._asked: dict[str, Command] = {}
        self._opening: Command | None = None
        self._opened = now
        self._heard = now
        self._pings = 0
        self._unanswered = 0
        self._last_ping = now
        self._size = 0
        self._is_welcome = False
        self._is_relayed = False
        self._is_closed = False

    @property
    def is_welcome(self) -> bool:
        """Whether hello was accepted: commands may go both ways."""
        return self._is_welcome

    @property
    def is_relayed(self) -> bool:
        """Whether a host's agent vouched for this connection: what speaks on it is a machine's agent."""
        return self._is_relayed

    @property
    def is_parked(self) -> bool:
        """Whether the machine waits to be told who it is."""
        return self._is_parked

    @property
    def is_closed(self) -> bool:
        """Whether a Close was handed out."""
        return self._is_closed

    @property
    def heartbeat(self) -> timedelta:
        """Silence after which we ping."""
        return self._heartbeat

    @property
    def unanswered(self) -> Mapping[str, Command]:
        """Our commands that wait for their answer, by id; pings left out."""
        return {name: command for name, command in self._asked.items() if not _is_ping(command)}

    @property
    def next_due(self) -> datetime | None:
        """When due() will have something to do if nothing is received; None while only the owner can go on."""
        if self._is_closed:
            return None
        if self._is_welcome:
            return max(self._heard, self._last_ping) + self._heartbeat
        limit = self._opening_limit()
        return None if limit is None else self._opened + limit

    def receive(self, text: str | bytes, now: datetime) -> list[Act]:
        """What one message from the link asks for. Never raises: what is no message ends the session."""
        if self._is_closed:
            return []
        if not self._is_welcome and self._side is Side.SERVER and not self._is_host:
            self._size += framing.size(text)
            if self._size > FIRST_CONTACT.size:
                return self.refuse(f"more than {FIRST_CONTACT.size} bytes before hello was accepted")
        try:
            message = messages.parse(text)
        except Malformed as exc:
            return self.refuse(str(exc))
        self._heard = now
        self._unanswered = 0
        match message:
            case Command():
                return self._receive_command(message, now)
            case Fatal():
                return self._close(f"the other side refused: {message.text[:500]!a}")
            case _:
                return self._receive_answer(message, now)

    def send_command(self, command: Command, now: datetime) -> str:
        """The text of a command of ours. Refused before its time, or while its id still waits for an answer."""
        if self._is_closed:
            raise Refused(f"{command.method}: the session is closed")
        if command.id in self._asked:
            raise Refused(f"{command.id}: already asked on this session")
        if not self._is_welcome and not (self._is_parked and command.method in WHILE_PARKED):
            if self._side is Side.SERVER or command.method not in OPENINGS:
                raise Refused(f"{command.method}: not before hello is answered")
            if self._opening is not None:
                raise Refused(f"{command.method}: {self._opening.method} is not answered yet")
        text = messages.encode(command)
        if not self._is_welcome and self._side is Side.AGENT:
            self._opening = command
            self._opened = now
        self._asked[command.id] = command
        return text

    def answer(self, response: Success | Failure, now: datetime) -> str:
        """The text of our answer to a command that was delivered. A success to hello makes the session welcome."""
        text = messages.encode(response)
        if self._side is Side.SERVER and self._opening is not None and self._opening.id == response.id:
            self._end_opening(self._opening, response, now)
        return text

    def due(self, now: datetime) -> list[Act]:
        """What the passing of time asks for: a ping after silence; the end after three, or of a slow first contact."""
        due = self.next_due
        if due is None or now < due:
            return []
        if not self._is_welcome:
            if self._side is Side.AGENT:
                return self._close(f"no answer to the first message within {self._welcome_limit.total_seconds():g} s")
            return self.refuse(f"no hello within {FIRST_CONTACT.time.total_seconds():.0f} s")
        if self._unanswered >= UNANSWERED_PINGS:
            return self._close(f"{self._unanswered} pings were not answered")
        return [Send(text=self._ping(now))]

    def refuse(self, why: str) -> list[Act]:
        """Say why and close: for whatever the other side must not do."""
        if self._is_closed:
            return []
        text = messages.encode(Fatal(text=why.encode("ascii", "backslashreplace").decode()[:1000]))
        return [Send(text=text), *self._close(why)]

    def _receive_command(self, command: Command, now: datetime) -> list[Act]:
        if self._is_welcome:
            if command.method == "ping":
                return self._pong(command)
            if command.method in OPENINGS and self._side is Side.SERVER:
                return self._receive_again(command, now)
            return [Deliver(command=command)]
        if self._side is Side.AGENT:
            return self.refuse(f"{command.method}: not before hello is answered")
        if self._opening is not None:
            return self.refuse(f"{command.method}: not before {self._opening.method} is answered")
        if command.method not in OPENINGS or (self._is_relayed and command.method != "hello"):
            return self.refuse(f"{command.method}: not before hello")
        if command.method == "parked" and not self._is_host:
            return self.refuse("parked: nobody but its host says who a machine is")
        self._opening = command
        return [Deliver(command=command)]

    def _pong(self, ping: Command) -> list[Act]:
        try:
            return [Send(text=messages.encode(Success(id=ping.id, result=ping.params)))]
        except Malformed as exc:
            # Numbers like 1e9 grow when they are written back: a ping can fit where its answer does not.
            return self.refuse(str(exc))

    def _receive_again(self, command: Command, now: datetime) -> list[Act]:
        # A machine's agent on a serial line has no connection that could end: its restart is another hello.
        is_expected = command.method in ("hello", "parked") if self._is_host else command.method == "hello"
        if not (self._is_relayed or self._is_host) or not is_expected:
            return self.refuse(f"{command.method}: said before on this connection")
        self._is_welcome = False
        self._asked.clear()
        self._opening = command
        self._opened = now
        return [Deliver(command=command)]

    def _receive_answer(self, response: Success | Failure, now: datetime) -> list[Act]:
        request = self._asked.pop(response.id, None)
        if request is None or _is_ping(request):
            # Late or made up: nobody waits for it, and it is no reason to lose the connection.
            return []
        if self._side is Side.SERVER and request.method == "park" and isinstance(response, Success):
            self._is_welcome, self._is_parked = False, True
            self._asked.clear()
        if self._side is Side.AGENT and request is self._opening:
            try:
                self._end_opening(request, response, now)
            except BadParams as exc:
                return self.refuse(str(exc))
        return [Answered(request=request, response=response)]

    def _end_opening(self, command: Command, response: Success | Failure, now: datetime) -> None:
        self._opening = None
        if isinstance(response, Failure):
            # A stranger does not get more bytes or time by being refused.
            return
        self._opened = now
        self._size = 0
        if command.method == "hello":
            self._heartbeat = Welcome.from_params(response.result).heartbeat
            self._is_welcome = True
            self._is_parked = False
            self._unanswered = 0
            self._heard = self._last_ping = now
        elif command.method == "relay":
            self._is_relayed = True
        elif command.method == "parked":
            self._is_parked = True

    def _opening_limit(self) -> timedelta | None:
        if self._side is Side.AGENT:
            return None if self._opening is None else self._welcome_limit
        # Once the first message is here the server's own work takes the time; and a machine may take minutes to boot.
        is_patient = self._is_relayed or self._is_host
        return None if self._opening is not None or is_patient else FIRST_CONTACT.time

    def _ping(self, now: datetime) -> str:
        self._pings += 1
        self._unanswered += 1
        self._last_ping = now
        ping = Command(id=f"ping-{self._pings}", method="ping", params={})
        # Only the last ping is remembered, or a side that never answers would fill our memory.
        self._asked.pop(f"ping-{self._pings - 1}", None)
        self._asked[ping.id] = ping
        return messages.encode(ping)

    def _close(self, reason: str) -> list[Act]:
        self._is_closed = True
        return [Close(reason=reason)]


def _is_ping(command: Command) -> bool:
    return command.method == "ping" and command.id.startswith("ping-")
