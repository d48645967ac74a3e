"""An SSH server that speaks as much of Gerrit as Paddock asks for, and misbehaves on request.

It streams the lines it is given, answers `gerrit query` and `gerrit review --json`, and counts reviews. A relay stands
in front of it, so that a test can freeze the connection as a broken network does, or cut it at a byte.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

USER = "my-ci"


@dataclass(frozen=True, kw_only=True)
class Review:
    """One review that was posted."""

    change: int
    patchset: int
    message: str
    labels: Mapping[str, int]
    tag: str


@dataclass(kw_only=True)
class FakeGerrit:
    """Reachable at 127.0.0.1:`port` as `USER` with the key in the file `key`, inside of `serving`."""

    port: int
    host_key: str
    key: Path
    reviews: list[Review] = field(default_factory=list)
    changes: set[int] = field(default_factory=set)
    """The changes that exist."""
    streams: int = 0
    """How many times somebody began to listen."""
    commands: list[str] = field(default_factory=list)
    refusing: str = ""
    """What every review is refused with."""
    hiccup: str = ""
    """An internal trouble that every command ends with."""
    denying: str = ""
    """What a stream is refused with."""
    is_dying_after_review: bool = False
    """The next review is taken, and the connection ends before the answer."""
    garbling: str | None = None
    """What `gerrit query` answers instead of its rows."""
    _listening: set["asyncssh.SSHServerProcess[bytes]"] = field(default_factory=set)
    _connections: set[asyncssh.SSHServerConnection] = field(default_factory=set)
    _relays: set[asyncio.StreamWriter] = field(default_factory=set)
    _thaw: asyncio.Event = field(default_factory=asyncio.Event)
    _heard: asyncio.Condition = field(default_factory=asyncio.Condition)

    # -- what a test says --

    async def say(self, *lines: str, end: str = "\n") -> None:
        """Stream lines to whoever listens, and wait until they left."""
        for process in list(self._listening):
            for line in lines:
                process.stdout.write((line + end).encode())
                await process.stdout.drain()

    async def say_bytes(self, data: bytes) -> None:
        for process in list(self._listening):
            process.stdout.write(data)
            await process.stdout.drain()

    async def listened(self, times: int = 1) -> None:
        """Wait until somebody began to listen for that many times."""
        async with self._heard:
            await self._heard.wait_for(lambda: self.streams >= times and bool(self._listening))

    async def asked(self, times: int) -> None:
        """Wait until so many commands came, streams among them."""
        async with self._heard:
            await self._heard.wait_for(lambda: len(self.commands) >= times)

    def drop(self) -> None:
        """Cut every connection, without a word."""
        for writer in list(self._relays):
            writer.transport.abort()

    def end_streams(self) -> None:
        """End the streams politely, as a Gerrit does that is shut down."""
        for process in list(self._listening):
            process.exit(0)

    def freeze(self) -> None:
        """Carry nothing any more in either direction, and close nothing."""
        self._thaw.clear()

    def thaw(self) -> None:
        self._thaw.set()

    # -- what a client asks --

    async def answer(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        command = process.command or ""
        async with self._heard:
            self.commands.append(command)
            self._heard.notify_all()
        if self.hiccup:
            self._end(process, 128, f"fatal: internal server error: {self.hiccup}\n")
        elif command == "gerrit stream-events":
            await self._stream(process)
        elif command.startswith("gerrit query "):
            self._query(process, command)
        elif command.startswith("gerrit review --json "):
            await self._review(process, command)
        else:
            self._end(process, 1, f"{command}: not found\n")

    async def _stream(self, process: "asyncssh.SSHServerProcess[bytes]") -> None:
        if self.denying:
            self._end(process, 1, f"{self.denying}\n")
            return
        self._listening.add(process)
        async with self._heard:
            self.streams += 1
            self._heard.notify_all()
        try:
            await process.wait_closed()
        finally:
            self._listening.discard(process)

    def _query(self, process: "asyncssh.SSHServerProcess[bytes]", command: str) -> None:
        if self.garbling is not None:
            process.stdout.write(self.garbling.encode())
            process.exit(0)
            return
        number = int(command.rpartition("change:")[2])
        rows: list[object] = []
        if number in self.changes:
            comments = [
                {
                    "timestamp": 1,
                    "reviewer": {"name": "Me", "username": USER},
                    "message": f"Patch Set 1:\n\n{said.message}",
                }
                for said in self.reviews
                if said.change == number
            ]
            rows.append({"project": "p", "number": number, "comments": comments})
        rows.append({"type": "stats", "rowCount": len(rows)})
        for row in rows:
            process.stdout.write(json.dumps(row).encode() + b"\n")
        process.exit(0)

    async def _review(self, process: "asyncssh.SSHServerProcess[bytes]", command: str) -> None:
        said = json.loads(await process.stdin.read())
        change, _, patchset = command.split()[-1].partition(",")
        if self.refusing:
            self._end(process, 1, f"error: {self.refusing}\n\nfatal: one or more reviews failed; review output above\n")
        elif int(change) not in self.changes:
            self._end(process, 1, f'fatal: "{change}" no such change\n')
        else:
            self.reviews.append(
                Review(
                    change=int(change),
                    patchset=int(patchset),
                    message=said["message"],
                    labels=said.get("labels", {}),
                    tag=said.get("tag", ""),
                )
            )
            if self.is_dying_after_review:
                self.is_dying_after_review = False
                self.drop()
            else:
                process.exit(0)

    def _end(self, process: "asyncssh.SSHServerProcess[bytes]", code: int, words: str) -> None:
        process.stderr.write(words.encode())
        process.exit(code)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        """Carry one connection, both ways, while not frozen."""
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        self._relays |= {writer, inner_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, inner_writer))
                group.create_task(self._carry(inner_reader, writer))
        finally:
            self._relays -= {writer, inner_writer}
            writer.transport.abort()
            inner_writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._thaw.wait()
                target.write(data)
                await target.drain()
        target.transport.abort()


@contextlib.asynccontextmanager
async def serving(directory: Path, *, port: int = 0) -> AsyncIterator[FakeGerrit]:
    """A fake Gerrit on a free port of loopback; its client's key is put into the directory."""
    host = asyncssh.generate_private_key("ssh-ed25519")
    client = asyncssh.generate_private_key("ssh-ed25519")
    key = directory / "my-ci-key"
    key.touch(mode=0o600)
    key.write_bytes(client.export_private_key())
    authorized = directory / "authorized"
    authorized.write_bytes(client.export_public_key())
    gerrit = FakeGerrit(port=0, host_key=host.export_public_key().decode().strip(), key=key)
    gerrit.thaw()
    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host],
        authorized_client_keys=str(authorized),
        process_factory=gerrit.answer,
        encoding=None,
        config=None,
    )
    relays: set[asyncio.Task[None]] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.add(task)
        try:
            # Cancelled by us, at the end; asyncio would report a relay that says so.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await gerrit.relay(reader, writer, server.get_port())
        finally:
            relays.discard(task)

    front = await asyncio.start_server(relay, "127.0.0.1", port)
    gerrit.port = int(front.sockets[0].getsockname()[1])
    try:
        yield gerrit
    finally:
        gerrit.thaw()
        gerrit.drop()
        front.close()
        server.close()
        for task in list(relays):
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)
        await server.wait_closed()
