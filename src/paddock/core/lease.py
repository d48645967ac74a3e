"""The exclusive right to an environment: a run's, or an outside holder's until its ttl."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from paddock.core.errors import Refused, Stale
from paddock.core.table import Table


class State(StrEnum):
    QUEUED = "queued"
    GRANTED = "granted"
    RELEASED = "released"
    EXPIRED = "expired"
    REVOKED = "revoked"
    CANCELLED = "cancelled"
    IMPOSSIBLE = "impossible"


class Signal(StrEnum):
    GRANT = "grant"
    RENEW = "renew"
    RELEASE = "release"
    EXPIRE = "expire"
    REVOKE = "revoke"
    CANCEL = "cancel"
    REFUSE = "refuse"


LIFECYCLE = Table(
    name="lease",
    initial=State.QUEUED,
    final=frozenset({State.RELEASED, State.EXPIRED, State.REVOKED, State.CANCELLED, State.IMPOSSIBLE}),
    steps={
        (State.QUEUED, Signal.GRANT): State.GRANTED,
        (State.QUEUED, Signal.CANCEL): State.CANCELLED,
        (State.QUEUED, Signal.REFUSE): State.IMPOSSIBLE,
        (State.GRANTED, Signal.RENEW): State.GRANTED,
        (State.GRANTED, Signal.RELEASE): State.RELEASED,
        (State.GRANTED, Signal.EXPIRE): State.EXPIRED,
        (State.GRANTED, Signal.REVOKE): State.REVOKED,
    },
)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One request for an environment of a pool, and what it holds."""

    id: str
    pool: str
    holder: str
    """Who asked, for a person: `run 118`, `anna@desk`."""
    asked: datetime
    owner: str = ""
    """The identity that may renew and release it: a token's name; empty for a run's lease."""
    run: str = ""
    ttl: timedelta | None = None
    """None for a run's lease: it ends with the run."""
    state: State = State.QUEUED
    environment: str = ""
    fence: int = 0
    granted: datetime | None = None
    deadline: datetime | None = None
    ended: datetime | None = None
    reason: str = ""
    fork_of: str = ""
    """The environment whose saved disks it wants, brought up again; empty: any of the pool."""
    version: int = 0

    @property
    def is_open(self) -> bool:
        return self.state in (State.QUEUED, State.GRANTED)


def grant(lease: Lease, *, environment: str, fence: int, now: datetime) -> Lease:
    """The lease holds `environment` from now on, under the fence that the grant raised."""
    return replace(
        lease,
        state=LIFECYCLE.step(lease.state, Signal.GRANT),
        environment=environment,
        fence=fence,
        granted=now,
        deadline=None if lease.ttl is None else now + lease.ttl,
    )


def renew(lease: Lease, *, fence: int, now: datetime, ttl: timedelta | None = None) -> Lease:
    """Start the ttl again, with another length if one is given. A run's lease has none and needs no renewal."""
    prove(lease, fence=fence)
    state = LIFECYCLE.step(lease.state, Signal.RENEW)
    if lease.ttl is None:
        raise Refused(f"lease {lease.id}: it belongs to run {lease.run} and ends with it")
    if lease.deadline is not None and now >= lease.deadline:
        raise Stale(f"lease {lease.id}: its ttl ended at {lease.deadline:%H:%M:%S} UTC", hint="acquire a new lease")
    ttl = ttl or lease.ttl
    return replace(lease, state=state, ttl=ttl, deadline=now + ttl)


def end(lease: Lease, signal: Signal, *, now: datetime, reason: str = "") -> Lease:
    """The lease is over, for the reason that `signal` names. What it held is dirty from now on."""
    return replace(lease, state=LIFECYCLE.step(lease.state, signal), ended=now, reason=reason)


def prove(lease: Lease, *, fence: int) -> None:
    """Refuse whoever does not show the live fence of a granted lease."""
    if lease.state is not State.GRANTED:
        raise Stale(f"lease {lease.id}: it is {lease.state.value}, not granted")
    if fence != lease.fence:
        raise Stale(f"lease {lease.id}: fence {fence} is over, the current one is {lease.fence}")


def is_overdue(lease: Lease, *, now: datetime) -> bool:
    """Whether an outside holder's ttl has ended."""
    return lease.state is State.GRANTED and lease.deadline is not None and now >= lease.deadline
