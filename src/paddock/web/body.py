"""Bodies of the API: one strict parser for every route, keys known by name."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import Message, Receive, Scope

from paddock.settings.problems import suggest
from paddock.web.roles import API
from paddock.wire.framing import Malformed, load

MOST = 1024 * 1024
"""Bytes of a request's body that are taken."""


class TooLarge(Exception):
    """The body is longer than is taken."""


class WrongKind(Exception):
    """The body says that it is something else than JSON."""


class Unfit(ValueError):
    """The body is not what this route takes."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a route takes: an object with some of these keys, or nothing at all."""

    keys: frozenset[str]
    is_needed: bool
    """Whether there has to be a body."""


def of_shape(shape: type) -> Wanted:
    return Wanted(keys=frozenset(each.name for each in fields(shape)), is_needed=True)


_NOTHING = Wanted(keys=frozenset(), is_needed=False)


def wanted_by(routes: Iterable[BaseRoute]) -> Mapping[tuple[str, str], Wanted]:
    """For each route of the API, by method and template: the shape that its endpoint asks for, read off it once."""
    found = {}
    for route in routes:
        path, endpoint = str(getattr(route, "path", "")), getattr(route, "endpoint", None)
        if path.startswith(f"{API}/") and endpoint is not None:
            found.update({(method, path): _wanted(endpoint) for method in getattr(route, "methods", None) or ()})
    return found


def _wanted(endpoint: Callable[..., Any]) -> Wanted:
    asked = [each.annotation for each in inspect.signature(endpoint).parameters.values()]
    return next((of_shape(one) for one in asked if isinstance(one, type) and is_dataclass(one)), _NOTHING)


async def body_of(receive: Receive) -> bytes:
    """The whole body of a request; `TooLarge` as soon as it is."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > MOST:
            raise TooLarge
        return body
    parts, length = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        part = message.get("body", b"")
        length += len(part)
        if length > MOST:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


def read(body: bytes, scope: Scope, wanted: Wanted) -> Mapping[str, Any]:
    """The object in a body. `WrongKind` unless its header says JSON; `Unfit`, in words, for whatever does not fit."""
    if not body:
        if wanted.is_needed:
            raise Unfit("body: it is empty, a JSON object is wanted")
        return {}
    _check_kind(scope)
    try:
        value = load(body)
    except Malformed as exc:
        raise Unfit(f"body: {exc.why}") from exc
    if not value.keys() <= wanted.keys:
        wrong = next(key for key in value if key not in wanted.keys)
        raise Unfit(f"body: unknown key {ascii(wrong)[:80]}{suggest(wrong[:80], wanted.keys)}")
    return value


def _check_kind(scope: Scope) -> None:
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value == b"application/json" or value.partition(b";")[0].strip().lower() == b"application/json":
                return
            raise WrongKind(f"body: its Content-Type is {ascii(value.decode('latin-1'))[:80]}, not application/json")
    raise WrongKind("body: it has no Content-Type, application/json is wanted")


def check_length(scope: Scope) -> None:
    """`TooLarge` for a body that says it will be, before anybody waits for it."""
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or len(value) > 12 or int(value) > MOST):
            raise TooLarge


async def checked(scope: Scope, receive: Receive, wanted: Wanted | None) -> Receive:
    """Read the body here, where it can be judged before anything acts; the `receive` that hands it on.

    A page's form (`wanted` is None) is judged by its length alone.
    """
    body = await body_of(receive)
    if wanted is not None:
        read(body, scope, wanted)
    is_told = False

    async def replayed() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
