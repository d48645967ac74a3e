"""Reads typed values out of params; a bad one is named by its path."""

import base64
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

from paddock.core.errors import Refused
from paddock.wire.framing import JSON
from paddock.wire.messages import LARGEST_INTEGER

T = TypeVar("T")
D = TypeVar("D")
Read: TypeAlias = Callable[[JSON, str], T]

LONGEST_NAME = 200
LONGEST_PATH = 4096
_LONGEST_SPAN = timedelta(days=3650)


class BadParams(Refused):
    """A field is missing or wrong. `path` names it from `params` on, `why` is the fact."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class Fields:
    """An object whose fields are read one by one. Null counts as absent."""

    def __init__(self, value: JSON, path: str = "params") -> None:
        if not isinstance(value, dict):
            raise BadParams(path, "not an object")
        self._fields = value
        self._path = path

    def need(self, name: str, read: Read[T]) -> T:
        """A field that must be there."""
        value = self._fields.get(name)
        if value is None:
            raise BadParams(f"{self._path}.{name}", "is missing")
        return read(value, f"{self._path}.{name}")

    def maybe(self, name: str, read: Read[T], otherwise: D) -> T | D:
        """A field that may be absent."""
        value = self._fields.get(name)
        return otherwise if value is None else read(value, f"{self._path}.{name}")

    def each(self, name: str, read: Read[T]) -> tuple[T, ...]:
        """The elements of a list; absent is empty."""
        return self.maybe(name, lambda value, path: elements(value, path, read), ())

    def table(self, name: str, read: Read[T]) -> dict[str, T]:
        """An object of like values; absent is empty."""
        return self.maybe(name, lambda value, path: entries(value, path, read), {})


def text(value: JSON, path: str) -> str:
    """Text without NUL (no process argument, file name or text column can hold one)."""
    if not isinstance(value, str):
        raise BadParams(path, "not a text")
    if "\0" in value:
        raise BadParams(path, "holds a NUL")
    return value


def name(value: JSON, path: str) -> str:
    """A short text that can be shown as it is: no escape codes, no direction marks."""
    found = text(value, path)
    if not 0 < len(found) <= LONGEST_NAME:
        raise BadParams(path, f"not of 1 to {LONGEST_NAME} characters")
    if not found.isprintable():
        raise BadParams(path, "holds characters that do not print")
    return found


def stream(value: JSON, path: str) -> str:
    """The name of an output stream: `out`, `err`, or the relative path of a collected file."""
    found = text(value, path)
    if not 0 < len(found.encode()) <= LONGEST_PATH:
        raise BadParams(path, f"not of 1 to {LONGEST_PATH} bytes")
    if not found.isprintable():
        raise BadParams(path, "holds characters that do not print")
    return found


def path(value: JSON, path: str) -> str:
    """A file name of the agent's machine, absolute or relative: what it may touch is decided where it is used."""
    found = text(value, path)
    if not 0 < len(found.encode()) <= LONGEST_PATH:
        raise BadParams(path, f"not of 1 to {LONGEST_PATH} bytes")
    return found


def integer(value: JSON, path: str) -> int:
    """An integer of 0 to 2^63 - 1."""
    return bounded_integer(value, path, 0, LARGEST_INTEGER)


def bounded_integer(value: JSON, path: str, least: float, most: float) -> int:
    """An integer within bounds, both included. True is not 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadParams(path, "not an integer")
    if not least <= value <= most:
        raise BadParams(path, f"not within {least:.0f} to {most:.0f}")
    return value


def bounded_number(value: JSON, path: str, least: float, most: float) -> float:
    """A number within bounds, both included."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadParams(path, "not a number")
    # Compared before it is converted: float() of a huge integer overflows.
    if not least <= value <= most or not math.isfinite(value):
        raise BadParams(path, f"not within {least:g} to {most:g}")
    return float(value)


def percent(value: JSON, path: str) -> float:
    """0 to 100."""
    return bounded_number(value, path, 0, 100)


def boolean(value: JSON, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise BadParams(path, "not true or false")
    return value


def span(value: JSON, path: str) -> timedelta:
    """A duration, in seconds on the wire."""
    return timedelta(seconds=bounded_number(value, path, 0, _LONGEST_SPAN.total_seconds()))


def moment(value: JSON, path: str) -> datetime:
    """A moment in UTC, ISO 8601 on the wire."""
    try:
        found = datetime.fromisoformat(text(value, path))
    except ValueError:
        raise BadParams(path, "not a moment of ISO 8601") from None
    if found.tzinfo is None:
        raise BadParams(path, "a moment without its time zone")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise BadParams(path, "a moment out of range") from None


def octets(value: JSON, path: str) -> bytes:
    """Bytes, base64 on the wire."""
    try:
        return base64.b64decode(text(value, path), validate=True)
    except ValueError:
        raise BadParams(path, "not base64") from None


def elements(value: JSON, path: str, read: Read[T]) -> tuple[T, ...]:
    """A list of like values."""
    if not isinstance(value, list):
        raise BadParams(path, "not a list")
    return tuple(read(element, f"{path}[{index}]") for index, element in enumerate(value))


def entries(value: JSON, path: str, read: Read[T]) -> dict[str, T]:
    """An object of like values; a key may be any text that prints."""
    return {stream(key, f"{path} key"): read(found, f"{path}[{key!r}]") for key, found in obj(value, path).items()}


def obj(value: JSON, path: str) -> dict[str, JSON]:
    """An object."""
    if not isinstance(value, dict):
        raise BadParams(path, "not an object")
    return value


def seconds(value: timedelta) -> float:
    """A duration for the wire."""
    return value.total_seconds()


def iso(value: datetime) -> str:
    """A moment for the wire."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
