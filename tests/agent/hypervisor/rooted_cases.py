"""Cases of networks with root. Run by test_rooted.py inside a network namespace and a mount namespace of its own."""

import asyncio
import json
import os
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.cables.signing import signed_in
from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks import namespace as namespaces
from paddock.agent.skills.hypervisor.networks.rooted import Rooted
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.errors import Refused
from paddock.core.machine import Nic, mac, uniform
from paddock.hands import trees
from paddock.wire.specs import NetworkSpec
from tests.agent.cables.plugs import EVERYBODY, frame, octets
from tests.agent.hypervisor import shells
from tests.agent.hypervisor.shells import Guest
from tests.agent.hypervisor.test_rootless import Host, left_behind, until
from tests.agent.hypervisor.test_rootless_guests import served
from tools.maven import Unavailable

INSTANCE = "0a1b2c3d"
LEFT = NetworkSpec(name="left", subnet="192.168.80.0/24")
LIMIT = 10.0


def ip(*words: str) -> list[dict[str, object]]:
    done = subprocess.run(["ip", "-j", *words], capture_output=True, text=True, check=True, timeout=LIMIT)
    found: list[dict[str, object]] = json.loads(done.stdout or "[]")
    return found


def run(*words: str, check: bool = True) -> bool:
    return subprocess.run(words, capture_output=True, check=check, timeout=LIMIT).returncode == 0


def interfaces() -> set[str]:
    """Of this namespace, which stands for the host's own."""
    return {str(link["ifname"]) for link in ip("link")}


def tables() -> list[str]:
    """Of filters among what stands for the host's own."""
    done = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True, timeout=LIMIT)
    return sorted(done.stdout.splitlines())


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    before = interfaces()
    yield tmp_path
    left = left_behind(tmp_path)
    for identity in left:
        trees.send(identity, signal.SIGKILL)
    assert left == []
    assert list(namespaces.PLACE.iterdir()) == []
    assert interfaces() == before
    assert tables() == []


@pytest.fixture
async def networks(root: Path) -> AsyncIterator[Rooted]:
    async with Rooted(root / "networks", INSTANCE, bridges=["lan0"]) as found:
        yield found
        for environment in await found.found(INSTANCE):
            await found.close(environment)


def tapped(card: Card) -> int:
    """What QEMU does with a helper: run it in a shell, and take the tap that it hands over."""
    prefix = "tap,helper="
    assert card.netdev.startswith(prefix)
    command = card.netdev.removeprefix(prefix).replace(",,", ",")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = f"{command} --use-vnet --fd={theirs.fileno()} --br=br0"
        subprocess.run(["sh", "-c", words], pass_fds=[theirs.fileno()], check=True, timeout=LIMIT)
        _, (handle, *_), _, _ = socket.recv_fds(ours, 16, 1)
    return handle


class Tap:
    """A card: frames go through a tap, each behind the header of virtio."""

    def __init__(self, card: Card) -> None:
        self.mac = card.mac
        self.handle = tapped(card)

    def send(self, target: str, content: bytes, *, source: str = "") -> None:
        os.write(self.handle, bytes(10) + frame(source or self.mac, target, content.ljust(46)))

    def hears(self, content: bytes, limit: float = LIMIT) -> bool:
        """Whether a frame of ours with this content arrives in time; others' are passed over."""
        end = time.monotonic() + limit
        while select.select([self.handle], [], [], max(end - time.monotonic(), 0))[0]:
            got = os.read(self.handle, 70_000)[10:]
            if got[12:14] == b"\x88\xb5" and got[14:].startswith(content):
                return True
        return False

    def close(self) -> None:
        os.close(self.handle)


def nic(environment: str, machine: str, place: int, network: str = "left") -> Nic:
    address = "" if network == "lan" else f"192.168.80.{place}/24"
    return Nic(network=network, mac=mac(environment, machine, 0), address=address)


async def wired(
    networks: Rooted, root: Path, environment: str, machine: str, place: int, network: str = "left"
) -> Card:
    directory = root / environment / machine
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return (await networks.wire(environment, machine, directory, [nic(environment, machine, place, network)]))[0]


