"""What every keeper of the agents' connections promises to whoever tells it something."""

import pytest

from paddock.adapters.links.hub import Hub
from paddock.ports import Links
from paddock.testing import FakeLinks


@pytest.fixture(params=[FakeLinks, Hub])
def links(request: pytest.FixtureRequest) -> Links:
    made: Links = request.param()
    return made


async def test_an_agent_that_is_not_connected_is_nobody_s_trouble(links: Links) -> None:
    links.nudge("nobody")
    links.drop("nobody", "its token was revoked")
    links.drop("nobody", "its token was revoked")


def test_the_fake_keeps_what_it_was_told_and_lets_a_test_play_the_agent() -> None:
    played: list[str] = []
    links = FakeLinks(on_nudge=played.append)
    links.nudge("a1")
    links.drop("a2", "shut out")
    assert (links.nudged, links.dropped, played) == (["a1"], [("a2", "shut out")], ["a1"])
