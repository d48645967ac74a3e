"""The four shapes of a message (command, success, failure, fatal) and failure codes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from paddock.wire import framing
from paddock.wire.framing import JSON, Malformed

__all__ = [
    "JSON",
    "LARGEST_INTEGER",
    "MEANINGS",
    "VERSION",
    "Code",
    "Command",
    "Failure",
    "Fatal",
    "Malformed",
    "Message",
    "Success",
    "code_of",
    "digest",
    "encode",
    "parse",
]

VERSION = "1"
LARGEST_INTEGER = (1 << 63) - 1
"""What a store's integer column holds; seq, epoch, fences and offsets are never larger."""
_LONGEST_NAME = 200


class Code(StrEnum):
    """Why a command did not complete. The same words everywhere: wire, store, API, pages."""

    UNKNOWN_METHOD = "unknown_method"
    BAD_PARAMS = "bad_params"
    REFUSED = "refused"
    STALE = "stale"
    BUSY = "busy"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    UNBUILT = "unbuilt"


MEANINGS: Mapping[Code, str] = {
    Code.UNKNOWN_METHOD: "the other side does not know this method",
    Code.BAD_PARAMS: "a field of the params is missing or wrong; the message names its path",
    Code.REFUSED: "the other side may not or will not do this",
    Code.STALE: "the fence or the epoch of the command is over",
    Code.BUSY: "not now; the same may be asked again later",
    Code.INTERRUPTED: "it had started and nobody knows how it ended; it is not run again",
    Code.CANCELLED: "it was ended because someone asked for that",
    Code.EXPIRED: "it did not start within its time, or its record is pruned; it never runs",
    Code.TIMED_OUT: "its limit ended it",
    Code.FAILED: "it was tried and could not be done",
    Code.UNBUILT: "what it would be made of is not there and has to be built first; nothing was begun",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One side asks the other. `seq` rises per agent, `epoch` is the server's; a plain server sends neither."""

    id: str
    method: str
    # Params may hold tokens and secrets: they stay out of logs and tracebacks.
    params: Mapping[str, JSON] = field(repr=False)
    seq: int | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Success:
    """The answer to the command `id`."""

    id: str
    result: Mapping[str, JSON] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The command `id` was not done. `msg` is for a person; `details` are further fields of the error."""

    id: str
    code: Code
    msg: str
    details: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fatal:
    """The last words on a connection."""

    text: str


Message: TypeAlias = Command | Success | Failure | Fatal

_KINDS = ("method", "result", "error", "fatal_error")


def parse(text: str | bytes) -> Message:
    """One message, or Malformed with the place and the fact. Unknown fields are ignored."""
    fields = framing.load(text)
    kinds = [kind for kind in _KINDS if kind in fields]
    if len(kinds) != 1:
        raise Malformed("message", f"needs exactly one of {', '.join(_KINDS)}")
    if kinds == ["fatal_error"]:
        return Fatal(text=_text(fields, "fatal_error"))
    if fields.get("version") != VERSION:
        raise Malformed("message.version", f'not "{VERSION}"')
    name = _name(fields, "id")
    match kinds[0]:
        case "method":
            return Command(
                id=name,
                method=_name(fields, "method"),
                params=_object(fields, "params"),
                seq=_count(fields, "seq"),
                epoch=_count(fields, "epoch"),
            )
        case "result":
            return Success(id=name, result=_object(fields, "result"))
        case _:
            return _failure(name, _object(fields, "error"))


def encode(message: Message) -> str:
    """The message as one line of compact JSON. Raises Malformed if the other side would have to refuse it."""
    match message:
        case Fatal():
            return framing.dump({"fatal_error": message.text})
        case Command():
            fields: dict[str, JSON] = {"version": VERSION, "id": message.id, "method": message.method}
            if message.seq is not None:
                fields["seq"] = message.seq
            if message.epoch is not None:
                fields["epoch"] = message.epoch
            fields["params"] = message.params
            return framing.dump(fields)
        case Success():
            return framing.dump({"version": VERSION, "id": message.id, "result": message.result})
        case Failure():
            error = {**message.details, "msg": message.msg, "code": str(message.code)}
            return framing.dump({"version": VERSION, "id": message.id, "error": error})


def code_of(word: JSON) -> Code:
    """The code of this word. A newer version's word, or none (a plain server): it failed, and `msg` says how."""
    try:
        return Code(str(word))
    except ValueError:
        return Code.FAILED


def digest(command: Command) -> str:
    """Names what a command asks for: hex SHA-256 of method and params. Order of keys, seq and epoch do not count."""
    return hashlib.sha256(framing.canonical([command.method, command.params]).encode()).hexdigest()


def _failure(name: str, error: Mapping[str, JSON]) -> Failure:
    details = {key: value for key, value in error.items() if key not in ("msg", "code")}
    return Failure(id=name, code=code_of(error.get("code")), msg=_text(error, "msg", "message.error"), details=details)


def _text(fields: Mapping[str, JSON], key: str, where: str = "message") -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{where}.{key}", "not a text")
    return value


def _name(fields: Mapping[str, JSON], key: str) -> str:
    value = _text(fields, key)
    if not 0 < len(value) <= _LONGEST_NAME:
        raise Malformed(f"message.{key}", f"not of 1 to {_LONGEST_NAME} characters")
    if not value.isprintable():
        raise Malformed(f"message.{key}", "holds characters that do not print")
    return value


def _object(fields: Mapping[str, JSON], key: str) -> Mapping[str, JSON]:
    value = fields.get(key)
    if not isinstance(value, dict):
        raise Malformed(f"message.{key}", "not an object")
    return value


def _count(fields: Mapping[str, JSON], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_INTEGER:
        raise Malformed(f"message.{key}", f"not an integer of 0 to {LARGEST_INTEGER}")
    return value
