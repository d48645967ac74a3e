"""Networks without root: records, switches and gates through kills, changes and the end, without any QEMU."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from paddock.agent.cables.signing import MARK, signed_in
from paddock.agent.paths import name_for
from paddock.agent.skills.hypervisor.images.outside import Uplinks
from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks import uplink
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.core.errors import Missing, Refused
from paddock.core.machine import Nic, mac
from paddock.hands import trees
from paddock.wire.specs import NetworkSpec
from tests.agent.cables.plugs import EVERYBODY, LIMIT, Plug
from tests.agent.hypervisor.netting import INSTANCE

pytestmark = pytest.mark.slow
LEFT, RIGHT = NetworkSpec(name="left"), NetworkSpec(name="right")
SOURCE = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for identity in left_behind(tmp_path):
        trees.send(identity, signal.SIGKILL)


@pytest.fixture
async def networks(root: Path) -> AsyncIterator[Rootless]:
    async with Rootless(root / "networks", INSTANCE) as found:
        yield found
        for environment in await found.found(INSTANCE):
            await found.close(environment)


def left_behind(root: Path) -> list[trees.Identity]:
    """Programs of networks below this directory."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (identity := trees.identify(int(entry))) is not None:
            try:
                words = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(f"{MARK}={root}/".encode()) for word in words):
                found.append(identity)
    return found


def plug(root: Path, environment: str, machine: str) -> Plug:
    return Plug(root / environment / machine, mac(environment, machine, 0))


async def wired(networks: Rootless, root: Path, environment: str, machine: str) -> Plug:
    found = plug(root, environment, machine)
    nic = Nic(network="left", mac=found.mac)
    (card, *_) = await networks.wire(environment, machine, found.directory, [nic])
    assert (card.mac, card.netdev) == (found.mac, "stream,server=on,addr.type=unix,addr.path=net0")
    await asyncio.to_thread(found.accept)
    return found


async def test_machines_of_one_network_hear_each_other_and_nobody_else(networks: Rootless, root: Path) -> None:
    await networks.open("e1", [LEFT, RIGHT], [])
    await networks.open("e2", [LEFT], [])
    a, b, other = [await wired(networks, root, *where) for where in (("e1", "a"), ("e1", "b"), ("e2", "a"))]

    a.send(EVERYBODY, b"within e1")
    assert await asyncio.to_thread(b.hear) == b"within e1"
    other.send(EVERYBODY, b"within e2")
    a.send(EVERYBODY, b"again")

    assert await asyncio.to_thread(b.hear) == b"again"
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(other.hear, 0.2)


async def test_what_is_there_stays_when_it_is_opened_and_wired_again(networks: Rootless, root: Path) -> None:
    await networks.open("e1", [LEFT], [])
    await wired(networks, root, "e1", "a")
    before = left_behind(root)

    await networks.open("e1", [LEFT], [])
    nic = Nic(network="left", mac=mac("e1", "a", 0))
    await networks.wire("e1", "a", root / "e1" / "a", [nic])

    assert left_behind(root) == before
    assert len(before) == 1


async def test_nothing_is_left_of_an_environment_that_is_closed(networks: Rootless, root: Path) -> None:
    await networks.open("e1", [LEFT, RIGHT], ["example.org:443"])
    a = await wired(networks, root, "e1", "a")
    assert len(left_behind(root)) == 3
    assert await networks.found(INSTANCE) == ["e1"]
    assert await networks.found("another") == []

    await networks.close("e1")
    await networks.close("e1")

    assert left_behind(root) == []
    assert await networks.found(INSTANCE) == []
    assert not networks.home("e1").exists()
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(a.hear)


async def test_a_machine_that_is_unwired_is_heard_no_longer(networks: Rootless, root: Path) -> None:
    await networks.open("e1", [LEFT], [])
    a, b = [await wired(networks, root, "e1", machine) for machine in ("a", "b")]

    await networks.unwire("e1", "a")
    await networks.unwire("e1", "a")
    await networks.unwire("e9", "a")

    with pytest.raises(ConnectionError):
        await asyncio.to_thread(a.hear)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(b.hear, 0.1)


