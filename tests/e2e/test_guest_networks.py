"""What tc is told of a network, on a kernel that has netem: latency, loss and rate are those that were asked for."""

import re
import shlex
from datetime import timedelta

import pytest

from paddock.agent.skills.hypervisor.networks import rules
from paddock.agent.skills.hypervisor.networks.record import Record, Wired
from paddock.core.machine import Nic
from paddock.wire.specs import NetworkSpec
from tests.e2e.guest import Guest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
INSTANCE = "0a1b2c3d"
_TAKE = """
import socket, time
line = socket.create_server(("10.9.0.1", 5000)).accept()[0]
began, got = time.monotonic(), 0
while piece := line.recv(65536):
    got += len(piece)
print(got, time.monotonic() - began)
"""


def shaped(guest: Guest, network: NetworkSpec) -> str:
    """The name of an interface that is shaped like a card of this network; `far`, in a namespace, is its machine."""
    nic = Nic(network=network.name, mac="52:54:00:00:00:0a")
    record = Record(environment="e", networks=(network,), machines={"a": Wired(directory="/a", nics=(nic,))})
    (tap,) = rules.taps(record, INSTANCE)
    guest.run(
        f"ip netns del m 2>/dev/null; ip netns add m; ip link add {tap.name} type veth peer name far netns m; "
        f"ip addr add 10.9.0.1/24 dev {tap.name}; ip link set {tap.name} up; "
        "ip -n m addr add 10.9.0.2/24 dev far; ip -n m link set far up"
    )
    guest.until("busybox ping -c 1 -W 1 10.9.0.2")  # so that each knows the other's address
    for _ in range(2):  # the second time it is so already
        for words in rules.shaping(tap):
            guest.run(shlex.join(["tc", *words]))
    return tap.name


def test_a_card_is_as_slow_as_its_network(common_guest: Guest) -> None:
    guest = common_guest
    try:
        shaped(guest, NetworkSpec(name="slow", latency=timedelta(milliseconds=150)))
        said = guest.run("busybox ping -c 4 10.9.0.2")
        assert all(float(found) >= 150 for found in re.findall(r"seq=[1-9]\S* .*time=([\d.]+)", said))
        assert "4 packets received" in said

        shaped(guest, NetworkSpec(name="lossy", loss=0.5))
        said = guest.run("busybox ping -c 200 -i 0.01 -W 1 -A 10.9.0.2; true", limit=120)
        (received,) = re.findall(r"(\d+) packets received", said)
        assert 50 <= int(received) <= 150, said

        # A megabyte at a quarter of one a second, but for a burst, takes seconds; what is faster is lost.
        shaped(guest, NetworkSpec(name="narrow", rate=256 << 10))
        guest.write("/tmp/take", _TAKE)
        guest.run("python3 /tmp/take > /tmp/taken 2>&1 &")
        guest.until("ss -ltn | grep -q :5000")
        send = "import socket; socket.create_connection(('10.9.0.1', 5000)).sendall(bytes(1 << 20))"
        guest.run(f'ip netns exec m python3 -c "{send}"', limit=90)
        got, seconds = guest.until("grep . /tmp/taken", limit=90).split()
        assert int(got) == 1 << 20
        assert 1.5 < float(seconds) < 60
    finally:
        guest.run("ip netns del m")
