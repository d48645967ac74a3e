"""Strict JSON and lines: what may stand on the wire at all, decided before anyone reads it.

A message is one JSON object of at most `MESSAGE_LIMIT` bytes of UTF-8 and `DEPTH_LIMIT` levels. Python's json is
kinder than the protocol (duplicate keys, NaN, 1e999, lone surrogates); each kindness is refused here in its own words.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeAlias, cast

from paddock.core.errors import Refused

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

MESSAGE_LIMIT = 1 << 20
"""Bytes of UTF-8 in one message."""
TRANSPORT_LIMIT = 2 << 20
"""Bytes that a transport takes as one message: more than a message may have, so that the refusal can be said."""
DEPTH_LIMIT = 64
"""Levels of objects and lists, the message itself included."""
SESSION_OPENING = "\n\n"
"""Begins a session on a serial line: the first newline ends half a message left over, the second is the empty line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstContact:
    """What a stranger may use up before its hello is accepted."""

    size: int
    time: timedelta


FIRST_CONTACT = FirstContact(size=64 << 10, time=timedelta(seconds=10))


class Malformed(Refused):
    """These bytes are no message. `where` names the place in the message, `why` the fact."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why


def size(text: str | bytes) -> int:
    """Bytes of UTF-8 that the text takes on the wire."""
    if isinstance(text, bytes) or text.isascii():
        return len(text)
    return len(text.encode("utf-8", "surrogatepass"))


def load(text: str | bytes) -> dict[str, JSON]:
    """One message from its text. Raises Malformed; never RecursionError, however the text is nested."""
    text = _unicode(text)
    if too_deep(text):
        raise Malformed("message", f"more than {DEPTH_LIMIT} levels")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as exc:
        raise Malformed("message", f"not JSON at character {exc.pos}, {exc.msg}") from None
    except ValueError:
        # What is left is Python's own guard against integers of thousands of digits (quadratic to convert).
        raise Malformed("message", "a number is too long") from None
    if not isinstance(value, dict):
        raise Malformed("message", "not an object")
    if _SURROGATE_ESCAPE.search(text):
        _refuse_lone_surrogates(value)
    return cast(dict[str, JSON], value)


def dump(value: Mapping[str, JSON]) -> str:
    """The text of one message: compact, one line. Raises Malformed for what the other side would have to refuse."""
    try:
        text = _ENCODER.encode(value)
        length = size(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise Malformed("message", "a lone surrogate") from None
    except RecursionError:
        raise Malformed("message", f"more than {DEPTH_LIMIT} levels") from None
    except (TypeError, ValueError) as exc:
        raise Malformed("message", f"not JSON, {exc}") from None
    if length > MESSAGE_LIMIT:
        raise Malformed("message", f"{length} bytes, the limit is {MESSAGE_LIMIT}")
    if too_deep(text):
        raise Malformed("message", f"more than {DEPTH_LIMIT} levels")
    return text


def canonical(value: JSON) -> str:
    """The one text of a value: keys sorted, compact. Equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def too_deep(text: str) -> bool:
    """Whether brackets nest past DEPTH_LIMIT; needs no valid JSON and no recursion.

    Output messages carry base64 and few brackets: counting them costs microseconds and settles nearly every message.
    """
    if text.count("{") + text.count("[") <= DEPTH_LIMIT:
        return False
    depth = 0
    for bracket in _NOT_BRACKETS.sub("", _STRING.sub("", text)):
        if bracket in "{[":
            depth += 1
            if depth > DEPTH_LIMIT:
                return True
        else:
            depth -= 1
    return False


class Lines:
    r"""Cuts a stream of bytes into lines ended by `\n`, in bounded memory.

    On a connection (`serial=False`) empty lines mean nothing and are dropped. On a serial line an empty line begins a
    session: it is handed out as `b""`, what came before it is thrown away, and before the first one nothing comes out,
    unless one is `joined` that began before.
    """

    def __init__(self, *, limit: int = MESSAGE_LIMIT, serial: bool = False, joined: bool = False) -> None:
        self._limit = limit
        self._serial = serial
        self._rest = bytearray()
        self._searched = 0
        self._is_opened = False
        """The last that came was the first newline of an opening that nothing came before, or its whole."""
        self._refusal: Malformed | None = None
        self._is_lost = serial and not joined

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their newline.

        A line over the limit raises Malformed. If whole lines stand before it they are handed out first and the next
        call raises (`feed(b"")` asks). A serial line then waits for its next session, a connection stays refused.
        """
        self._rest += data
        if self._refusal is None:
            lines = self._cut()
            if lines or self._refusal is None:
                return lines
        refusal = self._refusal
        if self._serial:
            self._refusal = None
            self.resync()
        else:
            self._rest.clear()
        raise refusal

    def resync(self) -> None:
        """Throw away everything up to the next empty line; what was fed and not handed out is searched for it too."""
        self._is_lost = True

    def _cut(self) -> list[bytes]:
        lines: list[bytes] = []
        start = 0
        while self._refusal is None and (end := self._rest.find(b"\n", max(start, self._searched))) >= 0:
            self._take(lines, start, end)
            start = end + 1
        del self._rest[:start]
        self._searched = len(self._rest)
        if self._refusal is not None:
            self._searched = 0
        elif len(self._rest) > self._limit:
            self._refuse()
            # One byte stays, so that what follows of this line is not taken for an empty one.
            del self._rest[1:]
            self._searched = 1
        return lines

    def _take(self, lines: list[bytes], start: int, end: int) -> None:
        # The two newlines of one opening may come apart: the second one is no other.
        was_opened, self._is_opened = self._is_opened, False
        if start == end:
            if self._serial and not was_opened:
                self._is_opened = True
                # Whole lines of the session before may stand in the same chunk: they are thrown away with it.
                lines[:] = [b""]
                self._is_lost = False
        elif end - start > self._limit:
            self._refuse()
        elif not self._is_lost:
            lines.append(bytes(self._rest[start:end]))

    def _refuse(self) -> None:
        if not self._is_lost:
            self._refusal = Malformed("line", f"longer than {self._limit} bytes")


def _unicode(text: str | bytes) -> str:
    if isinstance(text, bytes):
        if len(text) > MESSAGE_LIMIT:
            raise Malformed("message", f"{len(text)} bytes, the limit is {MESSAGE_LIMIT}")
        try:
            return text.decode()
        except UnicodeDecodeError as exc:
            raise Malformed("message", f"invalid UTF-8 at byte {exc.start}") from None
    length = size(text)
    if length > MESSAGE_LIMIT:
        raise Malformed("message", f"{length} bytes, the limit is {MESSAGE_LIMIT}")
    if not text.isascii() and (found := _SURROGATE.search(text)):
        # A link that reads lines keeps undecodable bytes as surrogates: the refusal is said here, not in the link.
        raise Malformed("message", f"invalid UTF-8 at character {found.start()}")
    return text


def _refuse_lone_surrogates(value: object) -> None:
    # A pair of escapes has become one character by now; what still does not encode stood alone.
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Malformed("message", "a lone surrogate") from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Malformed("message", f"the key {ascii(_twice(pairs))[:80]} stands twice")
    return value


def _twice(pairs: list[tuple[str, object]]) -> str:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no key stands twice")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise Malformed("message", "a number is out of range")
    return value


def _constant(text: str) -> NoReturn:
    raise Malformed("message", f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"))
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = re.compile(r"[^\[\]{}]++")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