async def test_a_network_that_is_no_longer_told_of_ends_and_a_changed_one_changes(
    networks: Rootless, root: Path
) -> None:
    await networks.open("e1", [LEFT, RIGHT], [])
    a, b = [await wired(networks, root, "e1", machine) for machine in ("a", "b")]
    first = left_behind(root)

    await networks.open("e1", [NetworkSpec(name="left", loss=1.0)], [])

    assert len(left_behind(root)) == 1
    assert left_behind(root)[0] in first
    for _ in range(3):
        a.send(EVERYBODY, b"lost")
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(b.hear, 0.7)


async def test_a_killed_switch_is_started_again_and_traffic_goes_on(networks: Rootless, root: Path) -> None:
    await networks.open("e1", [LEFT], [])
    a, b = [await wired(networks, root, "e1", machine) for machine in ("a", "b")]
    (switch,) = left_behind(root)

    trees.send(switch, signal.SIGKILL)
    for one in (a, b):
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(one.hear)
    async with asyncio.timeout(2):
        await asyncio.to_thread(a.accept)
        await asyncio.to_thread(b.accept)
        a.send(EVERYBODY, b"after")
        assert await asyncio.to_thread(b.hear) == b"after"


# ---- what is refused


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (NetworkSpec(name="left", bridge="virbr0"), "which takes root"),
        (NetworkSpec(name="left", loss=1.5), "cannot be"),
        (NetworkSpec(name="left", rate=-1), "cannot be"),
        (RIGHT, "two networks are called right"),
    ],
)
async def test_networks_that_cannot_be_are_refused_before_anything_is_there(
    networks: Rootless, root: Path, network: NetworkSpec, why: str
) -> None:
    with pytest.raises(Refused, match=why):
        await networks.open("e1", [network, RIGHT], [])

    assert not networks.home("e1").exists()


async def test_a_list_that_is_none_is_refused_before_anything_is_there(networks: Rootless) -> None:
    with pytest.raises(Refused, match=r"egress: example\.org has no port"):
        await networks.open("e1", [LEFT], ["example.org"])

    assert not networks.home("e1").exists()


async def test_a_machine_is_wired_to_networks_that_are_there_with_sockets_that_are_its_own(
    networks: Rootless, root: Path
) -> None:
    with pytest.raises(Refused, match="e1: its networks are not open"):
        await networks.wire("e1", "a", root, [])
    await networks.open("e1", [LEFT], [])
    with pytest.raises(Refused, match="e1/a: there is no network right"):
        await networks.wire("e1", "a", root, [Nic(network="right", mac="52:54:00:00:00:01")])
    shared = root / "shared"
    shared.mkdir(mode=0o755)
    with pytest.raises(Refused, match="is not its owner's alone"):
        await networks.wire("e1", "a", shared, [])
    with pytest.raises(Missing):
        await networks.tell("e1", "a", ["ssh-ed25519 A"])


# ---- cards


async def test_blank_cards_are_blank_and_the_uplink_comes_last(networks: Rootless, root: Path) -> None:
    place = root / "m"
    place.mkdir(mode=0o700)
    await networks.open("e1", [LEFT], ["example.org:443"])

    blank, left, out = await networks.wire(
        "e1",
        "a",
        place,
        [
            Nic(network="", mac="52:54:00:00:00:01"),
            Nic(network="left", mac="52:54:00:00:00:02", address="192.168.80.10/24"),
        ],
    )

    assert blank.netdev == ""
    assert left.netdev.endswith("addr.path=net1")
    assert out.netdev.startswith("user,restrict=on,ipv6=off,guestfwd=tcp:10.0.2.100:3128-cmd:")
    assert out.mac not in (blank.mac, left.mac)
    assert (blank.address, left.address, out.address) == ("", "192.168.80.10/24", "10.0.2.15/24")


async def test_without_a_list_there_is_no_uplink_and_no_gate(networks: Rootless, root: Path) -> None:
    place = root / "m"
    place.mkdir(mode=0o700)
    await networks.open("e1", [LEFT], [])

    assert await networks.wire("e1", "a", place, []) == []
    assert signed_in(networks.home("e1"), "gate") is None
    assert networks.variables("e1") == {}
    assert networks.variables("e9") == {}


