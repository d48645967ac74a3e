"""Transition tables: the only place where a state may change.

A table is data: the tests walk it, `docs/states.md` draws it, and `step` is the one function that moves along it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from paddock.core.errors import Refused

S = TypeVar("S", bound=StrEnum)
G = TypeVar("G", bound=StrEnum)


@dataclass(frozen=True, kw_only=True)
class Table(Generic[S, G]):
    """The lifecycle of one noun: where it starts, where it may end, and every step between."""

    name: str
    initial: S
    final: frozenset[S]
    steps: Mapping[tuple[S, G], S]

    def step(self, state: S, signal: G) -> S:
        """Return the state after `signal`; `Refused` where the table has no such step."""
        after = self.steps.get((state, signal))
        if after is None:
            raise Refused(f"{self.name}: {signal.value} does not apply to one that is {state.value}")
        return after

    def allows(self, state: S, signal: G) -> bool:
        """Whether `signal` leads anywhere from `state`."""
        return (state, signal) in self.steps
