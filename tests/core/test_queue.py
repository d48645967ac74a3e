"""Who gets the next environment, how many are built, and why somebody waits."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paddock.core import host as hosts
from paddock.core.environment import Environment, Pool, State
from paddock.core.host import Host
from paddock.core.lease import Lease
from paddock.core.lease import State as LeaseState
from paddock.core.queue import lendable, wanted, why

T0 = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
POOL = Pool(name="two-node", host="local", machines=("one", "two"), max=3)


def one(state: State, number: int = 1, **rest: Any) -> Environment:
    return Environment(
        **{"id": f"two-node-{number}", "pool": "two-node", "host": "local", "since": T0, "state": state, **rest}
    )


def many(*states: State) -> list[Environment]:
    return [one(state, number) for number, state in enumerate(states, start=1)]


def test_the_longest_idle_is_lent_first() -> None:
    older, newer = one(State.READY, 2, since=T0 - timedelta(hours=1)), one(State.READY, 1)
    assert lendable([newer, older], {"local": hosts.State.ONLINE}) == [older, newer]


@pytest.mark.parametrize("state", [state for state in hosts.State if state is not hosts.State.ONLINE])
def test_a_host_that_is_not_online_lends_nothing(state: hosts.State) -> None:
    assert lendable(many(State.READY), {"local": state}) == []


def test_one_with_a_silent_machine_is_not_lent() -> None:
    first, second = many(State.READY, State.READY)
    assert lendable([first, second], {"local": hosts.State.ONLINE}, {first.id: ("one",)}) == [second]


def test_a_host_that_nobody_knows_lends_nothing() -> None:
    assert lendable(many(State.READY), {}) == []


@pytest.mark.parametrize(
    ("existing", "queued", "more"),
    [
        ((), 0, 0),
        ((), 1, 1),
        ((), 9, 3),
        ((State.READY,), 1, 0),
        ((State.LEASED,), 1, 1),
        ((State.LEASED, State.LEASED, State.HELD), 5, 0),
        ((State.REQUESTED, State.BUILDING), 2, 0),
        ((State.DIRTY, State.CLEANING), 2, 0),
        ((State.QUARANTINED, State.BROKEN), 2, 1),
        ((State.QUARANTINED, State.BROKEN, State.QUARANTINED), 2, 0),
        ((State.GONE, State.GONE, State.GONE, State.GONE), 2, 2),
    ],
)
def test_as_many_are_built_as_wait_and_no_more_than_may_be(existing: tuple[State, ...], queued: int, more: int) -> None:
    assert wanted(POOL, many(*existing), queued=queued) == more


def test_stock_is_built_ahead_of_demand() -> None:
    stocked = Pool(name="two-node", host="local", machines=(), max=3, min_ready=2)
    assert wanted(stocked, [], queued=0) == 2
    assert wanted(stocked, many(State.READY, State.LEASED), queued=0) == 1
    assert wanted(stocked, many(State.READY, State.READY), queued=0) == 0


def test_an_environment_on_its_way_out_is_not_counted_on() -> None:
    assert wanted(POOL, [one(State.CLEANING, retiring=True)], queued=1) == 1


# --- why ---

LEASE = Lease(id="x1", pool="two-node", holder="anna@desk", asked=T0 - timedelta(minutes=2))
ONLINE = Host(id="local", skills=("local",), since=T0, state=hosts.State.ONLINE)


def explained(lease: Lease = LEASE, **rest: Any) -> Any:
    given: dict[str, Any] = {"ahead": 0, "pool": POOL, "existing": [], "host": ONLINE, "ends": {}, "now": T0}
    return why(lease, **{**given, **rest})


def test_it_says_who_asked_and_when() -> None:
    assert explained().asked == "2m 00s ago by anna@desk"


def test_it_counts_what_there_is_by_state() -> None:
    existing = many(State.LEASED, State.LEASED, State.QUARANTINED, State.GONE)
    assert explained(existing=existing).waits_for == "pool two-node: 2 leased, 1 quarantined, at most 3"


def test_it_says_that_nothing_is_built_yet() -> None:
    assert explained().waits_for == "pool two-node: none built yet, at most 3"


def test_it_names_the_next_that_will_be_free_for_this_place_in_the_queue() -> None:
    ends = {"two-node-1": T0 + timedelta(minutes=20), "two-node-2": T0 + timedelta(minutes=5)}
    assert explained(ends=ends, ahead=1).next_free == (
        "12:20 UTC at the latest (in 20m 00s): two-node-1 is bound to be given back by then"
    )
    assert explained(ends=ends, ahead=2).next_free == ""


def test_a_host_that_is_away_is_what_it_waits_for() -> None:
    away = Host(id="local", skills=(), since=T0, state=hosts.State.OFFLINE)
    said = explained(host=away)
    assert said.waits_for == "host local: it is offline"
    assert said.would_help == "start the agent of host local"


def test_a_draining_host_is_to_be_resumed() -> None:
    draining = Host(id="local", skills=(), since=T0, state=hosts.State.DRAINING, drained_by="bo")
    assert explained(host=draining).would_help == "resume host local (drained by bo)"


def test_quarantined_environments_are_to_be_looked_at() -> None:
    said = explained(existing=many(State.QUARANTINED))
    assert said.would_help == "look at two-node-1 (quarantined), then: paddock env clean two-node-1"


def test_a_full_pool_could_be_larger() -> None:
    existing = many(State.LEASED, State.LEASED, State.LEASED)
    assert explained(existing=existing).would_help == "a higher max on pool two-node (now 3)"


def test_a_pool_that_is_gone_is_said_to_be() -> None:
    assert explained(pool=None).waits_for == "its pool is no longer configured"


def test_a_lease_that_ended_says_why() -> None:
    over = Lease(id="x1", pool="two-node", holder="anna", asked=T0, state=LeaseState.IMPOSSIBLE, reason="no such pool")
    said = explained(over)
    assert (said.state, said.waits_for, said.would_help) == ("impossible", "no such pool", "")
