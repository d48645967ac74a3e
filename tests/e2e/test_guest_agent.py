"""An agent as a newcomer gets it: installed by the one-liner into a real Debian, started by systemd, reached over TLS.

Each test looks into the guest by itself, through a shell that is no part of Paddock: what the agent says of its work
is one thing, what is there is another.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guest import Guest
from tests.e2e.secure import SecureHouse
from tools.guest import Image

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

HOST = "debian"
COPY = "copy"
BASE = "/opt/paddock-agent"
UNIT = "paddock-agent"
MARK = "/var/tmp/began"
COUNTING = (
    f"echo $$ >> {MARK}; n=0; while test $n -lt {{most}}; do echo line $n; n=$((n+1)); sleep 0.05; done; echo end"
)
ONE, TWO = "/dev/disk/by-id/virtio-one", "/dev/disk/by-id/virtio-two"
RULE = "ALL=(root) NOPASSWD: /usr/bin/id"


class Lab:
    """One guest, the agent in it, and the server that it is enrolled with."""

    def __init__(self, house: SecureHouse, guest: Guest) -> None:
        self.house = house
        self.guest = guest
        self.id = ""

    def install(self) -> None:
        """Paste the one-liner, and wait for the agent's hello."""
        said = self.guest.run(self.house.one_liner(HOST), limit=120)
        assert "the agent runs" in said, said
        self.id = str(self.house.until_connected(HOST)["id"])

    def call(self, method: str, *, limit: float = 60, **params: Any) -> dict[str, Any]:
        return dict(self.house.call(self.id, method, limit=limit, **params))

    def refused(self, method: str, **params: Any) -> str:
        return self.house.refused(self.id, method, **params)

    def pid(self) -> int:
        """The agent's process, as systemd knows it."""
        return int(self.guest.run(f"systemctl show -P MainPID {UNIT}"))

    def until_another(self, pid: int) -> int:
        """Wait for another process of the agent that has told systemd that it is ready."""
        other = f"test $(systemctl show -P MainPID {UNIT}) != {pid}"
        return int(self.guest.until(f"{other} && systemctl -q is-active {UNIT} && systemctl show -P MainPID {UNIT}"))

    def begin(self, most: int) -> dict[str, Any]:
        """A script that counts aloud, once it has begun."""
        self.guest.run(f"rm -f {MARK}")
        row = self.house.order(self.id, "script.run", run=COUNTING.format(most=most))
        self.guest.until(f"test -s {MARK}")
        return row

    def assert_whole(self, row: dict[str, Any], most: int) -> None:
        """It ran to its end, once, and every line is there, once, in order."""
        ended = self.house.over(self.id, row["id"])
        assert (ended["state"], ended["exit"]) == ("complete", 0), json.dumps(ended)
        assert self.house.output(ended).splitlines() == [*(f"line {number}" for number in range(most)), "end"]
        assert self.guest.run(f"wc -l < {MARK}") == "1"


