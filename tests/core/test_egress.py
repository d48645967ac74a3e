"""What an environment's guests may reach outside: names, networks, and what no name may lead to."""

import ipaddress

import pytest

from paddock.core.egress import Egress, is_outside, parse
from paddock.core.errors import Refused


def test_without_a_list_nothing_is_reached() -> None:
    assert not Egress().names("example.org", 443)
    assert not Egress().covers(ipaddress.ip_address("1.1.1.1"), 443)


def test_a_name_is_reached_at_its_port_alone() -> None:
    egress = Egress.read(["pypi.example.org:443"])

    assert egress.names("pypi.example.org", 443)
    assert egress.names("PyPI.Example.org.", 443)
    assert not egress.names("pypi.example.org", 80)
    assert not egress.names("example.org", 443)
    assert not egress.names("evil-pypi.example.org", 443)


def test_a_star_is_everything_below_a_name_and_not_the_name() -> None:
    egress = Egress.read(["*.example.org:443"])

    assert egress.names("a.example.org", 443)
    assert egress.names("a.b.example.org", 443)
    assert not egress.names("example.org", 443)
    assert not egress.names("badexample.org", 443)


def test_networks_and_addresses_are_of_addresses_alone() -> None:
    egress = Egress.read(["10.1.0.0/16:443", "192.0.2.7:80", "[2001:db8::/32]:443"])

    assert egress.covers(ipaddress.ip_address("10.1.2.3"), 443)
    assert not egress.covers(ipaddress.ip_address("10.2.0.1"), 443)
    assert egress.covers(ipaddress.ip_address("192.0.2.7"), 80)
    assert egress.covers(ipaddress.ip_address("2001:db8::1"), 443)
    assert not egress.covers(ipaddress.ip_address("2001:db9::1"), 443)
    assert not egress.names("10.1.2.3", 443)


def test_the_whole_world_is_told_from_what_is_named() -> None:
    egress = Egress.read(["0.0.0.0/0:443", "[::/0]:443", "10.0.0.0/8:443"])

    assert egress.spans(ipaddress.ip_address("127.0.0.1"), 443)
    assert not egress.covers(ipaddress.ip_address("127.0.0.1"), 443)
    assert not egress.spans(ipaddress.ip_address("1.1.1.1"), 80)
    assert not egress.covers(ipaddress.ip_address("fd00::1"), 443)
    assert egress.covers(ipaddress.ip_address("10.1.2.3"), 443)


@pytest.mark.parametrize(
    "entry",
    [
        *("example.org", "example.org:", "example.org:0", "example.org:65536", "example.org:http", ":443", "*:443"),
        *(
            "*.*.org:443",
            "a b:443",
            "10.0.0.0/33:1",
            "10.0.0.1/8:1",
            "0x7f000001:80",
            "127.1:80",
            "x.127.1:80",
            "é.org:1",
        ),
        *("http://example.org:80", "example..org:80", "-a.org:80", f"{'a' * 64}.org:80"),
    ],
)
def test_what_is_no_entry_is_refused_by_name(entry: str) -> None:
    with pytest.raises(Refused, match="egress: "):
        Egress.read([entry])


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.3.4",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "2001:db8::1"),
        *("fec0::", "fec0::1", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1"),
    ],
)
def test_addresses_of_hosts_and_neighbours_are_not_outside(address: str) -> None:
    assert not is_outside(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_outside(address: str) -> None:
    assert is_outside(ipaddress.ip_address(address))


def test_an_address_within_an_address_is_that_address() -> None:
    assert parse("[::ffff:127.0.0.1]") == ipaddress.ip_address("127.0.0.1")
    assert parse("1.2.3.4") == ipaddress.ip_address("1.2.3.4")
    assert parse("1.2.3") is None
