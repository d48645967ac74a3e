"""Acquire and release, past every layer that costs."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from starlette.types import Receive, Scope, Send

from paddock.core import lease as leases
from paddock.core.access import Identity
from paddock.core.errors import PaddockError
from paddock.core.lease import Lease
from paddock.web.actions import Actions
from paddock.web.api import LONGEST_TTL, LONGEST_WAIT, problem_of
from paddock.web.body import body_of, of_shape, read
from paddock.web.roles import API
from paddock.web.spelling import iso
from paddock.wire.shapes import AcquireLease, Problem, ReleaseLease

ACQUIRE = f"{API}/leases"
RELEASE = f"{API}/leases/{{id}}/release"
_BEFORE = f"{API}/leases/"
_AFTER = "/release"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:+-]{0,199}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,255}")
_ACQUIRED, _RELEASED = of_shape(AcquireLease), of_shape(ReleaseLease)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


async def answer(send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = HEADERS) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, status: int, problem: Problem) -> None:
    told = {"error": {"code": problem.code, "message": problem.message, "hint": problem.hint}}
    await answer(send, status, _encode(told).encode())


def lease_to_release(path: str) -> str | None:
    """The id in a release's path; None for any other path."""
    if not (path.startswith(_BEFORE) and path.endswith(_AFTER)):
        return None
    id = path[len(_BEFORE) : -len(_AFTER)]
    return id if _ID.fullmatch(id) else None


class Hot:
    """The two requests that labs make all day. Who may ask was decided before, by the door."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions

    async def acquire(self, scope: Scope, receive: Receive, send: Send, identity: Identity) -> int:
        """Answer POST /leases; returns the status."""
        try:
            wanted = read(await body_of(receive), scope, _ACQUIRED)
            pool = _text(wanted, "pool")
            holder = _text(wanted, "holder", "") or identity.name
            ttl = None if wanted.get("ttl") is None else _seconds(wanted, "ttl", 3600.0, 1.0, LONGEST_TTL)
            wait = _seconds(wanted, "wait", 0.0, 0.0, LONGEST_WAIT)
        except ValueError as exc:
            return await _refuse(send, 422, Problem(code="bad_input", message=str(exc)))
        try:
            row = await self._actions.acquire(
                pool=pool,
                holder=holder,
                owner=identity.name,
                ttl=None if ttl is None else timedelta(seconds=ttl),
                wait=timedelta(seconds=wait) if wait else None,
            )
        except PaddockError as exc:
            return await _refuse(send, *problem_of(exc))
        if row.state is leases.State.IMPOSSIBLE:
            message = f"lease {row.id}: {row.reason}"
            return await _refuse(
                send, 409, Problem(code="refused", message=message, hint=f"paddock lease why {row.id}")
            )
        status = 202 if row.state is leases.State.QUEUED else 201
        await answer(send, status, _told(row))
        return status

    async def release(self, scope: Scope, receive: Receive, send: Send, identity: Identity, id: str) -> int:
        """Answer POST /leases/{id}/release; returns the status."""
        try:
            fence = read(await body_of(receive), scope, _RELEASED).get("fence")
            if type(fence) is not int or not 0 <= fence < 2**63:
                raise ValueError("fence: it is not a whole number from 0")
        except ValueError as exc:
            return await _refuse(send, 422, Problem(code="bad_input", message=str(exc)))
        try:
            row = await self._actions.release(id, fence=fence, identity=identity)
        except PaddockError as exc:
            return await _refuse(send, *problem_of(exc))
        await answer(send, 200, _told(row))
        return 200


async def _refuse(send: Send, status: int, problem: Problem) -> int:
    await refuse(send, status, problem)
    return status


def _told(row: Lease) -> bytes:
    """The same fields as telling.of_lease, without the way over a shape; a test compares them."""
    return _encode(
        {
            "id": row.id,
            "pool": row.pool,
            "holder": row.holder,
            "owner": row.owner,
            "run": row.run,
            "state": row.state.value,
            "environment": row.environment,
            "fence": row.fence,
            "ttl": None if row.ttl is None else row.ttl.total_seconds(),
            "asked": iso(row.asked),
            "granted": None if row.granted is None else iso(row.granted),
            "deadline": None if row.deadline is None else iso(row.deadline),
            "ended": None if row.ended is None else iso(row.ended),
            "reason": row.reason,
            "fork_of": row.fork_of,
        }
    ).encode()


def _text(wanted: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = wanted.get(name, default)
    if not isinstance(value, str) or not _TEXT.fullmatch(value) or (default is None and not value):
        raise ValueError(f"{name}: it is not one line of 1 to 255 characters")
    return value


def _seconds(wanted: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = wanted.get(name, default)
    # NaN fits no comparison, so it is refused like any number beyond the bounds.
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{name}: it is not between {least:g} and {most:g} seconds")
    return float(value)
