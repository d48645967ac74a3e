"""When a frame arrives, if it does: latency, loss and rate of a network."""

import pytest

from paddock.agent.cables.shaping import BURST, Shape, Shaper


def test_a_plain_network_has_none_of_the_three() -> None:
    assert Shape(seed=7).is_plain
    assert not Shape(latency=0.1).is_plain


def test_latency_is_added_to_each_frame() -> None:
    assert Shaper(Shape(latency=0.05), "a").arrival(1000, 10.0) == 10.05


def test_frames_of_a_slow_port_wait_for_their_turn() -> None:
    shaper = Shaper(Shape(rate=1_000_000, latency=0.5), "a")

    arrivals = [shaper.arrival(1000, 10.0) for _ in range(3)]

    assert arrivals == pytest.approx([10.501, 10.502, 10.503])


def test_a_guest_that_sends_faster_than_its_rate_loses_the_rest() -> None:
    shaper = Shaper(Shape(rate=100_000), "a")

    kept = [one for one in (shaper.arrival(1000, 0.0) for _ in range(1000)) if one is not None]

    assert BURST / 1000 <= len(kept) <= BURST / 1000 + 2
    assert shaper.arrival(1000, 10.0) == pytest.approx(10.01)


@pytest.mark.parametrize("loss", [0.1, 0.5])
def test_the_share_that_is_lost_is_the_one_asked_for(loss: float) -> None:
    shaper = Shaper(Shape(loss=loss, seed=3), "a")

    lost = sum(shaper.arrival(100, 0.0) is None for _ in range(4000))

    assert lost / 4000 == pytest.approx(loss, abs=0.03)


def test_all_and_nothing_are_shares_too() -> None:
    everything, nothing = Shaper(Shape(loss=1.0), "a"), Shaper(Shape(loss=0.0, latency=1), "a")

    assert all(everything.arrival(100, 0.0) is None for _ in range(100))
    assert all(nothing.arrival(100, 0.0) is not None for _ in range(100))


def test_the_same_seed_loses_the_same_frames() -> None:
    def lost(seed: int, port: str) -> list[bool]:
        shaper = Shaper(Shape(loss=0.5, seed=seed), port)
        return [shaper.arrival(100, 0.0) is None for _ in range(64)]

    assert lost(1, "a") == lost(1, "a")
    assert lost(1, "a") != lost(2, "a")
    assert lost(1, "a") != lost(1, "b")
