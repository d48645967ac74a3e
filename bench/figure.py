"""A figure: what a bench measured, its target, and its peer's; as an object, a row of a table, a row of a page."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil


class Better(StrEnum):
    """Which way is good."""

    HIGHER = "≥"
    LOWER = "≤"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A key that a bench promises, in which unit, and what is asked of it."""

    bench: str
    key: str
    unit: str
    better: Better
    target: float | None
    caption: str
    decimals: int = 0

    def is_met(self, value: float) -> bool:
        """Whether a value is as good as asked; true where nothing is asked."""
        if self.target is None:
            return True
        return value >= self.target if self.better is Better.HIGHER else value <= self.target


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The values that repeated runs gave, and a peer's values of the same run."""

    values: tuple[float, ...]
    peer: str = ""
    peer_values: tuple[float, ...] = ()
    is_ratio: bool = False
    """Whether the figure is the ratio itself; `values` are then ours, in the unit of the peer's."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One row. `value` is the median; None where it could not be measured, for the reason in `trouble`."""

    aim: Aim
    value: float | None
    low: float | None = None
    high: float | None = None
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    trouble: str = ""

    def object(self) -> dict[str, object]:
        """What `--json` says, in this order; nulls where there is no peer."""
        return {
            "bench": self.aim.bench,
            "key": self.aim.key,
            "value": self.value,
            "unit": self.aim.unit,
            "peer": self.peer or None,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
        }

    def cells(self) -> tuple[str, ...]:
        """What a person reads: key, value, range, target, peer, ratio."""
        if self.value is None:
            return (self.aim.key, "–", self.trouble, self._target(), "", "")
        spell = f"{{:,.{self.aim.decimals}f}}".format
        spread = f"{spell(self.low)} … {spell(self.high)}" if self.low is not None and self.low != self.high else ""
        peer = f"{self.peer_value:,.0f} ({self.peer})" if self.peer_value is not None else ""
        ratio = f"{self.ratio:.1f}×" if self.ratio is not None else ""
        return (self.aim.key, f"{spell(self.value)} {self.aim.unit}", spread, self._target(), peer, ratio)

    def _target(self) -> str:
        if self.aim.target is None:
            return ""
        verdict = "" if self.value is None or self.aim.is_met(self.value) else "  missed"
        return f"{self.aim.better} {self.aim.target:,g}{verdict}"


TITLES = ("key", "median", "min … max", "target", "peer", "ratio")


def figure(aim: Aim, measured: Measured) -> Figure:
    """Boil runs down to a row; a ratio is one of medians, its range that of the pairs of runs."""
    ours, theirs = statistics.median(measured.values), _median(measured.peer_values)
    ratio = ours / theirs if theirs else None
    values: Sequence[float] = measured.values
    if measured.is_ratio:
        values = [mine / other for mine, other in zip(measured.values, measured.peer_values, strict=True)]
    return Figure(
        aim=aim,
        value=round(ratio if measured.is_ratio and ratio is not None else ours, 3),
        low=round(min(values), 3),
        high=round(max(values), 3),
        peer=measured.peer,
        peer_value=None if theirs is None else round(theirs, 3),
        ratio=None if ratio is None else round(ratio, 3),
    )


def missing(aim: Aim, trouble: str) -> Figure:
    """The row of a figure that could not be measured."""
    return Figure(aim=aim, value=None, trouble=trouble)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that at least `share` of all do not exceed."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]
