"""Cards of a machine that wakes: up, with their address as its own network service would give it. In a namespace."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

JOIN = (
    "import socket, sys; from paddock.agent.parking import cards; cards.join(socket.if_nametoindex('c0'), sys.argv[1])"
)
SCENE = 'set -e; ip link add c0 type veth peer name c1; "$1" -c "$2" "$3"; exec ip -j addr show dev c0'


@pytest.mark.parametrize(
    ("address", "broadcast"),
    [
        ("192.168.80.10/24", "192.168.80.255"),
        ("10.1.2.3/30", "10.1.2.3"),
        ("10.1.2.2/31", None),
        ("10.1.2.3/32", None),
        ("fd00::10/64", None),
    ],
)
def test_an_address_has_the_broadcast_address_that_systemd_networkd_gives_it(
    address: str, broadcast: str | None
) -> None:
    """Where it differs, networkd 252 (Debian 12) gives the address again without end, and fails."""
    words = ["unshare", "-rn", "sh", "-c", SCENE, "sh", sys.executable, JOIN, address]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (card,) = json.loads(done.stdout)
    assert "UP" in card["flags"]
    (own,) = [one for one in card["addr_info"] if one["scope"] == "global"]
    assert (f"{own['local']}/{own['prefixlen']}", own.get("broadcast")) == (address, broadcast)
