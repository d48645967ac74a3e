"""What machines are called on their networks, known before they exist."""

import re

from paddock.core.machine import NetworkSettings, NicSettings, mac, nics

LAN = NetworkSettings(name="lan", bridge="virbr0")
OWN = NetworkSettings(name="own")


def test_whoever_computes_an_address_finds_the_same() -> None:
    assert mac("pool-1", "one", 0, maker="a") == mac("pool-1", "one", 0, maker="a")
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", mac("pool-1", "one", 0, maker="a"))


def test_equal_names_of_two_paddocks_have_other_addresses() -> None:
    ours, theirs = (nics("pool-1", "one", 0, [NicSettings(network="lan")], [LAN], maker=maker) for maker in ("a", "b"))
    assert ours[0].mac != theirs[0].mac


def test_what_was_made_before_paddocks_were_told_apart_keeps_its_addresses() -> None:
    assert [mac("pool-1", "one", card) for card in (0, 1)] == ["52:54:00:1e:01:67", "52:54:00:88:66:2d"]


def test_an_address_that_is_configured_is_the_address() -> None:
    settings = [NicSettings(network="lan", mac="52:54:00:00:00:01")]
    assert nics("pool-1", "one", 0, settings, [LAN], maker="a")[0].mac == "52:54:00:00:00:01"


def test_who_made_it_changes_nothing_but_the_addresses_of_its_cards() -> None:
    wanted = [NicSettings(network="own"), NicSettings(network="lan"), NicSettings()]
    ours, theirs = (nics("pool-1", "one", 1, wanted, [OWN, LAN], maker=maker) for maker in ("a", "b"))
    assert [(card.network, card.address) for card in ours] == [("own", "192.168.80.11/24"), ("lan", ""), ("", "")]
    assert [(card.network, card.address) for card in theirs] == [(card.network, card.address) for card in ours]
    assert len({card.mac for card in (*ours, *theirs)}) == 6


def test_no_two_of_some_machines_meet() -> None:
    found = {mac(f"p-{number}", machine, 0, maker=maker) for maker in "ab" for number in range(20) for machine in "mn"}
    assert len(found) == 80