async def test_variables_lead_to_the_proxy_and_past_it_to_the_environments_own(networks: Rootless, root: Path) -> None:
    place = root / "m"
    place.mkdir(mode=0o700)
    network = NetworkSpec(name="left", subnet="192.168.80.0/24")
    await networks.open("e1", [network], ["example.org:443"])
    await networks.wire("e1", "db", place, [Nic(network="left", mac=mac("e1", "db", 0), address="192.168.80.10/24")])

    found = networks.variables("e1")

    assert found["http_proxy"] == found["HTTPS_PROXY"] == "http://10.0.2.100:3128"
    direct = found["no_proxy"].split(",")
    assert {"localhost", "127.0.0.1", "169.254.169.254", "db", "192.168.80.10", "192.168.80.0/24"} <= set(direct)
    assert found == uplink.variables(["example.org:443"], [network], ["db", "192.168.80.10"])
    assert ",web," in networks.variables("e1", ["web"])["no_proxy"]


async def test_a_gate_whose_orders_are_gone_ends(networks: Rootless, root: Path) -> None:
    await networks.open("e1", [], ["example.org:443"])
    home = networks.home("e1")
    await asyncio.to_thread(until, lambda: signed_in(home, "gate") is not None)
    gate = signed_in(home, "gate")
    assert gate is not None

    (home / "gate.orders").unlink()

    await asyncio.to_thread(until, lambda: not trees.is_alive(gate))


# ---- the gate


def until(is_so: Callable[[], bool]) -> None:
    """Programs start, and hear of new orders, at once and yet later than we are told that they will."""
    end = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def handed(home: Path, name: str) -> socket.socket:
    """A guest's connection, as QEMU makes it: a socket as the standard input of the command."""
    until(lambda: (home / name).is_socket())
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-I", "-S", str(home / uplink.HAND), name]
        subprocess.run(command, stdin=theirs.fileno(), check=True, timeout=LIMIT)
    ours.settimeout(LIMIT)
    return ours


def asked(home: Path, name: str, path: str) -> str:
    with handed(home, name) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n".encode())
        answer = b""
        while got := line.recv(65536):
            answer += got
    return answer.decode()


async def test_a_machine_is_told_about_itself_and_about_nobody_else(root: Path) -> None:
    keys = root / "keys"
    keys.write_text("# operator\nssh-ed25519 AAAAhost operator\n\n")
    metadata = Metadata(authorized_keys=keys, user_data="#cloud-config\n{}\n")
    async with Rootless(root / "networks", INSTANCE, metadata=metadata) as networks:
        await networks.open("e1", [LEFT], [])
        home = networks.home("e1")
        for machine in ("a", "b"):
            place = root / machine
            place.mkdir(mode=0o700)
            (card,) = await networks.wire("e1", machine, place, [])
            assert "guestfwd=tcp:169.254.169.254:80-cmd:" in card.netdev
        await networks.tell("e1", "a", ["ssh-ed25519 AAAAlease"])

        def told(machine: str, path: str) -> str:
            return asked(home, uplink.metadata_socket(machine), path)

        key = "/latest/meta-data/public-keys/0/openssh-key"
        await asyncio.to_thread(until, lambda: "AAAAlease" in told("a", key))
        assert "AAAAhost" in await asyncio.to_thread(told, "a", key.replace("0", "1"))
        assert "AAAAlease" not in await asyncio.to_thread(told, "b", key)
        for machine in ("a", "b"):
            answer = await asyncio.to_thread(told, machine, "/latest/meta-data/hostname")
            assert answer.startswith("HTTP/1.1 200 OK\r\n")
            assert answer.endswith(f"\r\n\r\n{machine}")
            assert "404" in await asyncio.to_thread(told, machine, "/openstack/latest/b")
        await networks.tell("e1", "a", [])
        await asyncio.to_thread(until, lambda: "AAAAlease" not in told("a", key))
        await networks.close("e1")
    assert left_behind(root) == []


