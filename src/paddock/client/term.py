"""How long a lease may still be used, counted on this machine from before it was asked."""

import time
from dataclasses import dataclass

RENEWALS = 3
"""How often a ttl is renewed while it lasts: two renewals may go astray."""
LONGEST_GRACE = 10.0
SHORTEST_PAUSE = 0.2


def now() -> float:
    """Seconds since boot, suspended ones included: a laptop that slept through its ttl has lost its lease."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, kw_only=True)
class Term:
    """A ttl that began no earlier than `since`. Seconds on CLOCK_BOOTTIME.

    `grace` is what the holder keeps for itself at the end, to stop what uses the environment.
    """

    since: float
    ttl: float
    grace: float

    @property
    def over(self) -> float:
        """When the holder has to stop, unless it renewed."""
        return self.since + self.ttl - self.grace

    @property
    def renewal(self) -> float:
        """When to renew next."""
        return self.since + self.ttl / RENEWALS


def grace_of(ttl: float) -> float:
    """What a ttl leaves for an orderly end: a fifth of it, ten seconds at most."""
    return min(LONGEST_GRACE, ttl / 5)


def retry_after(term: Term) -> float:
    """Seconds between renewals while the server is silent: often enough to catch its return before the term is over."""
    return max(SHORTEST_PAUSE, min(5.0, term.ttl / 20))
