"""What every kind of networks does, the fake one too."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor.images.outside import Uplinks
from paddock.agent.skills.hypervisor.networks.rooted import Rooted
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.agent.skills.hypervisor.ports import Networks
from paddock.core.errors import Refused
from paddock.core.machine import Nic
from paddock.wire.specs import NetworkSpec
from tests.agent.hypervisor.doubles import FakeNetworks

pytestmark = pytest.mark.slow
INSTANCE = "0a1b2c3d"
ALONE = "PADDOCK_TESTS_ALONE"
"""In the environment: this is a network namespace in which tests may do what they like."""
LEFT = NetworkSpec(name="left", subnet="192.168.80.0/24")
BLANK = Nic(network="", mac="52:54:00:00:00:01")
CARD = Nic(network="left", mac="52:54:00:00:00:02", address="192.168.80.10/24")


# The last one only in a network namespace of the test's own, where test_rooted.py runs this file again.
KINDS = ["fake", "rootless", *(["rooted"] if ALONE in os.environ else [])]


@pytest.fixture(params=KINDS)
async def networks(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Networks]:
    if request.param == "fake":
        yield FakeNetworks()
        return
    kind = Rooted if request.param == "rooted" else Rootless
    async with kind(tmp_path / "networks", INSTANCE) as found:
        yield found
        for environment in await found.found(INSTANCE):
            await found.close(environment)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A machine's directory."""
    found = tmp_path / "m"
    found.mkdir(mode=0o700)
    return found


async def test_it_says_that_it_works(networks: Networks) -> None:
    await networks.check()


async def test_cards_come_in_order_and_those_without_a_network_are_blank(networks: Networks, place: Path) -> None:
    await networks.open("e1", [LEFT], [])

    blank, card = await networks.wire("e1", "a", place, [BLANK, CARD])

    assert (blank.mac, blank.netdev, blank.address) == (BLANK.mac, "", "")
    assert (card.mac, card.address) == (CARD.mac, CARD.address)
    assert card.netdev


async def test_the_way_outside_comes_last_and_only_where_there_is_a_list(networks: Networks, place: Path) -> None:
    await networks.open("e1", [LEFT], ["example.org:443"])
    await networks.open("e2", [LEFT], [])

    *_, uplink = await networks.wire("e1", "a", place, [CARD])

    assert uplink.netdev
    assert uplink.address == "10.0.2.15/24"
    assert [card.mac for card in await networks.wire("e2", "a", place, [CARD])] == [CARD.mac]


async def test_a_machine_that_builds_has_a_way_outside_and_nothing_else(
    networks: FakeNetworks | Rootless | Rooted, place: Path
) -> None:
    outside = Uplinks(networks=networks, variables=networks.variables)

    way = await outside.open("image-0123456789ab", place, ["example.org:443"])

    (card,) = way.cards
    assert (bool(card.netdev), card.address) == (True, "10.0.2.15/24")
    assert way.env["http_proxy"]
    for _ in range(2):
        await outside.close("image-0123456789ab")
    assert list(await networks.found(INSTANCE)) == []
    assert networks.variables("image-0123456789ab") == {}


async def test_what_is_opened_and_wired_again_is_the_same(networks: Networks, place: Path) -> None:
    await networks.open("e1", [LEFT], ["example.org:443"])
    first = await networks.wire("e1", "a", place, [BLANK, CARD])

    await networks.open("e1", [LEFT], ["example.org:443"])

    assert await networks.wire("e1", "a", place, [BLANK, CARD]) == first
    assert list(await networks.found(INSTANCE)) == ["e1"]


async def test_nobody_is_wired_to_what_is_not_open(networks: Networks, place: Path) -> None:
    with pytest.raises(Refused, match="e1: its networks are not open"):
        await networks.wire("e1", "a", place, [CARD])
    await networks.open("e1", [], [])
    with pytest.raises(Refused, match="e1/a: there is no network left"):
        await networks.wire("e1", "a", place, [CARD])


async def test_unwiring_and_closing_may_be_told_twice_and_of_what_never_was(networks: Networks, place: Path) -> None:
    await networks.open("e1", [LEFT], [])
    await networks.wire("e1", "a", place, [CARD])

    for _ in range(2):
        await networks.unwire("e1", "a")
        await networks.unwire("e1", "never")
        await networks.unwire("never", "a")
    for _ in range(2):
        await networks.close("e1")
        await networks.close("never")

    assert list(await networks.found(INSTANCE)) == []
