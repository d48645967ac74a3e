"""Who gets the next environment, and why somebody waits: first come, first served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core.environment import Environment, Pool
from paddock.core.host import Host
from paddock.core.lease import Lease
from paddock.core.report import spell


def lendable(ready: Sequence[Environment], states: Mapping[str, hosts.State]) -> list[Environment]:
    """The ready environments whose host may lend now, the longest idle first."""
    usable = [one for one in ready if states.get(one.host) is hosts.State.ONLINE]
    return sorted(usable, key=lambda one: one.since)


_COMING = frozenset(
    {
        environments.State.REQUESTED,
        environments.State.BUILDING,
        environments.State.DIRTY,
        environments.State.CLEANING,
    }
)


def wanted(pool: Pool, existing: Sequence[Environment], *, queued: int) -> int:
    """How many more environments of a pool to build now: for who waits, and to keep `min_ready` in stock."""
    living = [one for one in existing if one.state is not environments.State.GONE]
    ready = sum(one.state is environments.State.READY and not one.retiring for one in living)
    coming = sum(one.state in _COMING and not one.retiring for one in living)
    short = max(queued, pool.min_ready) - ready - coming
    return max(0, min(short, pool.max - len(living)))


@dataclass(frozen=True, kw_only=True)
class WhyLease:
    """Why a lease is not granted yet, as a person asks; empty strings where there is nothing to say."""

    lease: str
    state: str
    asked: str
    waits_for: str = ""
    ahead: int = 0
    next_free: str = ""
    would_help: str = ""


def why(
    lease: Lease,
    *,
    ahead: int,
    pool: Pool | None,
    existing: Sequence[Environment],
    host: Host | None,
    ends: Mapping[str, datetime],
    now: datetime,
) -> WhyLease:
    """Say what a lease waits for. `ends`: environment → when what holds it has to end at the latest."""
    asked = f"{spell(now - lease.asked)} ago by {lease.holder}"
    if not lease.is_open or lease.environment:
        return WhyLease(lease=lease.id, state=lease.state.value, asked=asked, waits_for=lease.reason)
    return WhyLease(
        lease=lease.id,
        state=lease.state.value,
        asked=asked,
        waits_for=_waits_for(pool, existing, host),
        ahead=ahead,
        next_free=_next_free(ends, ahead, now),
        would_help=_would_help(pool, existing, host),
    )


def _waits_for(pool: Pool | None, existing: Sequence[Environment], host: Host | None) -> str:
    if pool is None:
        return "its pool is no longer configured"
    if host is None or host.state is not hosts.State.ONLINE:
        return f"host {pool.host}: it is {host.state.value if host else 'unknown'}"
    counts = {state: sum(one.state is state for one in existing) for state in environments.State}
    said = ", ".join(f"{number} {state.value}" for state, number in counts.items() if number and state != "gone")
    return f"pool {pool.name}: {said or 'none built yet'}, at most {pool.max}"


def _next_free(ends: Mapping[str, datetime], ahead: int, now: datetime) -> str:
    moments = sorted(ends.items(), key=lambda pair: pair[1])
    if ahead >= len(moments):
        return ""
    name, moment = moments[ahead]
    return f"{moment:%H:%M} UTC at the latest (in {spell(moment - now)}): {name} is bound to be given back by then"


def _would_help(pool: Pool | None, existing: Sequence[Environment], host: Host | None) -> str:
    if pool is None:
        return ""
    if host is not None and host.state is hosts.State.DRAINING:
        return f"resume host {host.id} (drained by {host.drained_by or 'an operator'})"
    if host is None or host.state is not hosts.State.ONLINE:
        return f"start the agent of host {pool.host}"
    stuck = [one.id for one in existing if one.state is environments.State.QUARANTINED]
    if stuck:
        return f"look at {', '.join(stuck)} (quarantined), then: paddock env clean {stuck[0]}"
    return f"a higher max on pool {pool.name} (now {pool.max})"