async def test_machines_of_one_network_hear_each_other_and_nobody_speaks_in_anothers_name(
    networks: Rooted, root: Path
) -> None:
    await networks.open("e1", [LEFT], [])
    await networks.open("e2", [LEFT], [])
    a, b, other = [
        Tap(await wired(networks, root, environment, machine, place))
        for environment, machine, place in (("e1", "a", 10), ("e1", "b", 11), ("e2", "a", 10))
    ]

    a.send(EVERYBODY, b"within e1")
    assert b.hears(b"within e1")
    a.send(EVERYBODY, b"I am b", source=b.mac)
    a.send(EVERYBODY, b"I am nobody", source="52:54:00:99:99:99")
    assert not b.hears(b"I am", 0.3)
    a.send(b.mac, b"for b alone")
    assert b.hears(b"for b alone")
    assert not other.hears(b"within e1", 0.2)
    for tap in (a, b, other):
        tap.close()


async def test_the_namespace_has_its_own_interfaces_and_no_way_out(networks: Rooted, root: Path) -> None:
    await networks.open("e1", [LEFT], [])
    a = Tap(await wired(networks, root, "e1", "a", 10))
    name = uniform(INSTANCE, "e1")

    assert {str(link["ifname"])[:1] for link in ip("-n", name, "link")} == {"l", "b", "p"}
    told = sorted(str(link["ifalias"]) for link in ip("-n", name, "link") if link["ifname"] != "lo")
    assert told == [f"{name}-a", f"{name}-left"], "their names are too short to say whose they are"
    assert ip("-n", name, "route", "show", "default") == []
    # It is there, as the frame that asks for it hears.
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + octets(a.mac) + bytes([192, 168, 80, 10])
    arp += bytes(6) + bytes([192, 168, 80, 1])
    end = time.monotonic() + LIMIT
    heard = b""
    while heard[12:14] != b"\x08\x06" and time.monotonic() < end:
        # Asked again, as anybody does: a card that has just come is not forwarded to yet.
        os.write(a.handle, bytes(10) + octets(EVERYBODY) + octets(a.mac) + b"\x08\x06" + arp)
        if select.select([a.handle], [], [], 0.5)[0]:
            heard = os.read(a.handle, 70_000)[10:]
    assert heard[20:22] == b"\x00\x02"
    a.close()


async def test_a_tap_opens_again_for_a_machine_that_is_powered_on_again(networks: Rooted, root: Path) -> None:
    await networks.open("e1", [LEFT], [])
    first, second = await wired(networks, root, "e1", "a", 10), await wired(networks, root, "e1", "b", 11)
    Tap(first).close()
    again = await wired(networks, root, "e1", "a", 10)
    assert again == first
    a, b = Tap(again), Tap(second)

    b.send(a.mac, b"again")

    assert a.hears(b"again")
    a.close()
    b.close()


async def test_a_bridge_of_the_host_is_one_that_it_allows_and_has(networks: Rooted, root: Path) -> None:
    lan = NetworkSpec(name="lan", bridge="lan0")
    with pytest.raises(Refused, match="bridge docker0: is not one that this host allows"):
        await networks.open("e1", [NetworkSpec(name="lan", bridge="docker0")], [])
    with pytest.raises(Refused, match="bridge lan0: is not on this host"):
        await networks.open("e1", [lan], [])
    run("ip", "link", "add", "lan0", "type", "bridge")
    run("ip", "link", "set", "lan0", "up")
    try:
        before = interfaces()
        await networks.open("e1", [lan, LEFT], [])
        await networks.open("e2", [lan], [])
        a = Tap(await wired(networks, root, "e1", "a", 10, "lan"))
        b = Tap(await wired(networks, root, "e2", "b", 10, "lan"))
        ours = interfaces() - before
        assert len(ours) == 2
        assert all(len(name) <= 15 for name in ours)

        a.send(EVERYBODY, b"on the lan")
        assert b.hears(b"on the lan")
        # Whoever answers there knows a machine by its hardware address.
        a.send(EVERYBODY, b"I am b", source=b.mac)
        a.send(EVERYBODY, b"I am nobody", source="52:54:00:99:99:99")
        assert not b.hears(b"I am", 0.3)
        b.send(a.mac, b"I am b")
        assert a.hears(b"I am b")
        a.close()
        b.close()
        assert len(tables()) == 2

        await networks.unwire("e1", "a")
        assert len(interfaces() - before) == 1
        assert len(tables()) == 1
        await networks.close("e2")
        assert interfaces() == before
        assert tables() == []
    finally:
        run("ip", "link", "delete", "lan0")


