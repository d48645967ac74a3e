"""Private networks and the gate, as real guests see them: what they reach, and all that they do not."""

import asyncio
import contextlib
import itertools
import re
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from paddock.agent.cables.signing import signed_in
from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.core.machine import Nic, mac
from paddock.hands import trees
from paddock.wire.specs import NetworkSpec
from tests.agent.hypervisor import shells
from tests.agent.hypervisor.shells import Guest
from tools.maven import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

INSTANCE = "0a1b2c3d"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which(shells.QEMU) is None:
        pytest.skip(f"there is no {shells.QEMU} here; on Debian: apt-get install qemu-system-x86")
    try:
        return shells.system(tmp_path_factory.mktemp("guest"))
    except Unavailable as exc:
        pytest.skip(str(exc))


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"page for {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(address: str) -> Iterator[int]:
    """A web server of the host that answers whoever reaches it."""
    server = ThreadingHTTPServer((address, 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def lan_address() -> str:
    """An address of this host on its own network, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.2"
        return str(probe.getsockname()[0])


@dataclass
class Room:
    networks: Rootless
    root: Path
    system: tuple[Path, Path]

    async def guest(self, environment: str, machine: str, nics: list[Nic]) -> Guest:
        directory = self.root / environment / machine
        directory.mkdir(mode=0o700, parents=True)
        cards = await self.networks.wire(environment, machine, directory, nics)
        return Guest(self.system, directory, cards)


def nic(environment: str, machine: str, place: int, network: str = "left") -> Nic:
    index = {"left": 0, "right": 1, "": 2}[network]
    address = f"192.168.{80 + index}.{place}/24" if network else ""
    return Nic(network=network, mac=mac(environment, machine, index), address=address)


@contextlib.asynccontextmanager
async def opened(root: Path, system: tuple[Path, Path]) -> AsyncIterator[Room]:
    keys = root / "keys"
    keys.write_text("ssh-ed25519 AAAAhost operator\n")
    metadata = Metadata(authorized_keys=keys, user_data="#cloud-config\n{}\n")
    async with Rootless(root / "n", INSTANCE, metadata=metadata) as networks:
        try:
            yield Room(networks=networks, root=root, system=system)
        finally:
            for environment in await networks.found(INSTANCE):
                await networks.close(environment)


def up(guest: Guest, dev: str, address: str) -> None:
    guest.run(f"ip addr add {address} dev {dev}; ip link set {dev} up")


async def test_guests_reach_their_own_networks_and_what_is_on_their_list_and_nothing_else(
    system: tuple[Path, Path], tmp_path: Path
) -> None:
    lan = lan_address()
    left, right = NetworkSpec(name="left"), NetworkSpec(name="right")
    ab = [nic("e1", "a", 1), nic("e1", "a", 1, "right"), nic("e1", "a", 1, "")]
    b1 = [nic("e1", "b", 2)]
    c1 = [nic("e2", "c", 2)]
    with served("127.0.0.1") as here, served("127.0.0.1") as closed, served(lan) as on_lan:
        async with opened(tmp_path, system) as room:
            await room.networks.open("e1", [left, right], [f"127.0.0.1:{here}", f"house.example:{here}"])
            await room.networks.open("e2", [left], [])
            with (
                await room.guest("e1", "a", ab) as a,
                await room.guest("e1", "b", b1) as b,
                await room.guest("e2", "c", c1) as c,
            ):
                await asyncio.to_thread(_started, a, b, c)
                await asyncio.to_thread(_private_networks, a, b, c)
                await asyncio.to_thread(_no_spoofing, a, b)
                await asyncio.to_thread(_the_list, a, b, here, closed, lan, on_lan)
                await asyncio.to_thread(_metadata, a, b, c)
                await asyncio.to_thread(_a_killed_switch, room, a)
                await asyncio.to_thread(_a_killed_gate, room, a, here)
                await asyncio.to_thread(_a_machine_again, b, a)
            log = room.networks.access_log("e1").read_text()
            assert re.search(rf"^20\S+Z? a GET 127.0.0.1:{here} 200 ", log, re.MULTILINE)
            assert f" a CONNECT 127.0.0.1:{closed} 403 " in log
            assert not room.networks.access_log("e2").exists()


def _started(*guests: Guest) -> None:
    for guest in guests:
        guest.start()
    for guest in guests:
        guest.until_up()


def _private_networks(a: Guest, b: Guest, c: Guest) -> None:
    assert a.run("ls /sys/class/net").split() == ["eth0", "eth1", "eth2", "eth3", "eth4", "lo"]
    assert a.run("cat /sys/class/net/eth0/address") == mac("e1", "a", 0)
    up(a, "eth0", "192.168.80.1/24")
    up(a, "eth1", "192.168.81.1/24")
    up(b, "eth0", "192.168.80.2/24")
    up(c, "eth0", "192.168.80.3/24")
    a.until("ping -c 1 -W 1 192.168.80.2")
    # The third card is blank, and the other network has nobody else on it.
    assert a.run("ip link set eth2 up; cat /sys/class/net/eth2/operstate") != ""
    assert a.attempt("ping -c 1 -W 1 192.168.81.2")[0] != 0
    # Another environment's network of the same name and subnet is another one, in both directions.
    assert a.attempt("ping -c 2 -W 1 192.168.80.3")[0] != 0
    assert c.attempt("ping -c 2 -W 1 192.168.80.2")[0] != 0


def _no_spoofing(a: Guest, b: Guest) -> None:
    own = a.run("cat /sys/class/net/eth0/address")
    a.run("ip link set eth0 down; ip link set eth0 address 52:54:00:99:99:99; ip link set eth0 up")
    assert a.attempt("ping -c 2 -W 1 192.168.80.2")[0] != 0
    a.run(f"ip link set eth0 down; ip link set eth0 address {own}; ip link set eth0 up")
    a.until("ping -c 1 -W 1 192.168.80.2")


def _the_list(a: Guest, b: Guest, here: int, closed: int, lan: str, on_lan: int) -> None:
    for guest, dev in ((a, "eth4"), (b, "eth2")):
        guest.run(f"ip link set {dev} up; udhcpc -i {dev} -n -q -f -s /bin/true")
        guest.run(f"ip addr add 10.0.2.15/24 dev {dev}")
    proxied = "http_proxy=http://10.0.2.100:3128"
    assert a.run(f"{proxied} wget -q -O - http://127.0.0.1:{here}/x") == "page for /x"
    assert b.run(f"{proxied} wget -q -O - http://127.0.0.1:{here}/y") == "page for /y"
    for port, place in ((closed, "127.0.0.1"), (closed, "localhost"), (on_lan, lan)):
        refused = a.run(f"printf 'CONNECT {place}:{port} HTTP/1.1\\r\\n\\r\\n' | nc -w 5 10.0.2.100 3128 | head -n 1")
        assert " 403 " in refused
    # Around the proxy there is nothing: not the host's loopback, nor its own address, nor what is on the list.
    a.run("ip route add default via 10.0.2.2")
    for address in ("10.0.2.2", lan, "127.0.0.1"):
        for port in (here, closed, on_lan):
            assert a.attempt(f"echo | nc -w 1 {address} {port}")[0] != 0, (address, port)
    assert a.attempt("nslookup localhost 10.0.2.3", limit=60)[0] != 0
    a.run("ip route del default")


def _metadata(a: Guest, b: Guest, c: Guest) -> None:
    for guest, dev, name in ((a, "eth3", "a"), (b, "eth1", "b"), (c, "eth1", "c")):
        guest.run(f"ip link set {dev} up; ip addr add 169.254.169.15/24 dev {dev}")
        told = guest.run("wget -q -O - http://169.254.169.254/openstack/latest/meta_data.json")
        assert f'"hostname": "{name}"' in told
        assert guest.run("wget -q -O - http://169.254.169.254/latest/meta-data/local-hostname") == name
        assert "AAAAhost" in guest.run("wget -q -O - http://169.254.169.254/latest/meta-data/public-keys/0/openssh-key")
    assert a.attempt("wget -q -O - http://169.254.169.254/openstack/latest/others")[0] != 0


def _killed(room: Room, name: str) -> None:
    found = signed_in(room.networks.home("e1"), name)
    assert found is not None
    trees.send(found, signal.SIGKILL)


def _a_killed_switch(room: Room, a: Guest) -> None:
    # Twenty a second, for six seconds, and the switch dies in the second of them.
    a.run("ping -i 0.05 -c 120 -W 1 192.168.80.2 >/tmp/pings 2>&1 &")
    a.until("test $(grep -c ttl= /tmp/pings) -ge 20")
    _killed(room, "net-left")
    a.until("grep -q transmitted /tmp/pings", limit=60)
    said = a.run("cat /tmp/pings")
    seen = [int(number) for number in re.findall(r"seq=(\d+) ttl", said)]
    assert max(later - sooner for sooner, later in itertools.pairwise(seen)) <= 40, said  # 2 s
    assert seen[-1] >= 118
    assert len(seen) == len(set(seen)), "an answer came twice"


def _a_killed_gate(room: Room, a: Guest, here: int) -> None:
    _killed(room, "gate")
    assert "page for /z" in a.until(
        f"http_proxy=http://10.0.2.100:3128 wget -q -O - http://127.0.0.1:{here}/z", limit=20
    )


def _a_machine_again(b: Guest, a: Guest) -> None:
    b.kill()
    b.start()
    b.until_up()
    up(b, "eth0", "192.168.80.2/24")
    a.until("ping -c 1 -W 1 192.168.80.2")
