"""One transition that happened: who moved from which state to which, when and why."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Transition:
    """A line of the history, written in the transaction that made the transition, never changed after."""

    noun: str
    """The plural of the noun, as the database's table is called: `environments`, `leases`, `runs`..."""
    id: str
    at: datetime
    before: str
    after: str
    signal: str
    fence: int = 0
    by: str = ""
    """Who caused it, for a person: `run 118`, `operator anna`, `agent local`."""
    note: str = ""
