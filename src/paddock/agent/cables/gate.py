"""The gate of an environment: serves what its guests may ask of the host, nothing else.

Effects: idempotent; it serves what its orders say and keeps nothing but the access log.

A guest's uplink ends in a command of QEMU's, one for each connection, which hands its socket over to a socket of this
process and is gone. There is one such socket for each machine and purpose: which one it was says who asks.
"""

import array
import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from paddock.agent.cables import shapes
from paddock.agent.cables.hosted import enter
from paddock.agent.cables.orders import EVERY, Orders
from paddock.agent.cables.proxy import HEAD, Bounds, Proxy
from paddock.agent.cables.shapes import Facts
from paddock.agent.cables.signing import sign_in
from paddock.core.egress import Egress
from paddock.core.errors import Refused
from paddock.hands import trees

HAND = """\
import _socket as s, os, sys
os.chdir(os.path.dirname(sys.argv[0]))
c = s.socket(s.AF_UNIX, s.SOCK_DGRAM)
c.connect(sys.argv[1])
c.sendmsg([b"."], [(s.SOL_SOCKET, s.SCM_RIGHTS, bytes(4))])
"""
"""The command that hands its standard input over to the socket that its argument names, beside it. No import but
builtins: a guest waits for it at each connection.
"""
LOG_SIZE = 16 << 20
"""Bytes of an access log; what is older is kept once, as `.1`."""
_HEAD_LIMIT = 10.0
_ASKING = 64
"""Questions of metadata that are answered at once."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Log:
    """A line for each connection, with the time at which it ended."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, line: str) -> None:
        with suppress(OSError):
            with self._path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {line}\n")
                size = file.tell()
            if size > LOG_SIZE:
                self._path.rename(self._path.with_name(f"{self._path.name}.1"))


class Gate:
    """Serves sockets by name, and addresses, as its orders say."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._facts: dict[str, Facts] = {}
        self._macs: dict[str, str] = {}
        self._proxy: Proxy | None = None
        self._hands: dict[str, socket.socket] = {}
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._asking = asyncio.Semaphore(_ASKING)
        self._serving = asyncio.TaskGroup()
        self._changed = asyncio.Event()

    async def serve(self) -> None:
        """Until nobody wants it."""
        self._orders.watch()
        asyncio.get_running_loop().add_signal_handler(signal.SIGIO, self._changed.set)
        async with self._serving:
            while True:
                news = self._orders.news()
                if news is not None:
                    await self._change(news)
                # Waits for a change of the orders; sockets are served meanwhile.
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVERY):
                        await self._changed.wait()
                self._changed.clear()

    async def _change(self, news: dict[str, Any]) -> None:
        egress = Egress.read(news["egress"])
        if self._proxy is None:
            self._proxy = Proxy(egress, bounds=Bounds(**news.get("bounds", {})), log=Log(Path(news["log"])))
        self._proxy.egress = egress
        told: Mapping[str, Any] = news["guests"]
        self._facts = {guest: Facts.read(one["facts"]) for guest, one in told.items() if one["facts"]}
        self._macs = {mac: guest for guest, one in told.items() for mac in one["macs"]}
        wanted: dict[str, Serve] = {}
        for guest, one in told.items():
            if one["uplink"]:
                wanted[one["uplink"]] = self._uplink(guest)
            if one["metadata"]:
                wanted[one["metadata"]] = self._metadata(guest)
        self._listen_for_hands(wanted)
        await self._listen({(address, port) for address, port in news["listen"]})

    # Sockets that are handed over

    def _listen_for_hands(self, wanted: Mapping[str, Serve]) -> None:
        loop = asyncio.get_running_loop()
        for name in [name for name in self._hands if name not in wanted]:
            loop.remove_reader(self._hands[name])
            self._hands.pop(name).close()
            Path(name).unlink(missing_ok=True)
        for name, serve in wanted.items():
            if name in self._hands:
                continue
            Path(name).unlink(missing_ok=True)
            self._hands[name] = listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            listener.settimeout(0)
            listener.bind(name)
            loop.add_reader(listener, self._take, listener, serve)

    def _take(self, listener: socket.socket, serve: Serve) -> None:
        for handle in _handed(listener):
            if not stat.S_ISSOCK(os.fstat(handle).st_mode):
                os.close(handle)
                continue
            self._serving.create_task(self._begin(socket.socket(fileno=handle), serve))

    async def _begin(self, guest: socket.socket, serve: Serve) -> None:
        guest.settimeout(0)
        try:
            reader, writer = await asyncio.open_connection(sock=guest, limit=HEAD)
        except (OSError, ValueError):
            guest.close()
            return
        await serve(reader, writer)

    def _uplink(self, guest: str) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._proxy is None:
                raise AssertionError("it is made before any socket is")
            await self._proxy.serve(guest, reader, writer)

        return serve

    def _metadata(self, guest: str) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._answer(self._facts.get(guest), reader, writer)

        return serve

    # Addresses

    async def _listen(self, wanted: set[tuple[str, int]]) -> None:
        for place in [place for place in self._servers if place not in wanted]:
            self._servers.pop(place).close()
        for place in wanted - self._servers.keys():
            self._servers[place] = await asyncio.start_server(self._by_address, *place, limit=HEAD)

    async def _by_address(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Who asks is who has the card that the kernel answers to: not the address that it says it has."""
        address = str(writer.get_extra_info("peername")[0])
        mac = await asyncio.to_thread(neighbour, address)
        await self._answer(self._facts.get(self._macs.get(mac, "")), reader, writer)

    async def _answer(self, facts: Facts | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._asking, asyncio.timeout(_HEAD_LIMIT):
                head = await reader.readuntil(b"\r\n\r\n")
                words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
                said = shapes.MISSING
                if len(words) == 3 and facts is not None:
                    said = shapes.answer(facts, words[0], words[1])
                writer.write(_http(said, is_head=words[0] == "HEAD"))
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


def neighbour(address: str) -> str:
    """The hardware address of a neighbour, as the kernel knows it; empty where it knows none."""
    for line in Path("/proc/thread-self/net/arp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if fields[0] == address and fields[2] != "0x0":
            return fields[3].lower()
    return ""


def _handed(listener: socket.socket) -> list[int]:
    try:
        _, ancillary, _, _ = listener.recvmsg(16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return []
    handles = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handles.frombytes(data[: len(data) - len(data) % handles.itemsize])
    return handles.tolist()


def _http(said: shapes.Said, *, is_head: bool) -> bytes:
    body = said.body.encode()
    reason = {200: "OK", 404: "Not Found", 405: "Method Not Allowed"}[said.status]
    head = f"HTTP/1.1 {said.status} {reason}\r\nContent-Type: {said.kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + (b"" if is_head else body)


def main() -> None:
    """Serve the environment whose directory and the gate's name are the last two arguments."""
    directory, name = Path(sys.argv[-2]), sys.argv[-1]
    trees.call_myself("paddock-gate")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir(directory)  # names of sockets are short
    try:
        sign_in(directory, name)
    except Refused:
        return  # the other one serves it
    orders = Orders(directory / f"{name}.orders")
    namespace = orders.peek().get("namespace", "")
    if namespace:
        enter(Path(namespace))
    asyncio.run(Gate(orders).serve())
