"""QEMU's monitor: commands and their answers, events, over a unix socket.

Effects: idempotent; a session ends without a trace, and what a command does is said where it is sent.

QEMU speaks with one client at a time. So sessions are short, and whoever finds another one there waits for it.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from paddock.core.errors import Broken
from paddock.hands.lines import reachable
from paddock.wire.framing import JSON

LIMIT = timedelta(seconds=30)
"""For a command, unless it says otherwise: a host may be very busy."""
_LONGEST = 1 << 22


class Gone(Broken):
    """QEMU has ended, or never listened."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What is asked. `files` are descriptors that go with it: QEMU gets copies."""

    execute: str
    arguments: Mapping[str, JSON] = field(default_factory=dict)
    files: Sequence[int] = ()

    @property
    def line(self) -> bytes:
        return json.dumps({"execute": self.execute, "arguments": dict(self.arguments)}).encode() + b"\n"


class Monitor:
    """A session. One task at a time."""

    def __init__(self, connected: socket.socket, name: str) -> None:
        self._socket = connected
        self._name = name
        self._rest = b""
        self._events: list[Mapping[str, JSON]] = []

    async def ask(self, execute: str, *, limit: timedelta = LIMIT, **arguments: JSON) -> JSON:
        """One command, and what it returns. Broken with QEMU's words if it refuses."""
        (found,) = await self.ask_all([Command(execute=execute, arguments=arguments)], limit=limit)
        return found

    async def ask_all(self, commands: Sequence[Command], *, limit: timedelta = LIMIT) -> list[JSON]:
        """Several, sent at once, carried out in order. Broken with the first refusal; those after it were tried too."""
        async with self._deadline(limit, commands[0].execute):
            for command in commands:
                await self._send(command)
            answers = [await self._next(lambda said: "return" in said or "error" in said) for _ in commands]
        for command, said in zip(commands, answers, strict=True):
            if "error" in said:
                why = said["error"]
                raise Broken(f"{self._name}: {command.execute}: {why['desc'] if isinstance(why, dict) else why}")
        return [said["return"] for said in answers]

    async def event(self, is_wanted: Callable[[Mapping[str, JSON]], bool], *, limit: timedelta) -> Mapping[str, JSON]:
        """The first event of this session that is wanted, also one of the past; it is not found again."""
        for said in self._events:
            if is_wanted(said):
                self._events.remove(said)
                return said
        async with self._deadline(limit, "an event"):
            return await self._next(lambda said: "event" in said and is_wanted(said))

    async def greet(self, *, limit: timedelta = LIMIT) -> None:
        """Until it takes commands. Gone if there is no QEMU any more."""
        await self.ask("qmp_capabilities", limit=limit)

    async def _send(self, command: Command) -> None:
        loop = asyncio.get_running_loop()
        try:
            if command.files:
                # So few bytes always fit; parts of them could not be sent with the descriptors.
                socket.send_fds(self._socket, [command.line], list(command.files))
            else:
                await loop.sock_sendall(self._socket, command.line)
        except OSError as exc:
            raise Gone(f"{self._name}: its monitor is gone: {exc.strerror}") from exc

    async def _next(self, is_wanted: Callable[[Mapping[str, JSON]], bool]) -> Mapping[str, JSON]:
        """What comes and is wanted; events that are not are kept for who asks for them."""
        while True:
            line = await self._line()
            try:
                said = json.loads(line)
            except ValueError as exc:
                raise Broken(f"{self._name}: its monitor says {line[:100]!r}") from exc
            if is_wanted(said):
                return dict(said)
            if "event" in said:
                self._events.append(said)

    async def _line(self) -> bytes:
        while b"\n" not in self._rest:
            try:
                got = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
            except OSError as exc:
                raise Gone(f"{self._name}: its monitor is gone: {exc.strerror}") from exc
            if not got or len(self._rest) > _LONGEST:
                raise Gone(f"{self._name}: its monitor is gone")
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    @asynccontextmanager
    async def _deadline(self, limit: timedelta, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                yield
        except TimeoutError as exc:
            raise Broken(f"{self._name}: its monitor does not answer {what} within {limit}") from exc


@asynccontextmanager
async def opened(path: Path, name: str) -> AsyncIterator[Monitor]:
    """A session with the QEMU that listens there, or will; it is not greeted yet. Gone where nobody does."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(0)
        try:
            with reachable(path) as address:
                connected.connect(address)
        except OSError as exc:
            raise Gone(f"{name}: does not run: {exc.strerror}") from exc
        yield Monitor(connected, name)
    finally:
        connected.close()
