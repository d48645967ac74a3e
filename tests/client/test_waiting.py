"""What a client decides while it waits for a lease and keeps it."""

import pytest

from paddock.client import waiting
from paddock.client.errors import LeaseLost, NoEnvironment, NotAllowed, Unreachable
from paddock.client.term import Term, grace_of, retry_after
from paddock.core.errors import Broken, Conflict, Missing, PaddockError, Stale
from tests.client.desk import lease


def test_granted_is_ours_and_queued_is_not_yet() -> None:
    assert waiting.accept(lease("1", state="granted"))
    assert not waiting.accept(lease("1", state="queued"))


@pytest.mark.parametrize("state", ["impossible", "cancelled", "expired", "revoked", "released"])
def test_any_other_state_is_no_environment_with_its_reason(state: str) -> None:
    with pytest.raises(NoEnvironment, match=f"it is {state}: no host"):
        waiting.accept(lease("1", state=state, reason="no host"))


@pytest.mark.parametrize("error", [Stale("x: y"), Missing("x: y"), NotAllowed("x: y")])
def test_a_refused_renewal_is_a_loss(error: PaddockError) -> None:
    assert isinstance(waiting.loss(lease("1"), error), LeaseLost)


@pytest.mark.parametrize("error", [Unreachable("x: y"), Broken("x: y"), Conflict("x: y")])
def test_a_renewal_that_nobody_decided_is_tried_again(error: PaddockError) -> None:
    assert waiting.loss(lease("1"), error) is None


def test_the_holder_stops_before_the_ttl_ends() -> None:
    term = Term(since=100.0, ttl=60.0, grace=10.0)
    assert (term.renewal, term.over) == (120.0, 150.0)


def test_a_short_ttl_has_a_short_grace() -> None:
    assert (grace_of(3600.0), grace_of(5.0)) == (10.0, 1.0)


def test_a_grace_never_eats_more_than_half_of_the_ttl() -> None:
    assert waiting.term(lease("1", ttl=4.0), since=0.0, grace=60.0).over == 2.0


def test_the_ttl_is_the_servers_word() -> None:
    assert waiting.term(lease("1", ttl=30.0), since=5.0, grace=None).over == 5.0 + 30.0 - 6.0


def test_a_runs_lease_cannot_be_held() -> None:
    with pytest.raises(NoEnvironment, match="belongs to run 4"):
        waiting.term(lease("1", ttl=None, run="4"), since=0.0, grace=None)


def test_a_silent_server_is_asked_often_enough_to_be_caught() -> None:
    assert retry_after(Term(since=0, ttl=3600, grace=10)) == 5.0
    assert retry_after(Term(since=0, ttl=1, grace=0.2)) == 0.2
