"""The way out of an environment: an HTTP proxy to what is on a list, and nothing else.

Effects: none but connections, and lines in an access log.

CONNECT makes a tunnel; a request with a whole URL is passed on, its connection closed after the answer. Names are
resolved here, only if they are on the list, and never to an address of this host, its neighbours or nobody, unless the
list has that address itself: a name whose owner points it inward leads nowhere.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from paddock.core.egress import Address, Egress, is_outside, parse

HEAD = 32 << 10
_PIECE = 64 << 10
_HOP = {"connection", "proxy-connection", "keep-alive", "proxy-authorization", "te", "trailer", "upgrade", "host"}
_END = b"\r\n\r\n"
_USED_UP = "the environment has used up what it may take of its host"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one environment may take of its host: connections at once, bytes of one and of all, seconds."""

    connections: int = 256
    bytes_each: int = 16 << 30
    bytes_all: int = 256 << 30
    head: float = 10.0
    connect: float = 20.0
    idle: float = 600.0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a guest asks for: where to, and what to say there first; a tunnel says nothing."""

    method: str
    host: str
    port: int
    head: bytes = b""

    @property
    def shown(self) -> str:
        """For the log."""
        return f"{self.method} {self.host}:{self.port}"


class _Spent(Exception):
    """A bound is reached."""


class Proxy:
    """Serves connections of guests, whoever they come from."""

    def __init__(self, egress: Egress, *, bounds: Bounds, log: Callable[[str], None]) -> None:
        self.egress = egress
        self._bounds = bounds
        self._log = log
        self._open = 0
        self._moved = 0

    async def serve(self, guest: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a guest, to its end. Logged once."""
        began, sent, got = time.monotonic(), [0], [0]
        shown, status = "-", 400
        self._open += 1
        try:
            if self._open > 2 * self._bounds.connections:
                raise _Answer(503, _USED_UP)
            target = await self._asked(reader)
            shown = target.shown
            if self._open > self._bounds.connections or self._moved >= self._bounds.bytes_all:
                raise _Answer(503, _USED_UP)  # now that it can hear it
            upstream = await self._reach(target)
            status = 200
            await self._join(target, (reader, writer), upstream, sent, got)
        except _Answer as exc:
            status = exc.status
            await _say(writer, exc)
        except _Spent:
            status = 509
        except (OSError, EOFError, TimeoutError):
            status = status if status != 200 else 499
        finally:
            self._open -= 1
            writer.close()
            took = time.monotonic() - began
            self._log(f"{guest} {shown} {status} {sent[0]} {got[0]} {took:.3f}")

    async def _asked(self, reader: asyncio.StreamReader) -> Target:
        try:
            async with asyncio.timeout(self._bounds.head):
                head = await reader.readuntil(_END)
        except asyncio.LimitOverrunError:
            raise _Answer(431, f"the head of a request has at most {HEAD} bytes") from None
        except TimeoutError:
            raise _Answer(408, "no request came") from None
        return read(head)

    async def _reach(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(self._bounds.connect):
                addresses = await self._addresses(target)
                return await _dial(addresses, target.port)
        except TimeoutError:
            raise _Answer(504, f"{target.host}:{target.port} does not answer") from None
        except OSError as exc:
            raise _Answer(502, f"{target.host}:{target.port}: {exc.strerror or exc}") from None

    async def _addresses(self, target: Target) -> list[Address]:
        """Where to dial, or an answer of 403 that tells why not."""
        literal = parse(target.host)
        if literal is not None:
            is_listed = self.egress.covers(literal, target.port)
            if not is_listed and not (self.egress.spans(literal, target.port) and _is_elsewhere(literal)):
                raise _Answer(403, f"{target.host}:{target.port} is not on the list of this environment")
            return [literal]
        if not self.egress.names(target.host, target.port):
            raise _Answer(403, f"{target.host}:{target.port} is not on the list of this environment")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise _Answer(400, f"{target.host} is no name") from None
        addresses = [address for one in found if (address := parse(str(one[4][0]).partition("%")[0])) is not None]
        allowed = [one for one in addresses if self.egress.covers(one, target.port) or _is_elsewhere(one)]
        if not allowed:
            raise _Answer(403, f"{target.host} is an address of this host or its neighbours, and not on the list")
        return allowed

    async def _join(
        self,
        target: Target,
        guest: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        sent: list[int],
        got: list[int],
    ) -> None:
        try:
            if target.head:
                upstream[1].write(target.head)
            else:
                guest[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(guest[0], upstream[1], sent))
                both.create_task(self._pump(upstream[0], guest[1], got))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            upstream[1].close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: list[int]) -> None:
        while True:
            async with asyncio.timeout(self._bounds.idle):
                piece = await reader.read(_PIECE)
            if not piece:
                break
            count[0] += len(piece)
            self._moved += len(piece)
            if count[0] > self._bounds.bytes_each or self._moved > self._bounds.bytes_all:
                raise _Spent
            writer.write(piece)
            async with asyncio.timeout(self._bounds.idle):
                await writer.drain()
        with suppress(OSError):
            writer.write_eof()