async def test_what_a_crash_has_left_is_found_and_swept(root: Path) -> None:
    run("ip", "link", "add", "lan0", "type", "bridge")
    try:
        before = interfaces()
        async with Rooted(root / "networks", INSTANCE, bridges=["lan0"]) as networks:
            await networks.open("e1", [LEFT, NetworkSpec(name="lan", bridge="lan0")], ["example.org:443"])
            await wired(networks, root, "e1", "a", 10, "lan")
            await networks.open("e2", [LEFT], [])
            programs = [("e1", "leases"), ("e1", "gate"), ("e2", "leases")]
            await asyncio.to_thread(until, lambda: all(signed_in(networks.home(e), name) for e, name in programs))
            running = left_behind(root)
        # The agent has gone and its networks are there; then the record of one is lost.
        assert left_behind(root) == running
        assert len(running) == 3
        shutil.rmtree(root / "networks" / "e1")
        async with Rooted(root / "networks", INSTANCE, bridges=["lan0"]) as networks:
            assert await networks.found(INSTANCE) == ["e2"]
            assert [path.name for path in namespaces.PLACE.iterdir()] == [uniform(INSTANCE, "e2")]
            assert interfaces() == before
            assert tables() == []
            assert set(left_behind(root)) < set(running)
            await networks.close("e2")
            await networks.close("e2")
            assert await networks.found(INSTANCE) == []
    finally:
        run("ip", "link", "delete", "lan0")


MAKING = (
    *("hypervisor.namespace_making", "hypervisor.namespace_made", "hypervisor.taps_making", "hypervisor.taps_made"),
    *("hypervisor.taps_making:2", "hypervisor.taps_made:2", "hypervisor.net_recorded", "hypervisor.net_recording"),
)
GOING = ("hypervisor.net_forgotten", "hypervisor.namespace_removing", "hypervisor.namespace_removed")
WORDS = ("open/e1", "wire/e1/a", "wire/e1/b")


@pytest.mark.parametrize("point", MAKING)
async def test_a_kill_while_a_namespace_is_made_leaves_what_the_next_one_completes(point: str, root: Path) -> None:
    for machine in ("a", "b"):
        (root / "e1" / machine).mkdir(mode=0o700, parents=True)
    assert Host(root, *WORDS, ROOTED="1", PADDOCK_FAULT=point).end() == -signal.SIGKILL

    async with Rooted(root / "networks", INSTANCE) as networks:
        await networks.open("e1", [LEFT], [])
        a, b = [Tap(await wired(networks, root, "e1", machine, place)) for machine, place in (("a", 10), ("b", 11))]
        a.send(b.mac, b"whole")
        assert b.hears(b"whole")
        a.close()
        b.close()
        await asyncio.to_thread(until, lambda: len(left_behind(root)) == 1)
        await networks.close("e1")


@pytest.mark.parametrize("point", GOING)
async def test_a_kill_while_a_namespace_goes_leaves_what_the_next_one_removes(point: str, root: Path) -> None:
    for machine in ("a", "b"):
        (root / "e1" / machine).mkdir(mode=0o700, parents=True)
    assert Host(root, *WORDS, "close/e1", ROOTED="1", PADDOCK_FAULT=point).end() == -signal.SIGKILL

    async with Rooted(root / "networks", INSTANCE) as networks:
        assert await networks.found(INSTANCE) == []


async def test_latency_is_given_or_refused_in_words(networks: Rooted, root: Path) -> None:
    slow = NetworkSpec(name="left", subnet="192.168.80.0/24", latency=timedelta(milliseconds=100))
    has_netem = run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms", check=False)
    await networks.open("e1", [slow], [])
    if not has_netem:
        with pytest.raises(Refused, match="network left: this kernel cannot give it latency, loss or rate"):
            await wired(networks, root, "e1", "a", 10)
        return
    run("tc", "qdisc", "del", "dev", "lo", "root")
    a, b = Tap(await wired(networks, root, "e1", "a", 10)), Tap(await wired(networks, root, "e1", "b", 11))
    began = time.monotonic()
    a.send(b.mac, b"slow")
    assert b.hears(b"slow")
    assert time.monotonic() - began >= 0.1
    a.close()
    b.close()


