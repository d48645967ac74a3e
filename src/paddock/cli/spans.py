"""Durations as people type them: `90s`, `10m`, `2h`, `7d`."""

import re
from typing import Any

import click

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")


class Span(click.ParamType[float]):
    """Seconds, from a number with a unit; a bare number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = _SPAN.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no duration like 90s, 10m, 2h or 7d", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


SPAN = Span()
