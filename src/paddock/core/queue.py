"""Who gets the next environment, and why somebody waits: first come, first served."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from paddock.core import environment as environments
from paddock.core import host as hosts
from paddock.core.environment import Environment, Pool
from paddock.core.host import Host
from paddock.core.lease import Lease
from paddock.core.report import spell


def lendable(
    ready: Sequence[Environment], states: Mapping[str, hosts.State], silent: Collection[str] = ()
) -> list[Environment]:
    """The ready environments whose host may lend now, the longest idle first. `silent`: those with a dead machine."""
    usable = [one for one in ready if states.get(one.host) is hosts.State.ONLINE and one.id not in silent]
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
    return min(short(living, queued=max(queued, pool.min_ready)), max(0, pool.max - len(living)))


def short(existing: Sequence[Environment], *, queued: int) -> int:
    """How many of those that are wanted are neither ready nor coming."""
    ready = sum(one.state is environments.State.READY and not one.retiring for one in existing)
    coming = sum(one.state in _COMING and not one.retiring for one in existing)
    return max(0, queued - ready - coming)


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


@dataclass(frozen=True, kw_only=True)
class Virtual:
    """What keeps a pool of virtual machines waiting, in words; empty where there is nothing to say."""

    is_open: bool
    """Whether any host that may carry it takes anything new."""
    hosts: tuple[str, ...] = ()
    """Those that do not, with why."""
    images: tuple[str, ...] = ()
    """Images that it needs and that do not serve yet, with how far they are."""
    failed: tuple[str, ...] = ()
    """Names of those of them that could not be built."""
    room: str = ""
    """What each host lacks."""
    silent: tuple[str, ...] = ()
    """Free environments that are not lent because a machine of theirs is not heard, with which."""


def why(
    lease: Lease,
    *,
    ahead: int,
    pool: Pool | None,
    existing: Sequence[Environment],
    host: Host | None,
    ends: Mapping[str, datetime],
    now: datetime,
    virtual: Virtual | None = None,
) -> WhyLease:
    """Say what a lease waits for. `ends`: environment → when what holds it has to end at the latest."""
    asked = f"{spell(now - lease.asked)} ago by {lease.holder}"
    if not lease.is_open or lease.environment:
        return WhyLease(lease=lease.id, state=lease.state.value, asked=asked, waits_for=lease.reason)
    return WhyLease(
        lease=lease.id,
        state=lease.state.value,
        asked=asked,
        waits_for=_waits_for(pool, existing, host) if virtual is None else _waits_virtually(pool, existing, virtual),
        ahead=ahead,
        next_free=_next_free(ends, ahead, now),
        would_help=_would_help(pool, existing, host)
        if virtual is None
        else _would_virtually_help(pool, existing, virtual),
    )


def _waits_for(pool: Pool | None, existing: Sequence[Environment], host: Host | None) -> str:
    if pool is None:
        return "its pool is no longer configured"
    if host is None or host.state is not hosts.State.ONLINE:
        return f"host {pool.host}: it is {host.state.value if host else 'unknown'}"
    return _counted(pool, existing)


def _counted(pool: Pool, existing: Sequence[Environment]) -> str:
    counts = {state: sum(one.state is state for one in existing) for state in environments.State}
    said = ", ".join(f"{number} {state.value}" for state, number in counts.items() if number and state != "gone")
    return f"pool {pool.name}: {said or 'none built yet'}, at most {pool.max}"


def _waits_virtually(pool: Pool | None, existing: Sequence[Environment], virtual: Virtual) -> str:
    if pool is None:
        return "its pool is no longer configured"
    if not virtual.is_open:
        return "; ".join(virtual.hosts)
    said = [*virtual.images, *([virtual.room] if virtual.room else []), *virtual.silent]
    return "; ".join(said) or _counted(pool, existing)


def _would_virtually_help(pool: Pool | None, existing: Sequence[Environment], virtual: Virtual) -> str:
    if pool is None:
        return ""
    if not virtual.is_open:
        return "a host that is online and not drained: paddock host list"
    if virtual.failed:
        return f"look at its log: paddock image log {virtual.failed[0]}"
    if virtual.images:
        return "waiting until it is built: paddock image list"
    if stuck := _stuck(existing):
        return stuck
    if virtual.silent:
        return "nothing to do: its host is asked, and what does not run any more is made anew"
    if virtual.room:
        return "somebody gives one back, or a host with more room"
    return f"a higher max on pool {pool.name} (now {pool.max})"


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
    return _stuck(existing) or f"a higher max on pool {pool.name} (now {pool.max})"


def _stuck(existing: Sequence[Environment]) -> str:
    stuck = [one.id for one in existing if one.state is environments.State.QUARANTINED]
    return f"look at {', '.join(stuck)} (quarantined), then: paddock env clean {stuck[0]}" if stuck else ""