async def test_guests_get_their_address_and_are_told_about_themselves(root: Path) -> None:
    try:
        system = shells.system(root)
    except Unavailable as exc:
        pytest.skip(str(exc))
    keys = root / "keys"
    keys.write_text("ssh-ed25519 AAAAhost operator\n")
    run("ip", "link", "add", "lan0", "type", "bridge")
    run("ip", "address", "add", "10.77.0.1/24", "dev", "lan0")
    run("ip", "link", "set", "lan0", "up")
    metadata = Metadata(listen_addr="10.77.0.1", listen_port=8080, authorized_keys=keys)
    lan = NetworkSpec(name="lan", bridge="lan0")
    try:
        with served("127.0.0.1") as here, served("10.77.0.1") as on_host:
            async with Rooted(root / "networks", INSTANCE, bridges=["lan0"], metadata=metadata) as networks:
                await networks.open("e1", [LEFT, lan], [f"127.0.0.1:{here}"])
                guests = []
                for machine, place in (("a", 10), ("b", 11)):
                    directory = root / machine
                    directory.mkdir(mode=0o700)
                    nics = [nic("e1", machine, place)]
                    nics += [Nic(network="lan", mac="52:54:00:77:00:01")] if machine == "b" else []
                    guests.append(Guest(system, directory, await networks.wire("e1", machine, directory, nics)))
                with guests[0] as a, guests[1] as b:
                    await asyncio.to_thread(_look_around, a, b, here, on_host)
                await networks.close("e1")
                assert left_behind(root) == []
    finally:
        run("ip", "link", "delete", "lan0")


_LEASED = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
set -- $staticroutes
[ -z "$1" ] || ip route add $1 via $2 dev $interface
echo "$router" > /tmp/router
"""


def _look_around(a: Guest, b: Guest, here: int, on_host: int) -> None:
    for guest in (a, b):
        guest.start()
    for guest, address in ((a, "192.168.80.10"), (b, "192.168.80.11")):
        guest.until_up()
        guest.run(f"echo {shlex.quote(_LEASED)} > /tmp/leased; chmod 755 /tmp/leased; ip link set eth0 up")
        guest.until("udhcpc -i eth0 -n -q -f -t 3 -T 1 -O staticroutes -s /tmp/leased")
        assert address in guest.run("ip -4 addr show dev eth0")
        assert guest.run("cat /tmp/router") == ""
    a.until("ping -c 1 -W 1 192.168.80.11")
    assert "192.168.80.11" in a.run("nslookup b 192.168.80.1", limit=60)
    assert a.attempt("nslookup example.org 192.168.80.1", limit=60)[0] != 0
    # Each is told about itself; who takes another's address is told nothing of the other.
    key = "http://169.254.169.254/latest/meta-data"
    assert a.run(f"wget -q -O - {key}/hostname") == "a"
    assert b.run(f"wget -q -O - {key}/hostname") == "b"
    assert "AAAAhost" in a.run(f"wget -q -O - {key}/public-keys/0/openssh-key")
    b.run("ip link set eth0 down")
    a.run("ip addr add 192.168.80.11/24 dev eth0; ip route replace 169.254.169.254 via 192.168.80.1 src 192.168.80.11")
    claim = "arping -q -U -c 2 -I eth0 192.168.80.11"
    assert a.until(f"{claim}; timeout 3 wget -q -O - {key}/hostname", limit=60) == "a"
    # Around the proxy there is nothing.
    a.run("ip route add default via 192.168.80.1")
    for address in ("192.168.80.1", "10.77.0.1", "127.0.0.1", "10.0.2.2"):
        for port in (22, here, on_host):
            assert a.attempt(f"echo | nc -w 1 {address} {port}")[0] != 0, (address, port)
    a.run("ip route del default; ip link set eth1 up; ip addr add 10.0.2.15/24 dev eth1")
    assert a.run(f"http_proxy=http://10.0.2.100:3128 wget -q -O - http://127.0.0.1:{here}/x") == "page for /x"
    # On a bridge of the host one reaches what stands there, the metadata service at its configured address too.
    b.run("ip link set eth1 up; ip addr add 10.77.0.9/24 dev eth1")
    b.until(f"wget -q -O - http://10.77.0.1:{on_host}/x")
    assert b.run("wget -q -O - http://10.77.0.1:8080/latest/meta-data/hostname") == "b"
