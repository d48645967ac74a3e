"""Sizes as people type and read them: `512MiB`, `20GiB`."""

import re
from typing import Any

import click

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt]?)(?:i?b)?)", re.IGNORECASE)


class Octets(click.ParamType[int]):
    """Bytes, from a number with a unit; units are powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is no size like 512MiB or 20GiB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2].lower()])


SIZE = Octets()


def spell(count: int) -> str:
    """`812 B`, `4.0 KiB`, `191 MiB`, `1.5 TiB`."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
