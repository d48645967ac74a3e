"""Whose turn it is among several servers, and how soon."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from paddock.agent.rounds import Rounds
from paddock.wire.backoff import Backoff, wish

SECOND = timedelta(seconds=1)


def failing(rounds: Rounds, count: int, *, chance: float = 0.999) -> list[tuple[int, float]]:
    """Who was asked, and for how long one waits after that."""
    found = []
    for _ in range(count):
        asked = rounds.turn
        found.append((asked, round(rounds.pause(good=False, now=0, chance=chance), 1)))
    return found


def test_within_a_round_the_next_one_is_asked_soon_and_each_round_waits_longer() -> None:
    rounds = Rounds(servers=3, backoff=Backoff())
    assert failing(rounds, 7) == [(0, 1.0), (1, 1.0), (2, 2.0), (0, 1.0), (1, 1.0), (2, 4.0), (0, 1.0)]


def test_one_server_alone_is_asked_ever_slower_up_to_the_cap() -> None:
    pauses = [pause for _, pause in failing(Rounds(servers=1, backoff=Backoff(most=10 * SECOND)), 6)]
    assert pauses == [2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_the_one_that_served_well_is_asked_first_again() -> None:
    rounds = Rounds(servers=2, backoff=Backoff())
    failing(rounds, 1)
    assert rounds.turn == 1
    rounds.pause(good=True, now=0, chance=0)
    assert rounds.turn == 1
    assert rounds.is_first


def test_one_that_wants_to_be_left_alone_is_passed_over_meanwhile() -> None:
    rounds = Rounds(servers=2, backoff=Backoff())
    rounds.pause(good=False, now=100, chance=0, retry_after=timedelta(seconds=60))
    assert rounds.turn == 1
    rounds.pause(good=False, now=101, chance=0)
    assert rounds.turn == 1, "the other one asked for a minute"
    assert not rounds.is_first


def test_where_all_want_to_be_left_alone_the_soonest_is_waited_for() -> None:
    rounds = Rounds(servers=2, backoff=Backoff())
    rounds.pause(good=False, now=0, chance=0, retry_after=timedelta(seconds=60))
    assert rounds.pause(good=False, now=1, chance=0, retry_after=timedelta(seconds=20)) == 20
    assert rounds.turn == 1


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.booleans(), st.floats(0, 0.999), st.none() | st.integers(0, 100).map(lambda n: n * SECOND)),
        max_size=30,
    ),
)
def test_nobody_is_ever_asked_within_a_second_or_before_the_time_it_asked_for(
    servers: int, events: list[tuple[bool, float, timedelta | None]]
) -> None:
    rounds, now = Rounds(servers=servers, backoff=Backoff()), 0.0
    not_before = [0.0] * servers
    for good, chance, retry_after in events:
        asked = rounds.turn
        assert now >= not_before[asked] - 1e-6
        if retry_after is not None:
            not_before[asked] = now + retry_after.total_seconds()
        pause = rounds.pause(good=good, now=now, chance=chance, retry_after=retry_after)
        assert pause >= 1
        now += pause


def test_what_somebody_asks_for_is_seconds_or_nothing() -> None:
    assert wish(3) == 3 * SECOND
    assert wish(0.5) == SECOND / 2
    assert wish("3.0") == 3 * SECOND
    assert wish(1e308) == wish("inf") == timedelta(hours=1)
    for junk in (None, True, -1, "soon", "", [], {"seconds": 3}, "nan", float("nan"), 10**400):
        assert wish(junk) is None, junk