class _Answer(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def read(head: bytes) -> Target:
    """What a request asks for, and how it is passed on."""
    first, *lines = head[: -len(_END)].split(b"\r\n")
    words = first.decode("latin-1").split(" ")
    if len(words) != 3 or not words[0].isalpha() or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise _Answer(400, "this is no request of HTTP/1")
    if any(line[:1] in b" \t" or b"\n" in line for line in lines):
        raise _Answer(400, "a header goes over one line")
    method, where, version = words
    try:
        if method == "CONNECT":
            parts = urlsplit(f"//{where}")
            if parts.port is None:
                raise _Answer(400, "CONNECT needs HOST:PORT")
        else:
            parts = urlsplit(where)
            if parts.scheme != "http":
                raise _Answer(400, "this is a proxy: ask for http://HOST/PATH, or CONNECT HOST:PORT")
        host, port = parts.hostname or "", 80 if parts.port is None else parts.port
    except ValueError:
        raise _Answer(400, "the address of the request is none") from None
    if not host or not host.isascii() or not host.isprintable() or " " in host or port == 0:
        raise _Answer(400, "the address of the request is none")
    if method == "CONNECT":
        return Target(method=method, host=host, port=port)
    path = parts.path or "/"
    path += f"?{parts.query}" if parts.query else ""
    kept = [line for line in lines if line.partition(b":")[0].strip().lower().decode("latin-1") not in _HOP]
    said = [
        f"{method} {path} {version}".encode("latin-1"),
        f"Host: {parts.netloc.rpartition('@')[2]}".encode("latin-1"),
    ]
    passed_on = b"\r\n".join([*said, *kept, b"Connection: close"]) + _END
    return Target(method=method, host=host, port=port, head=passed_on)


async def _say(writer: asyncio.StreamWriter, answer: _Answer) -> None:
    body = f"paddock: {answer.why}\n".encode()
    head = f"HTTP/1.1 {answer.status} {'Forbidden' if answer.status == 403 else 'Refused'}\r\n"
    head += f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with suppress(OSError):
        writer.write(head.encode() + body)
        await writer.drain()


def _is_elsewhere(address: Address) -> bool:
    """Whether it is public, and not one of this host's own: to those the kernel speaks from the very same address."""
    if not is_outside(address):
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return True  # not to be reached at all, which the dialling tells better
        return parse(probe.getsockname()[0]) != address


async def _dial(addresses: list[Address], port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    trouble: OSError = OSError("it has no address")
    for address in dict.fromkeys(addresses):
        try:
            return await asyncio.open_connection(str(address), port, limit=HEAD)
        except OSError as exc:
            trouble = exc
    raise trouble
