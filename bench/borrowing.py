"""Borrowers in a process of their own: keep-alive connections that acquire and release, as fast as they are answered.

Run as `python -m bench.borrowing PLAN`; PLAN and what is printed are JSON. An HTTP client made for people costs more
than the server that it asks, so the requests are written by hand.
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who borrows what, from where, and for how long."""

    port: int
    token: str
    pool: str
    clients: int
    warm_up: float
    seconds: float
    runs: int = 1
    """How many spans of `seconds` are counted, one after the other."""
    wait: float = 30.0
    """Seconds that a request may stand in the queue."""


@dataclass(frozen=True, kw_only=True)
class Borrowed:
    """Pairs of acquire and release that were answered, a second, in each span."""

    rates: tuple[float, ...]


class Borrower(asyncio.Protocol):
    """One connection: acquire, release, and again."""

    def __init__(self, plan: Plan, failed: asyncio.Future[None]) -> None:
        self.pairs = 0
        self._plan = plan
        self._failed = failed
        self._buffer = b""
        self._is_held = False
        self._acquire = self._request(
            "/api/v1/leases", json.dumps({"pool": plan.pool, "ttl": 600, "wait": plan.wait}).encode()
        )

    def _request(self, path: str, body: bytes) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._plan.port}\r\nAuthorization: Bearer {self._plan.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self._transport.write(self._acquire)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, gap, body = self._buffer.partition(b"\r\n\r\n")
        found = _LENGTH.search(head) if gap else None
        if found is None or len(body) < int(found[1]):
            return
        self._buffer = b""
        self._answered(int(head[9:12]), body)

    def _answered(self, status: int, body: bytes) -> None:
        if status != (200 if self._is_held else 201):
            self._fail(f"{status}: {body.decode(errors='replace')}")
        elif self._is_held:
            self._is_held = False
            self.pairs += 1
            self._transport.write(self._acquire)
        else:
            self._is_held = True
            lease = json.loads(body)
            fence = json.dumps({"fence": lease["fence"]}).encode()
            self._transport.write(self._request(f"/api/v1/leases/{lease['id']}/release", fence))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the server closed the connection: {exc}")

    def _fail(self, words: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(RuntimeError(words))


async def borrow(plan: Plan) -> Borrowed:
    """Open the connections, warm up, and count. A request that is refused ends it all."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    borrowers = []
    for _ in range(plan.clients):
        _, borrower = await loop.create_connection(lambda: Borrower(plan, failed), "127.0.0.1", plan.port)
        borrowers.append(borrower)
    await _pass(plan.warm_up, failed)
    rates = []
    for _ in range(plan.runs):
        before, began = sum(one.pairs for one in borrowers), time.perf_counter()
        await _pass(plan.seconds, failed)
        after, ended = sum(one.pairs for one in borrowers), time.perf_counter()
        rates.append((after - before) / (ended - began))
    return Borrowed(rates=tuple(rates))


async def _pass(seconds: float, failed: "asyncio.Future[None]") -> None:
    """Wait for: the time to pass; a borrower that cannot go on."""
    done, _ = await asyncio.wait({failed}, timeout=seconds)
    for each in done:
        each.result()


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(borrow(Plan(**json.loads(sys.argv[1])))))))
