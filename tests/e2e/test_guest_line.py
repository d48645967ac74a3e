"""A guest without a network path to the server: its host's agent owns the serial port and relays what is said there.

The host's agent carries the guest by a skill of the tests (carrier.py); everything else is as it is shipped: server,
relay, both agents, the port.
"""

import hashlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import carrier
from tests.e2e.guest import CHANNEL, Guest
from tests.e2e.secure import SecureHouse
from tests.story.house import ROOT
from tools.guest import Image

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

HOST = "metal"
POOL = "- environment: {name: lab, machines: [{name: one}], host: metal, max: 1}\n"
UNIT = "paddock-agent"
MARK = "/var/tmp/began"
COUNTING = f"echo $$ >> {MARK}; for n in $(seq {{most}}); do printf '%0100d\\n' $n; sleep 0.02; done"


class Rack:
    """A server, a host's agent, and the guest that it carries, lent to us."""

    def __init__(self, directory: Path, house: SecureHouse, guest: Guest) -> None:
        self.house = house
        self.guest = guest
        self.id = ""
        self.host: subprocess.Popen[bytes] | None = None
        self._directory = directory

    def install(self, archive: Path) -> None:
        """Put the agent into the guest, on the line, and cut the guest's network for good."""
        self.guest.write("/root/paddock-agent.pyz", archive.read_bytes())
        line = f"virtio:/dev/virtio-ports/{CHANNEL}"
        self.guest.run(f"python3 /root/paddock-agent.pyz configure --line {line}", limit=120)
        self.guest.run(
            f"rm /etc/systemd/network/en.network; systemctl disable systemd-networkd; systemctl start {UNIT}"
        )
        self.guest.run("ip link set $(ls /sys/class/net | grep en) down")

    def start_host(self) -> None:
        """Start the host's agent, enrolled at its first start."""
        state, url = self._directory / HOST, self.house.url.replace("http", "ws", 1) + "/agent"
        argv = carrier.command("run", "--server", url, "--pin", str(self.house.public))
        argv += ["--state", str(state), "--skills", "system,guests"]
        if not (state / "identity").exists():
            argv += ["--code", self.house.post("enrolments", host=HOST)["code"]]
        surroundings = self.house.surroundings(
            {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", carrier.SOCKET: str(self.guest.channel)}
        )
        with (self._directory / "agent.log").open("ab") as log:
            self.host = subprocess.Popen(argv, stdout=log, stderr=log, env=surroundings)
        self.house.until_connected(HOST)

    def borrow(self) -> None:
        """Have the guest lent to us, which builds it: from then on its agent is there to be asked."""
        lease = self.house.granted(self.house.post("leases", pool="lab", ttl=3600)["id"])
        self.id = f"{lease['environment']}.one"
        self.until_connected()

    def until_connected(self) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.house.get(f"agents/{self.id}")
            return found if found["connected"] else None

        found = self.house.until(look, "the guest's agent is in a session", limit=120)
        assert found is not None
        return found

    def begin(self, most: int) -> dict[str, Any]:
        """A script that prints so many lines, once it has begun."""
        self.guest.run(f"rm -f {MARK}")
        row = self.house.order(self.id, "script.run", run=COUNTING.format(most=most))
        self.guest.until(f"test -s {MARK}")
        return row

    def assert_whole(self, row: dict[str, Any], most: int) -> None:
        """It ran to its end, once, and every line is there, once, in order."""
        ended = self.house.over(self.id, row["id"], limit=120)
        assert (ended["state"], ended["exit"]) == ("complete", 0), json.dumps(ended)
        assert [int(line) for line in self.house.output(ended).splitlines()] == list(range(1, most + 1))
        assert self.guest.run(f"wc -l < {MARK}") == "1"

    def close(self) -> None:
        self.house.kill(self.host)
        self.house.close()


@pytest.fixture(scope="module")
def rack(guest_image: Image, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rack]:
    directory = tmp_path_factory.mktemp("rack")
    house = SecureHouse(directory)
    with Guest(directory / "guest", guest_image) as guest:
        made = Rack(directory, house, guest)
        try:
            guest.launch()
            house.furnish(HOST, rest=POOL)
            house.start_server()
            guest.until_up()
            made.install(archive)
            made.start_host()
            made.borrow()
            yield made
        finally:
            made.close()


def test_a_guest_without_a_network_is_asked_over_its_hosts_line(rack: Rack) -> None:
    assert rack.guest.run("ip -br -4 addr show up | grep -v ^lo || true") == ""
    assert rack.until_connected()["boot_id"] == rack.guest.boot_id
    assert rack.house.call(rack.id, "system.facts")["boot_id"] == rack.guest.boot_id
    (machine,) = rack.house.call(rack.house.agent_of(HOST)["id"], "machine.list")["machines"]
    assert (machine["machine"], machine["state"]) == ("one", "relayed")


def test_much_output_comes_whole_over_the_line(rack: Rack) -> None:
    row = rack.house.ask(rack.id, "script.run", run="head -c 3000000 /dev/urandom | base64 -w 100 | tee /var/tmp/said")
    assert row["exit"] == 0
    said = rack.house.output(row)
    assert len(said) == row["outputs"]["out"] > 4_000_000
    assert rack.guest.run("sha256sum < /var/tmp/said").split()[0] == hashlib.sha256(said.encode()).hexdigest()


def test_the_hosts_agent_is_killed_in_mid_sentence_and_the_guests_script_has_noticed_nothing(rack: Rack) -> None:
    row = rack.begin(200)
    assert rack.host is not None
    rack.house.kill(rack.host, signal.SIGKILL)
    rack.start_host()
    rack.assert_whole(row, 200)


def test_the_guests_agent_is_killed_and_takes_its_script_up_again(rack: Rack) -> None:
    row = rack.begin(200)
    rack.guest.run(f"kill -9 $(systemctl show -P MainPID {UNIT})")
    rack.assert_whole(row, 200)


def test_the_server_is_killed_and_the_guests_script_has_noticed_nothing(rack: Rack) -> None:
    row = rack.begin(200)
    rack.house.kill(rack.house.server, signal.SIGKILL)
    rack.house.start_server()
    rack.assert_whole(row, 200)


def test_a_reboot_over_the_line_is_complete_under_a_new_boot_id(rack: Rack) -> None:
    former = rack.guest.boot_id
    row = rack.begin(100_000)
    reboot = rack.house.order(rack.id, "system.reboot", limit=200)
    assert rack.house.over(rack.id, reboot["id"], limit=200)["state"] == "complete"
    booted = rack.guest.until_rebooted(former)
    assert rack.until_connected()["boot_id"] == booted
    ended = rack.house.over(rack.id, row["id"])
    assert (ended["state"], ended["code"]) == ("failed", "interrupted"), ended["message"]
    assert rack.guest.run(f"wc -l < {MARK}") == "1", "it was begun again"


def test_a_power_cut_ends_what_ran_and_nothing_is_begun_again(rack: Rack) -> None:
    row = rack.begin(100_000)
    former = rack.guest.boot_id
    rack.guest.run("sync")
    rack.guest.reset()
    booted = rack.guest.until_rebooted(former)
    ended = rack.house.over(rack.id, row["id"], limit=120)
    assert (ended["state"], ended["code"]) == ("failed", "interrupted"), ended["message"]
    assert rack.until_connected()["boot_id"] == booted
    assert rack.guest.run(f"wc -l < {MARK}") == "1", "it was begun again"
    assert rack.house.call(rack.id, "script.run", run="true")["exit"] == 0
