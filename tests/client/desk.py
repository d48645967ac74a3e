"""A server that lends out of memory: what a client hears, over HTTP or without it, and what goes wrong on request."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from paddock.wire import shapes

TOKEN = "secret-of-anna"
NOW = "2026-01-01T00:00:00.000Z"

MACHINES = (
    shapes.Machine(name="one", agent="a1", address="127.1.0.1"),
    shapes.Machine(name="two", agent="a2", address="127.1.0.2"),
)


def environment(id: str, **rest: Any) -> shapes.EnvironmentDetail:
    given: dict[str, Any] = {
        "id": id,
        "pool": "two-node",
        "host": "local",
        "state": "leased",
        "since": NOW,
        "fence": 7,
        "lease": "",
        "machines": MACHINES,
        "held_by": "",
        "hold_until": None,
        "retiring": False,
        "reason": "",
        "created": NOW,
        "history": (),
    }
    return shapes.EnvironmentDetail(**{**given, **rest})


def lease(id: str, **rest: Any) -> shapes.Lease:
    given: dict[str, Any] = {
        "id": id,
        "pool": "two-node",
        "holder": "anna",
        "owner": "anna",
        "run": "",
        "state": "queued",
        "environment": "",
        "fence": 0,
        "ttl": 60.0,
        "asked": NOW,
        "granted": None,
        "deadline": None,
        "ended": None,
        "reason": "",
    }
    return shapes.Lease(**{**given, **rest})


@dataclass
class Text:
    """What a command or a build prints, as far as it has got."""

    data: bytes = b""
    is_over: bool = False
    grew: threading.Condition = field(default_factory=threading.Condition)

    def say(self, data: bytes, *, is_over: bool = False) -> None:
        with self.grew:
            self.data += data
            self.is_over = is_over
            self.grew.notify_all()

    def after(self, offset: int, wait: float) -> tuple[bytes, dict[str, str]]:
        """The bytes from there on, as soon as there are some; and the headers that go with them."""
        with self.grew:
            self.grew.wait_for(lambda: len(self.data) > offset or self.is_over, wait)
            ended = "yes" if self.is_over else "no"
            return self.data[offset:], {"Paddock-Length": str(len(self.data)), "Paddock-Ended": ended}


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.problem = shapes.Problem(code=code, message=message, hint=hint)


@dataclass
class Desk:
    """Lends environment `e1` to whoever asks, after `queue` looks at the queue. Remembers every request."""

    queue: int = 0
    impossible: str = ""
    ttl: float | None = None
    """What is granted, whatever was asked for."""
    is_silent: bool = False
    """The connection ends without an answer."""
    revoked: bool = False
    """Renewals and releases are told that the fence is over."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    leases: dict[str, shapes.Lease] = field(default_factory=dict)
    on: Callable[[str, str], None] = lambda method, path: None
    extra: dict[tuple[str, str], object] = field(default_factory=dict)
    """(method, path) → shape, for what is not about leases."""
    texts: dict[str, Text] = field(default_factory=dict)
    """Path → bytes, for whoever asks over a socket."""

    # ---- what it was asked ----

    def count(self, method: str, ending: str) -> int:
        return sum(one == method and path.endswith(ending) for one, path in self.asked)

    def state(self) -> str:
        """Of the only lease."""
        (only,) = self.leases.values()
        return only.state

    # ---- answers ----

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any, token: str) -> tuple[int, object]:
        self.asked.append((method, path))
        try:
            self.on(method, path)
            found = self._answer(method, path.removeprefix("/api/v1"), body, token)
        except Refusal as exc:
            return exc.status, shapes.plain(shapes.Failure(error=exc.problem))
        return 200, None if found is None else shapes.plain(found)

    def _answer(self, method: str, path: str, body: Any, token: str) -> object:
        if (method, path) in self.extra:
            return self.extra[method, path]
        if method != "GET" and token != TOKEN:
            raise Refusal(401, "no_token", "request: it needs a token")
        match method, path.strip("/").split("/"):
            case "POST", ["leases"]:
                return self._acquire(body)
            case "GET", ["leases"]:
                return shapes.Leases(items=tuple(self.leases.values()))
            case "GET", ["leases", id]:
                return self._look(id)
            case "GET", ["leases", id, "why"]:
                return shapes.WhyLease(
                    lease=id, state="queued", asked="1s", waits_for="a host", ahead=1, next_free="", would_help=""
                )
            case "POST", ["leases", id, "renew"]:
                self._prove(id, body)
                return self.leases[id]
            case "POST", ["leases", id, "release"]:
                self._prove(id, body)
                self.leases[id] = replace(self.leases[id], state="released")
                return self.leases[id]
            case "POST", ["leases", id, "cancel"]:
                self.leases[id] = replace(self.leases[id], state="cancelled")
                return self.leases[id]
            case "GET", ["environments", "e1"]:
                return environment("e1")
        raise Refusal(404, "missing", f"{path}: there is none")

    def _acquire(self, body: Any) -> shapes.Lease:
        if body["pool"] != "two-node":
            raise Refusal(404, "missing", f"pool {body['pool']}: it is not configured")
        if self.impossible:
            raise Refusal(409, "refused", f"lease l1: {self.impossible}")
        made = lease("l1", ttl=self.ttl or body["ttl"], holder=body["holder"])
        self.leases["l1"] = made if self.queue else self._granted(made)
        return self.leases["l1"]

    def _look(self, id: str) -> shapes.Lease:
        if id not in self.leases:
            raise Refusal(404, "missing", f"lease {id}: there is none")
        if self.leases[id].state == "queued":
            self.queue -= 1
            if self.queue <= 0:
                self.leases[id] = self._granted(self.leases[id])
        return self.leases[id]

    def _granted(self, row: shapes.Lease) -> shapes.Lease:
        return replace(row, state="granted", environment="e1", fence=7, granted=NOW, deadline=NOW)

    def _prove(self, id: str, body: Any) -> None:
        if self.revoked or body["fence"] != self.leases[id].fence:
            raise Refusal(412, "stale", f"lease {id}: fence {body['fence']} is over, the current one is 9")

    # ---- ways to it ----

    def transport(self) -> httpx.MockTransport:
        def handle(request: httpx.Request) -> httpx.Response:
            if self.is_silent:
                raise httpx.ConnectError("refused", request=request)
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            body = json.loads(request.content) if request.content else None
            status, told = self.answer(request.method, request.url.path, dict(request.url.params), body, token)
            return httpx.Response(status) if told is None else httpx.Response(status, json=told)

        return httpx.MockTransport(handle)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The same over a real socket; its address."""
        desk = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if desk.is_silent:
                    self.close_connection = True
                    return
                path, _, query = self.path.partition("?")
                token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                pairs = dict(pair.split("=", 1) for pair in query.split("&") if "=" in pair)
                text = desk.texts.get(path.removeprefix("/api/v1"))
                headers: dict[str, str] = {}
                if text is not None:
                    status = 200
                    data, headers = text.after(int(pairs.get("offset", 0)), float(pairs.get("wait", 0)))
                else:
                    status, told = desk.answer(self.command, path, pairs, body, token)
                    data = b"" if told is None else json.dumps(told).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815 - the standard library's names

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
