"""How long an agent waits before it connects again."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from paddock.wire.backoff import Backoff

SECOND = timedelta(seconds=1)


def test_the_range_doubles_up_to_its_cap() -> None:
    backoff = Backoff(least=SECOND, most=20 * SECOND)
    assert [backoff.span(attempt)[1].total_seconds() for attempt in range(6)] == [2, 4, 8, 16, 20, 20]


def test_chance_spreads_over_the_whole_range() -> None:
    backoff = Backoff(least=SECOND, most=20 * SECOND)
    assert backoff.delay(3, chance=0.0) == SECOND
    assert backoff.delay(3, chance=0.5) == 8.5 * SECOND
    assert backoff.delay(3, chance=0.999) > 15 * SECOND


def test_what_the_server_asked_for_is_the_least() -> None:
    assert Backoff().delay(0, chance=0.0, retry_after=90 * SECOND) == 90 * SECOND
    assert Backoff().delay(0, chance=0.0, retry_after=timedelta()) == SECOND


@given(st.integers(-1, 10**9), st.floats(0, 1, exclude_max=True))
def test_it_is_never_under_a_second_nor_over_the_cap(attempt: int, chance: float) -> None:
    assert SECOND <= Backoff().delay(attempt, chance=chance) <= 60 * SECOND