async def test_a_machine_that_builds_is_told_about_nobody(root: Path) -> None:
    async with Rootless(root / "networks", INSTANCE, metadata=Metadata()) as networks:
        outside = Uplinks(networks=networks, variables=networks.variables)
        place = root / "image-1"
        place.mkdir(mode=0o700)

        way = await outside.open("image-1", place, ["example.org:443"])

        assert [f"guestfwd=tcp:{uplink.PROXY}-cmd:" in card.netdev for card in way.cards] == [True]
        assert way.env["https_proxy"] == f"http://{uplink.PROXY}"
        await outside.close("image-1")
    assert left_behind(root) == []


def test_the_service_is_configured_by_an_address_and_files(tmp_path: Path) -> None:
    keys, data = tmp_path / "keys", tmp_path / "data"
    keys.write_text("# operator\nssh-ed25519 AAAA operator\n")
    data.write_text("#cloud-config\n")

    none = Metadata.configured("", data, keys)
    assert none == Metadata(is_served=False, user_data="#cloud-config\n", authorized_keys=keys)
    own = Metadata.configured("169.254.169.254:80", data, keys)
    assert own == Metadata(user_data="#cloud-config\n", authorized_keys=keys)
    assert own.keys() == ("ssh-ed25519 AAAA operator",)
    seed = Metadata.configured("127.0.0.1:8080", None, None)
    assert seed == Metadata(listen_addr="127.0.0.1", listen_port=8080)