@pytest.fixture(scope="module")
def lab(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    house = SecureHouse(directory)
    with Guest(directory / "guest", guest_image, disks={"one": "600M", "two": "600M"}) as guest:
        try:
            guest.launch()
            house.furnish(HOST, COPY)
            house.start_server()
            guest.until_up()
            made = Lab(house, guest)
            made.install()
            yield made
        finally:
            house.close()


# ---- installed -------------------------------------------------------------------------------------------------------


def test_the_one_liner_leaves_a_service_that_says_hello_and_starts_with_the_machine(lab: Lab) -> None:
    agent = lab.house.agent_of(HOST)
    assert agent["connected"]
    assert agent["boot_id"] == lab.guest.boot_id
    assert lab.guest.run(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}").split() == ["active", "enabled"]
    assert lab.guest.run(f"systemctl show -P Type -P Restart {UNIT}").split() == ["notify", "always"]
    assert float(lab.guest.run(f"systemctl show -P WatchdogUSec {UNIT}").rstrip("minsec ")) > 0


def test_nobody_but_root_reads_its_secrets_and_the_code_is_gone(lab: Lab) -> None:
    assert lab.guest.run(f"stat -c '%a %U' {BASE}/state {BASE}/state/identity").split() == [
        "700",
        "root",
        "600",
        "root",
    ]
    assert lab.guest.attempt(f"test -e {BASE}/state/code").code == 1
    assert lab.guest.attempt("ps -eo args | grep -F pdk_ | grep -v grep").out == ""
    assert lab.guest.attempt(f"grep -rF pdk_ {BASE}/etc /etc/systemd/system").code == 1


def test_the_certificate_is_pinned(lab: Lab) -> None:
    """No authority that the guest knows has signed it: without the pin nothing would be trusted."""
    url = f"{lab.house.seen_from_guests}/healthz"
    assert lab.guest.attempt(f"curl -sS {url}").code == 60
    assert "pin = " in lab.guest.run(f"cat {BASE}/etc/agent.conf")


def test_configuring_it_again_changes_nothing(lab: Lab) -> None:
    before = lab.guest.run(f"cd {BASE} && find bin etc -type f -exec stat -c '%n %i %Y %a' {{}} + | sort")
    said = lab.guest.run(f"python3 {BASE}/bin/paddock-agent.pyz configure", limit=60)
    assert "nothing changed" in said
    assert lab.guest.run(f"cd {BASE} && find bin etc -type f -exec stat -c '%n %i %Y %a' {{}} + | sort") == before


# ---- its life --------------------------------------------------------------------------------------------------------


def test_a_killed_agent_is_started_again_and_its_script_has_noticed_nothing(lab: Lab) -> None:
    row = lab.begin(60)
    agent = lab.pid()
    lab.guest.run(f"kill -9 {agent}")
    lab.until_another(agent)
    lab.assert_whole(row, 60)


def test_the_watchdog_replaces_an_agent_that_is_stuck_and_its_script_goes_on(lab: Lab) -> None:
    """With five seconds instead of the unit's sixty, set the way the unit's own comment says."""
    lab.guest.write(f"/etc/systemd/system/{UNIT}.service.d/quick.conf", "[Service]\nWatchdogSec=5\n")
    lab.guest.run(f"systemctl daemon-reload; systemctl restart {UNIT}")
    lab.house.until_connected(HOST)
    row = lab.begin(200)
    agent = lab.pid()
    lab.guest.run(f"kill -STOP {agent}")
    lab.until_another(agent)
    assert "Watchdog timeout" in lab.guest.run(f"journalctl -u {UNIT} --no-pager | grep -i watchdog")
    lab.assert_whole(row, 200)


def test_stopping_the_service_ends_no_script(lab: Lab) -> None:
    row = lab.begin(60)
    lab.guest.run(f"systemctl stop {UNIT}")
    lab.guest.run("pgrep -f 'echo lin[e]|sleep 0.05'")
    lab.guest.run(f"systemctl start {UNIT}")
    lab.assert_whole(row, 60)


# ---- users -----------------------------------------------------------------------------------------------------------


def test_a_user_is_made_as_described_and_removed_without_a_trace(lab: Lab) -> None:
    key = lab.guest.run("rm -f /root/key; ssh-keygen -q -t ed25519 -N '' -C ann -f /root/key && cat /root/key.pub")
    wanted = {"name": "ann", "shell": "/bin/bash", "groups": ["video"], "sudo": [RULE], "keys": [key]}
    assert lab.call("user.add", **wanted)["changed"]
    entry = lab.guest.run("getent passwd ann").split(":")
    assert entry[5:] == ["/home/ann", "/bin/bash"]
    assert lab.guest.run("id -nG ann").split() == ["ann", "video"]
    lab.guest.run("visudo --check --quiet")
    assert lab.guest.run("su ann -c 'sudo -n id -u'") == "0"
    assert lab.guest.attempt("su ann -c 'sudo -n true'").code != 0
    ssh = "ssh -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    assert lab.guest.run(f"{ssh} ann@127.0.0.1 id -un 2>/dev/null") == "ann"
    assert lab.call("user.add", **wanted)["changed"] == []

    lab.guest.run("su ann -c 'sleep 1000 &'")
    lab.call("user.remove", name="ann", home=True, grace=0.5)
    assert lab.guest.attempt("getent passwd ann").code == 2
    assert lab.guest.attempt("ls -d /home/ann /etc/sudoers.d/*ann*").code == 2
    assert lab.guest.attempt("pgrep -x sleep").code == 1
    lab.guest.run("visudo --check --quiet")
    assert lab.call("user.remove", name="ann")["changed"] == []


def test_a_rule_that_visudo_refuses_makes_no_user(lab: Lab) -> None:
    lab.refused("user.add", name="bob", sudo=["ALL=(root NOPASSWD"])
    assert lab.guest.attempt("getent passwd bob").code == 2
    lab.guest.run("visudo --check --quiet")
    lab.refused("user.remove", name="root")


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_the_list_of_disks_says_which_one_carries_the_system(lab: Lab) -> None:
    disks = {disk["serial"]: disk for disk in lab.call("disk.list")["disks"] if disk["serial"]}
    assert set(disks) == {"system", "one", "two"}
    assert [serial for serial, disk in disks.items() if disk.get("system")] == ["system"]
    assert disks["one"]["size"] == 600 << 20


def test_the_systems_disk_is_never_formatted_and_no_other_by_mistake(lab: Lab) -> None:
    system = "/dev/disk/by-id/virtio-system"
    before = lab.guest.run(f"blkid -o export {system}")
    lab.refused("disk.format", device=system, fs="ext4")
    lab.refused("disk.format", device=system, fs="ext4", serial="system", force=True)
    lab.refused("disk.encrypt", device=system, name="x", key_file="/root/x", make_key=True, serial="system", force=True)
    assert lab.guest.run(f"blkid -o export {system}") == before
    lab.refused("disk.format", device=ONE, fs="ext4", serial="two")
    assert lab.guest.run(f"wipefs {ONE}") == ""


def test_a_blank_disk_is_formatted_mounted_by_its_uuid_grown_and_unmounted(lab: Lab) -> None:
    made = lab.call("disk.format", device=ONE, fs="xfs", label="data")
    assert lab.guest.run(f"blkid -s UUID -o value {ONE}") == made["uuid"]
    assert lab.call("disk.format", device=ONE, fs="xfs", label="data")["changed"] is False
    lab.refused("disk.format", device=ONE, fs="ext4")

    lab.call("disk.mount", device=ONE, path="/srv/data")
    lab.guest.run("findmnt --verify --fstab")
    assert lab.guest.run("findmnt -no FSTYPE,LABEL /srv/data").split() == ["xfs", "data"]
    assert lab.guest.run("findmnt --fstab -no SOURCE /srv/data") == f"UUID={made['uuid']}"
    assert lab.call("disk.mount", device=ONE, path="/srv/data")["changed"] == []
    lab.refused("disk.format", device=ONE, fs="ext4", serial="one")

    lab.guest.run("echo kept > /srv/data/file")
    lab.guest.qmp("block_resize", device="d-one", size=900 << 20)
    lab.guest.until(f"test $(lsblk -bdno SIZE {ONE}) = {900 << 20}")
    lab.call("disk.resize", device=ONE)
    assert int(lab.guest.run("df -B1 --output=size /srv/data | tail -1")) > 700 << 20
    assert lab.guest.run("cat /srv/data/file") == "kept"

    lab.guest.run("cd /srv/data && setsid sleep 1000 >/dev/null 2>&1 &")
    row = lab.house.ask(lab.id, "disk.unmount", path="/srv/data")
    assert row["state"] == "failed", "somebody is in there"
    assert "sleep" in row["message"]
    lab.guest.run("pkill -x sleep")
    lab.call("disk.unmount", path="/srv/data")
    assert lab.guest.attempt("findmnt /srv/data").code == 1
    assert lab.guest.attempt("grep /srv/data /etc/fstab").code == 1
    lab.call("disk.mount", device=ONE, path="/srv/data")
    assert lab.guest.run("cat /srv/data/file") == "kept"


def test_an_encrypted_disk_is_luks2_and_opened_by_its_key_file(lab: Lab) -> None:
    made = lab.call("disk.encrypt", device=TWO, name="vault", key_file="/root/vault.key", make_key=True, limit=120)
    lab.guest.run(f"cryptsetup isLuks --type luks2 {TWO}")
    assert lab.guest.run("stat -c '%a %U' /root/vault.key") == "400 root"
    assert lab.guest.run("cryptsetup status vault | grep -o LUKS2") == "LUKS2"
    assert made["uuid"] in lab.guest.run("cat /etc/crypttab")
    lab.refused("disk.format", device=TWO, fs="ext4")
    lab.call("disk.format", device="/dev/mapper/vault", fs="btrfs")
    lab.call("disk.mount", device="/dev/mapper/vault", path="/srv/vault")
    lab.guest.run("echo secret-words > /srv/vault/file; sync")
    assert lab.guest.attempt(f"grep -c secret-words {TWO}").out.strip() == "0"


# ---- the machine as a whole ------------------------------------------------------------------------------------------


def test_another_name_is_the_machines_name_everywhere(lab: Lab) -> None:
    done = lab.call("system.rename", hostname="node-7")
    assert (done["hostname"], done["before"], done["changed"]) == ("node-7", "guest", True)
    assert lab.guest.run("hostname; cat /etc/hostname; hostnamectl hostname").split() == ["node-7"] * 3
    assert lab.guest.run("getent hosts node-7").split()[0] == "127.0.1.1"
    assert lab.call("system.rename", hostname="node-7")["changed"] is False


def test_a_reboot_is_complete_under_a_new_boot_id_and_ends_what_ran(lab: Lab) -> None:
    former = lab.guest.boot_id
    row = lab.begin(100_000)
    reboot = lab.house.order(lab.id, "system.reboot", limit=200, reason="a test")
    assert lab.house.over(lab.id, reboot["id"], limit=200)["state"] == "complete"
    booted = lab.guest.until_rebooted(former)
    assert lab.house.until_connected(HOST)["boot_id"] == booted
    ended = lab.house.over(lab.id, row["id"])
    assert (ended["state"], ended["code"]) == ("failed", "interrupted"), ended["message"]
    assert lab.guest.run(f"wc -l < {MARK}") == "1", "it was begun again"
    assert lab.guest.attempt("pgrep -f 'echo lin[e]'").code == 1
    assert lab.call("script.run", run="hostname")["exit"] == 0
    assert lab.guest.run("hostname; cat /srv/data/file /srv/vault/file").split() == ["node-7", "kept", "secret-words"]
    assert lab.guest.run("cat /proc/sys/kernel/random/boot_id") == booted, "it was booted again"


def test_a_copied_disk_shuts_itself_out_until_it_is_enrolled_and_repeats_nothing(lab: Lab, tmp_path: Path) -> None:
    lab.guest.power_off()
    lab.house.until(lambda: not lab.house.agent_of(HOST)["connected"], "the agent is gone")
    waiting = lab.house.order(lab.id, "script.run", run=f"rm -f {MARK}; hostname >> /var/ran")
    with lab.guest.copied(tmp_path / "copy") as copy:
        copy.start()
        copy.until(f"journalctl -u {UNIT} --no-pager | grep 'shut out'", limit=60)
        told = copy.attempt(f"python3 {BASE}/bin/paddock-agent.pyz status").out
        assert "product UUID" in told
        assert not lab.house.agent_of(HOST)["connected"]
        assert lab.house.get(f"agents/{lab.id}/commands/{waiting['id']}")["state"] == "queued"

        code = lab.house.post("enrolments", host=COPY)["code"]
        copy.run(f"python3 {BASE}/bin/paddock-agent.pyz enrol --code-file -", stdin=f"{code}\n".encode())
        other = lab.house.until_connected(COPY)
        assert other["id"] != lab.id
        assert lab.house.call(other["id"], "script.run", run="true")["exit"] == 0
        assert copy.attempt("test -e /var/ran").code == 1, "it did what it was not told"
        assert copy.run(f"wc -l < {MARK}") == "1"
        _clean(lab.house, other["id"], copy)
    lab.guest.start()
    assert lab.house.over(lab.id, waiting["id"])["state"] == "complete"
    assert lab.guest.run("cat /var/ran") == "node-7"


def _clean(house: SecureHouse, agent: str, guest: Guest) -> None:
    """Make it ready to be imaged, and look for what must not be in an image."""
    guest.run(
        "echo secret > /root/.bash_history; install -d -m 700 /root/.ssh; cp /root/key.pub /root/.ssh/authorized_keys"
    )
    house.call(agent, "system.clean_image")
    guest.until(f"test ! -e {BASE}/state/identity && test ! -e {BASE}/state/ledger", limit=60)
    assert guest.run("cat /etc/machine-id") == ""
    assert guest.attempt("ls /etc/ssh/ssh_host_* /root/.bash_history").out.count("No such file") == 2
    assert guest.run("cat /root/.ssh/authorized_keys") != "", "nobody asked for that"
    assert guest.attempt(f"grep -rlE 'pdk_[A-Za-z0-9]{{20}}|{agent}' {BASE} /var/log /etc /root").out == ""
    house.until(lambda: not house.agent_of(COPY)["connected"], "the cleaned machine's agent has gone")
