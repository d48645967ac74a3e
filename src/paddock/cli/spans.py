"""Durations as people type them: `90s`, `10m`, `2h`, `7d`."""

import re
from typing import Any

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


class Span(click.ParamType[float]):
    """Seconds, from a number with a unit; a bare number is seconds. `least` and `most`: bounds, spelled as typed."""

    name = "duration"

    def __init__(self, *, least: str = "", most: str = "") -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        seconds = read(str(value).strip())
        if seconds is None:
            self.fail(f"{value!r} is no duration like 90s, 10m, 2h or 7d", param, ctx)
        if not self._least <= seconds <= self._most:
            self.fail(f"{value} is not between {self.least} and {self.most}", param, ctx)
        return seconds

    @property
    def _least(self) -> float:
        return read(self.least) or 0.0

    @property
    def _most(self) -> float:
        return read(self.most) or float("inf")


def read(text: str) -> float | None:
    """Seconds; None where it is no duration."""
    found = _SPAN.fullmatch(text)
    return None if found is None else float(found[1]) * _UNITS[found[2] or "s"]


SPAN = Span()
TTL = Span(least="1s", most="7d")
"""Of a lease, a hold or a code: what the server takes."""
TOKEN_TTL = Span(least="1s", most="3650d")