@pytest.mark.parametrize("place", ["8080", "localhost:8080", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536"])
def test_what_is_no_address_is_refused(place: str) -> None:
    with pytest.raises(Refused, match="is no ADDRESS:PORT"):
        Metadata.configured(place, None, None)


def test_a_file_that_cannot_be_read_is_refused_by_its_name(tmp_path: Path) -> None:
    for user_data, keys in ((tmp_path / "nowhere", None), (None, tmp_path / "nowhere")):
        for place in ("127.0.0.1:8080", ""):
            with pytest.raises(Refused, match="nowhere"):
                Metadata.configured(place, user_data, keys)


async def test_who_asks_for_the_way_out_is_in_the_access_log_which_stays(networks: Rootless, root: Path) -> None:
    place = root / "m"
    place.mkdir(mode=0o700)
    await networks.open("e1", [LEFT], ["example.org:443"])
    await networks.wire("e1", "a", place, [])

    def ask() -> bytes:
        with handed(networks.home("e1"), uplink.uplink_socket("a")) as line:
            line.sendall(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n\r\n")
            return line.recv(100)

    answer = await asyncio.to_thread(ask)
    await networks.close("e1")

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert " a CONNECT 127.0.0.1:22 403 " in networks.access_log("e1").read_text()


# ---- kills


class Host:
    """The process of tests.agent.hypervisor.netting."""

    def __init__(self, root: Path, *words: str, **env: str) -> None:
        command = [sys.executable, "-m", "tests.agent.hypervisor.netting", str(root), *words]
        paths = os.pathsep.join([str(SOURCE), str(SOURCE / "src")])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, **env},
        )

    def said(self) -> list[str]:
        """What it found when all was carried out."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().split()

    def killed(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> int:
        self.process.communicate(timeout=LIMIT)
        return self.process.returncode


WORDS = ("open/e1", "wire/e1/a", "wire/e1/b")


def test_switches_and_gates_outlive_the_agent_and_are_found_again(root: Path) -> None:
    a, b = plug(root, "e1", "a"), plug(root, "e1", "b")
    first = Host(root, *WORDS)
    assert first.said() == ["done", "e1"]
    a.accept()
    b.accept()
    before = left_behind(root)
    assert len(before) == 2

    first.killed()
    a.send(EVERYBODY, b"nobody looks after us")
    assert b.hear() == b"nobody looks after us"

    second = Host(root)
    assert second.said() == ["done", "e1"]
    assert left_behind(root) == before
    a.send(EVERYBODY, b"on the same line")
    assert b.hear() == b"on the same line"
    second.killed()
    # Dead while nobody looked: whoever comes next starts them again.
    for identity in before:
        trees.send(identity, signal.SIGKILL)
    third = Host(root)
    assert third.said() == ["done", "e1"]
    a.lose()
    b.lose()
    a.send(EVERYBODY, b"on another line")
    assert b.hear() == b"on another line"
    third.end()
    assert Host(root, "close/e1").end() == 0
    assert left_behind(root) == []


@pytest.mark.parametrize(
    "point",
    ["hypervisor.net_recording", "hypervisor.net_recording:2", "hypervisor.net_recorded", "hypervisor.net_recorded:2"],
)
def test_a_kill_while_networks_are_made_leaves_what_the_next_one_completes(point: str, root: Path) -> None:
    a, b = plug(root, "e1", "a"), plug(root, "e1", "b")
    assert Host(root, *WORDS, PADDOCK_FAULT=point).end() == -signal.SIGKILL

    second = Host(root, *WORDS)
    assert second.said() == ["done", "e1"]

    a.send(EVERYBODY, b"whole")
    assert b.hear() == b"whole"
    until(lambda: len(left_behind(root)) == 2)  # one that was started twice goes by itself
    second.end()
    assert Host(root, "close/e1").end() == 0
    assert left_behind(root) == []


@pytest.mark.parametrize("point", ["hypervisor.net_forgetting", "hypervisor.net_forgotten"])
def test_a_kill_while_networks_go_leaves_what_the_next_one_removes(point: str, root: Path) -> None:
    plug(root, "e1", "a")
    assert Host(root, "open/e1", "wire/e1/a", "close/e1", PADDOCK_FAULT=point).end() == -signal.SIGKILL
    assert len(left_behind(root)) == 2

    second = Host(root)
    owned = second.said()[1:]
    second.end()

    # What is forgotten is swept at once; what is not is still there for whoever asks for its end.
    assert owned == (["e1"] if point == "hypervisor.net_forgetting" else [])
    assert Host(root, "close/e1").end() == 0
    assert left_behind(root) == []
    assert list((root / "networks").glob("[!.]*")) == []


@pytest.mark.parametrize("point", ["cable.signing", "cable.signed"])
def test_a_kill_while_programs_sign_ends_with_one_of_each(point: str, root: Path) -> None:
    a, b = plug(root, "e1", "a"), plug(root, "e1", "b")
    once = root / "once"
    host = Host(root, *WORDS, PADDOCK_CABLE_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    host.said()
    until(once.exists)
    host.killed()

    second = Host(root, *WORDS)
    assert second.said() == ["done", "e1"]
    a.lose()
    b.lose()
    a.send(EVERYBODY, b"whole")
    assert b.hear() == b"whole"
    until(lambda: len(left_behind(root)) == 2)  # one that was started twice goes by itself
    second.end()
    assert Host(root, "close/e1").end() == 0
    assert left_behind(root) == []


def test_a_directory_without_a_record_is_swept_with_all_that_runs_in_it(root: Path) -> None:
    plug(root, "e1", "a")
    first = Host(root, "open/e1", "wire/e1/a")
    first.said()
    first.killed()
    assert left_behind(root)
    (root / "networks" / name_for("e1") / "environment.json").unlink()

    second = Host(root)
    assert second.said() == ["done"]

    assert left_behind(root) == []
    assert not (root / "networks" / name_for("e1")).exists()
    second.end()


async def test_a_record_that_cannot_be_read_is_none_and_what_it_was_of_can_be_opened_again(root: Path) -> None:
    plug(root, "e1", "a")
    first = Host(root, "open/e1", "wire/e1/a", "open/e2")
    first.said()
    first.killed()
    home = root / "networks" / name_for("e1")
    assert trees.marked(MARK, str(home))
    (home / "environment.json").write_text("nonsense")

    async with Rootless(root / "networks", INSTANCE) as networks:
        assert await networks.found(INSTANCE) == ["e2"]
        assert not home.exists()
        assert trees.marked(MARK, str(home)) == []
        await networks.open("e1", [LEFT], [])
        assert await networks.found(INSTANCE) == ["e1", "e2"]
        for environment in ("e1", "e2"):
            await networks.close(environment)
    assert left_behind(root) == []
