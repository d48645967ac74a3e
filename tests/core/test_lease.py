"""The right to an environment: asked for, granted under a fence, proved, ended once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.core import lease as leases
from paddock.core.errors import Refused, Stale
from paddock.core.lease import LIFECYCLE, Lease, Signal, State

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
TTL = timedelta(minutes=10)


def asked(**rest: Any) -> Lease:
    return Lease(id="x1", pool="two-node", holder="anna@desk", owner="anna", asked=T0, **{"ttl": TTL, **rest})


def granted(**rest: Any) -> Lease:
    return leases.grant(asked(**rest), environment="two-node-1", fence=7, now=T0)


def test_a_grant_names_the_environment_the_fence_and_the_end() -> None:
    lease = granted()
    assert (lease.state, lease.environment, lease.fence, lease.deadline) == (
        State.GRANTED,
        "two-node-1",
        7,
        T0 + TTL,
    )


def test_a_runs_lease_has_no_end_of_its_own() -> None:
    lease = granted(ttl=None, run="5")
    assert lease.deadline is None
    assert not leases.is_overdue(lease, now=T0 + timedelta(days=400))


def test_renewing_starts_the_ttl_again() -> None:
    later = T0 + timedelta(minutes=9)
    assert leases.renew(granted(), fence=7, now=later).deadline == later + TTL


def test_renewing_may_change_the_ttl_for_good() -> None:
    lease = leases.renew(granted(), fence=7, now=T0, ttl=timedelta(hours=1))
    assert leases.renew(lease, fence=7, now=T0).deadline == T0 + timedelta(hours=1)


@pytest.mark.parametrize("fence", [0, 6, 8])
def test_who_shows_another_fence_is_stale(fence: int) -> None:
    with pytest.raises(Stale, match=f"lease x1: fence {fence} is over, the current one is 7"):
        leases.renew(granted(), fence=fence, now=T0)


def test_a_lease_that_ended_cannot_be_renewed() -> None:
    over = leases.end(granted(), Signal.RELEASE, now=T0)
    with pytest.raises(Stale, match="it is released, not granted"):
        leases.renew(over, fence=7, now=T0)


def test_a_lease_past_its_ttl_cannot_be_renewed_even_before_anybody_looked() -> None:
    with pytest.raises(Stale, match="its ttl ended at 12:10:00 UTC"):
        leases.renew(granted(), fence=7, now=T0 + TTL)


def test_a_runs_lease_needs_no_renewal() -> None:
    with pytest.raises(Refused, match="it belongs to run 5 and ends with it"):
        leases.renew(granted(ttl=None, run="5"), fence=7, now=T0)


def test_a_lease_is_overdue_from_the_moment_its_ttl_ends() -> None:
    assert not leases.is_overdue(granted(), now=T0 + TTL - timedelta(microseconds=1))
    assert leases.is_overdue(granted(), now=T0 + TTL)


@pytest.mark.parametrize("signal", [Signal.RELEASE, Signal.EXPIRE, Signal.REVOKE])
def test_a_lease_ends_once_and_remembers_what_it_held(signal: Signal) -> None:
    over = leases.end(granted(), signal, now=T0, reason="because")
    assert (over.ended, over.reason, over.environment, over.is_open) == (T0, "because", "two-node-1", False)
    with pytest.raises(Refused):
        leases.end(over, signal, now=T0)


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("signal", list(Signal))
def test_each_signal_in_each_state_is_a_step_of_the_table_or_refused_by_name(state: State, signal: Signal) -> None:
    allowed = {
        (State.QUEUED, Signal.GRANT),
        (State.QUEUED, Signal.CANCEL),
        (State.QUEUED, Signal.REFUSE),
        (State.GRANTED, Signal.RENEW),
        (State.GRANTED, Signal.RELEASE),
        (State.GRANTED, Signal.EXPIRE),
        (State.GRANTED, Signal.REVOKE),
    }
    if (state, signal) in allowed:
        LIFECYCLE.step(state, signal)
    else:
        with pytest.raises(Refused, match=f"lease: {signal.value} does not apply to one that is {state.value}"):
            LIFECYCLE.step(state, signal)
