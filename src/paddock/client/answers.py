"""What an answer of the server means: a shape, or the error that its code stands for."""

import json
import re
from collections.abc import Mapping
from typing import TypeVar, cast

import httpx

from paddock.client.calls import Call, Piece
from paddock.client.errors import Unreachable
from paddock.core.errors import Broken, Conflict, Missing, NotAllowed, NotOffered, PaddockError, Refused, Stale
from paddock.wire import shapes

S = TypeVar("S")


ERRORS: Mapping[str, type[PaddockError]] = {
    "bad_input": Refused,
    "no_token": NotAllowed,
    "not_allowed": NotAllowed,
    "missing": Missing,
    "unknown_method": NotOffered,
    "refused": Refused,
    "conflict": Conflict,
    "stale": Stale,
    "too_large": Refused,
    "wrong_method": Broken,
    "broken": Broken,
}


def read(call: Call[S], answer: httpx.Response) -> S:
    """The answer as the call's shape; raises what the server said, or Broken where it is no answer of Paddock's."""
    if answer.is_success and call.shape is Piece:
        return cast("S", _piece(call, answer))
    if answer.is_success:
        if not answer.content:
            return shapes.read(call.shape, {})
        return shapes.read(call.shape, _decode(answer))
    raise failure(answer)


def _piece(call: Call[S], answer: httpx.Response) -> Piece:
    length, ended = answer.headers.get("paddock-length", ""), answer.headers.get("paddock-ended")
    if not length.isdigit() or ended is None:
        raise Broken(f"{answer.request.url.path}: its answer is no output", hint="is it a Paddock server?")
    offset = int(str(call.query.get("offset", "0")))
    return Piece(data=answer.content, offset=offset, length=int(length), is_last=ended == "yes")


def failure(answer: httpx.Response) -> PaddockError:
    """The error that an answer which is no success stands for."""
    where = f"{answer.request.method} {answer.request.url.path}"
    try:
        problem = shapes.read(shapes.Failure, _decode(answer)).error
    except Broken:
        # A proxy in between, or something that is no Paddock at all.
        if answer.status_code in (502, 503, 504):
            return Unreachable(f"{_place(answer.request)}: it answers {answer.status_code}", hint=_HINT)
        return Broken(
            f"{where}: {answer.status_code} {answer.reason_phrase}".rstrip(),
            hint=f"is {_place(answer.request)} a Paddock server?",
        )
    return ERRORS.get(problem.code, Broken)(problem.message, hint=problem.hint)


_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_HINT = "is it running? paddock doctor looks; --server or PADDOCK_SERVER names another one"


def unreachable(exc: httpx.RequestError) -> Unreachable:
    """What a transport's error means to whoever asked."""
    why = (
        "no answer in time"
        if isinstance(exc, httpx.TimeoutException)
        else _ERRNO.sub("", str(exc)).strip() or type(exc).__name__
    )
    try:
        where = _place(exc.request)
    except RuntimeError:  # it never got as far as a request
        where = "server"
    return Unreachable(f"{where}: {why}", hint=_HINT)


def _place(request: httpx.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode('ascii', 'replace')}"


def _decode(answer: httpx.Response) -> object:
    try:
        decoded: object = json.loads(answer.content)
    except (ValueError, RecursionError) as exc:
        raise Broken(f"{answer.request.url.path}: its answer is no JSON", hint="is it a Paddock server?") from exc
    return decoded
