"""How a client waits for its grant and keeps it, as pure decisions.

Both clients share them; each only carries out what is decided here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from paddock.client.errors import LeaseLost, NoEnvironment
from paddock.client.term import Term, grace_of
from paddock.core.errors import Conflict, Missing, PaddockError, Refused
from paddock.wire.shapes import AgentCommand, Lease, Machine

LOOK = 20.0
"""Seconds that one request waits in the server for a grant."""
SILENCE = 120.0
"""Seconds for which a server may be silent while we stand in its queue, which outlives it."""
PAUSE = 1.0
"""Seconds between attempts to ask a silent server."""


_OVER = frozenset({"complete", "failed"})


def is_over(command: AgentCommand) -> bool:
    """Whether a command has its final state."""
    return command.state in _OVER


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A lease that is ours: since when at the latest, and what it lent."""

    lease: Lease
    term: Term
    host: str
    machines: Sequence[Machine]


def accept(lease: Lease) -> bool:
    """Whether it is granted; False: still queued. NoEnvironment where it never will be."""
    if lease.state == "granted":
        return True
    if lease.state == "queued":
        return False
    why = f": {lease.reason}" if lease.reason else ""
    raise NoEnvironment(f"lease {lease.id}: it is {lease.state}{why}", hint=f"paddock lease why {lease.id}")


def term(lease: Lease, *, since: float, grace: float | None) -> Term:
    """The term of a lease that was granted or renewed after `since`. Its ttl is the server's word."""
    ttl = lease.ttl
    if ttl is None:
        raise NoEnvironment(f"lease {lease.id}: it belongs to run {lease.run} and cannot be held from outside")
    return Term(since=since, ttl=ttl, grace=grace_of(ttl) if grace is None else min(grace, ttl / 2))


def loss(lease: Lease, exc: PaddockError) -> LeaseLost | None:
    """What a renewal's error means: the lease is lost, or (None) nobody said so yet and it is tried again."""
    if isinstance(exc, Refused | Missing) and not isinstance(exc, Conflict):
        return LeaseLost(f"lease {lease.id}: not renewed: {exc.message}", hint=exc.hint)
    return None


def over(lease: Lease, why: str) -> LeaseLost:
    """The term ended and no renewal came through."""
    return LeaseLost(f"lease {lease.id}: no renewal came through in time{f' ({why})' if why else ''}")
