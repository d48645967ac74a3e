"""A keeper seen from the agent: gate, cancel, news of output, end; and found again.

Effects: idempotent. Words may be repeated and connections lost; the record `exit` alone says how it ended.
"""

import asyncio
import json
import os
import socket
import struct
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from paddock.core.errors import Broken
from paddock.hands import keeper, trees
from paddock.hands.control import address
from paddock.hands.exit import Exit, read_exit
from paddock.hands.trees import Identity

_ANSWERS_WITHIN = 10.0  # seconds for a keeper that lives to take a connection or to be gone


class Lost(Broken):
    """The keeper died and left no record. What it held may still run: look for it with `trees.marked`."""


class Silent(Broken):
    """The keeper lives and does not answer, as one that was stopped: it holds its task all the same."""


class Full(Broken):
    """No room on the disk for a keeper's records, or not yet for the last one's: nothing ran; it may be tried again."""


class _Line(asyncio.Protocol):
    """One connection to a keeper: turns its words into things that can be waited for."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard: asyncio.Future[Identity | None] = asyncio.get_running_loop().create_future()
        self.why = ""  # what it said instead of `held`
        self.kind = ""
        self.opened = asyncio.Event()
        self.left = asyncio.Event()
        self.news = asyncio.Event()
        self.over = asyncio.Event()
        self._waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._waiting = (self._waiting + data).split(b"\n")
        for line in lines:
            self._hear(line.decode("utf-8", "replace"))

    def _hear(self, line: str) -> None:
        match line.split():
            case ["held", pid, started]:
                if not self.heard.done():
                    self.heard.set_result(Identity(pid=int(pid), started=int(started)))
            case ["open"]:
                self.opened.set()
            case ["left"]:
                self.left.set()
            case ["more"]:
                self.news.set()
            case ["broken" | "full" | "refused" as word, *_]:
                self.kind = word
                self.why = line.removeprefix(f"{word} ")
            case _:
                pass  # `done` says what the end of the connection says too

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.heard.done():
            self.heard.set_result(None)
        for event in (self.opened, self.left, self.news, self.over):
            event.set()

    def say(self, word: str) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(word.encode("ascii") + b"\n")

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Held:
    """One keeper and our connection to it. Closing the connection after the gate was opened changes nothing."""

    def __init__(self, *, directory: Path, identity: Identity, line: _Line) -> None:
        self.directory = directory
        self.identity = identity
        self._line = line
        self._was_told_the_last = False
        self._reconnecting = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the gate was opened, as far as we heard, and the keeper still speaks to us."""
        return self._line.opened.is_set() and not self._line.over.is_set()

    async def open_gate(self) -> None:
        """Let the command run: only on the connection that forked it, once; again is no harm.

        Returns when the gate is open or the keeper is gone; which of them, `ended` tells.
        """
        self._line.say("go")
        await self._line.opened.wait()

    async def cancel(self, grace: timedelta) -> None:
        """Ask for the end of the whole tree: TERM, `grace`, KILL. Returns at once; `ended` waits for it. Idempotent."""
        if self._line.over.is_set():
            await self._reconnect()
        self._line.say(f"cancel {max(0.0, grace.total_seconds())}")

    async def more(self) -> bool:
        """Wait for output since the last call; False when the end has been told and nothing comes any more."""
        await self._line.news.wait()
        if not self._line.over.is_set() or await self._reconnect():
            self._line.news.clear()
            return True
        was_told, self._was_told_the_last = self._was_told_the_last, True
        return not was_told

    async def left(self) -> None:
        """Wait until the main process of a background task has ended, though others of its tree may go on."""
        await self._line.left.wait()

    async def ended(self) -> Exit:
        """Wait for the end. Lost if the keeper died without a record."""
        while True:
            await self._line.over.wait()
            if (ended := read_exit(self.directory)) is not None:
                return ended
            if await self._reconnect():
                continue  # it had only dropped us
            if (ended := read_exit(self.directory)) is not None:
                return ended
            raise Lost(f"{self.directory.name}: its keeper {self.identity.pid} died without an exit record")

    def close(self) -> None:
        """Let go of the connection. Before the gate is open this means that nothing will run."""
        self._line.close()

    async def _reconnect(self) -> bool:
        """Whether there is a line to the living keeper (again)."""
        async with self._reconnecting:
            if self._line.over.is_set():
                line = await _connect(self.directory, self.identity)
                if line is None:
                    return False
                self._line = line
            return True


def read_keeper(directory: Path) -> Identity | None:
    """Who was made to hold this directory's task, living or dead; None if nobody was in this boot of the machine."""
    path = directory / keeper.RECORD
    try:
        told = path.read_bytes()
        if not told.strip(b"\0"):
            return None  # its name appears with all of it: only a power cut takes that away again
        record = json.loads(told)
        if record["boot_id"] != keeper.boot_id():
            return None
        return Identity(pid=record["pid"], started=record["started"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise Broken(f"{path}: no keeper's record: {exc}") from exc


def read_group(directory: Path) -> Path | None:
    """The control group that a keeper has made for this directory's task; it may be gone."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        named = json.loads((directory / keeper.RECORD).read_bytes())["cgroup"]
        return None if named is None else Path(named)
    return None


async def attach(directory: Path) -> Held | None:
    """Take up the keeper of a task again, after our own restart; None if it is gone: then ask `read_exit`.

    A keeper whose gate was never opened is ending when its maker is gone, and is waited for.
    """
    identity = read_keeper(directory)
    if identity is None or not trees.is_alive(identity):
        return None
    line = await _connect(directory, identity)
    return None if line is None else Held(directory=directory, identity=identity, line=line)


async def _connect(directory: Path, identity: Identity) -> _Line | None:
    """A connection to a keeper that lives; None when it is gone. Silent if it neither answers nor goes."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _ANSWERS_WITHIN
    while trees.is_alive(identity):
        with suppress(OSError):  # refused or absent: it is leaving
            link = _dial(directory, identity)
            if link is not None:
                line = await take(link)
                await asyncio.wait([line.heard], timeout=max(0.0, deadline - loop.time()))
                if line.heard.done() and line.heard.result() is not None:
                    return line
                line.close()
        if loop.time() > deadline:
            raise Silent(f"{directory.name}: its keeper {identity.pid} does not answer")
        await asyncio.sleep(0.01)
    return None


def _dial(directory: Path, identity: Identity) -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link.connect(address(handle))
        finally:
            os.close(handle)
        credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[0] == identity.pid:
            return link
    except BaseException:
        link.close()
        raise
    link.close()
    return None


async def take(link: socket.socket) -> _Line:
    """Speak to a keeper over a socket that is connected already; the socket is the connection's from now on."""
    link.setblocking(False)  # noqa: FBT003 - the standard library's signature
    _, line = await asyncio.get_running_loop().create_unix_connection(_Line, sock=link)
    return line
