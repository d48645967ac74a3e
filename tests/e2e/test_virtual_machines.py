"""Virtual machines on the real thing: a server, a host's agent, QEMU, and a Debian that is forked.

One image, one template, one cold boot for each thing that only a cold boot can show; everything else is a fork.
"""

import array
import base64
import fcntl
import hashlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from tests.e2e.lab import BOOTED, FORKED, LONG, MEMORY, Lab, Lent, opened
from tests.story.house import RECHECK, assert_whole, waiting
from tools.guest import Image
from tools.maven import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

FORKS = 8
POOLS = f"""
- environment:
    name: eight
    machines: [{{name: m, image: plain, memory: {MEMORY}, nets: [lan], count: {FORKS}, display: true}}]
    networks: [{{name: lan}}]
    host: local
- environment:
    name: pair
    machines:
      - {{name: one, image: plain, memory: {MEMORY}, nets: [lan], display: true}}
      - {{name: two, image: plain, memory: {MEMORY}, nets: [lan], display: true}}
    networks: [{{name: lan}}]
    host: local
- environment:
    name: single
    machines: [{{name: only, image: plain, memory: {MEMORY}, display: true}}]
    host: local
- environment:
    name: linked
    machines:
      - {{name: one, image: plain, memory: {MEMORY}, nets: [lan], display: true}}
      - {{name: two, image: plain, memory: {MEMORY}, nets: [lan], display: true}}
    networks: [{{name: lan}}]
    egress: ["192.0.2.1:443"]
    host: local
    min-ready: 0
- job:
    name: trip
    environment: linked
    trusted: true
    limit: 30m
    limits: {{hello: 20m, before: 20m}}
    before:
      - {{name: leave, run: 'touch /run/enough; cat /proc/sys/kernel/random/boot_id; echo left > /var/left'}}
      - {{name: again, reboot: true, on: one, within: 10m}}
      - {{name: jump, kexec: {{kernel: /vmlinuz, initrd: /initrd.img}}, on: two, within: 10m}}
    steps:
      - {{name: come, run: 'cat /proc/sys/kernel/random/boot_id /var/left; echo "$PADDOCK_MACHINE came" > /dev/ttyS0'}}
      - name: cut
        run: |
          card=$(ip -4 -br addr | grep 10.0.2.15 | cut -d ' ' -f 1)
          ip link set "$card" down
          echo cut "$card"
      - {{name: meet, on: two, run: 'ssh -o BatchMode=yes one hostname'}}
- project: {{name: openstack-dev/ci-sandbox, branches: [master], jobs: [trip]}}
"""
EVENTS = (RECHECK,)


@pytest.fixture(scope="module")
def lab(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    try:
        with opened(tmp_path_factory.mktemp("lab"), guest_image, POOLS) as made:
            for event in EVENTS:
                made.house.tell(event)
            made.house.start_server()
            made.house.start_agent()
            warmed(made)
            yield made
    except Unavailable as exc:
        pytest.skip(str(exc))


def warmed(lab: Lab) -> None:
    """There is a template."""
    with lab.lending("single", limit=LONG):
        pass


# ---- a network of their own


def test_two_machines_reach_each_other_and_nothing_else(lab: Lab) -> None:
    with lab.lending("pair") as lent:
        lab.everywhere(lent, "touch /run/enough")
        address = lent.machines["two"]["nics"][0]["address"].partition("/")[0]
        assert lab.run(lent, "one", f"busybox ping -c 2 two; busybox ping -c 2 {address}").count(" 0% packet loss") == 2
        key = lent.machines["two"]["host_key"]
        strict = "-o BatchMode=yes -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/tmp/known"
        for name in ("two", address):
            script = f"echo '{name} {key}' > /tmp/known; rm -f ~/.ssh/known_hosts; ssh {strict} {name} hostname"
            assert lab.run(lent, "one", script) == "two\n"
        # Of another key it is told, and does not go on.
        other = lent.machines["one"]["host_key"]
        wrong = f"echo 'two {other}' > /tmp/known; rm -f ~/.ssh/known_hosts; ssh {strict} two hostname"
        assert "verification failed" in lab.run(lent, "one", f"{wrong} 2>&1", exit=255)

        port = lab.house.url.rpartition(":")[2]
        targets = [(host, port) for host in ("10.0.2.2", *addresses_of_host())]
        for machine, said in lab.everywhere(lent, TRY.format(targets=targets)).items():
            other = {"one": "11", "two": "10"}[machine]
            assert said.split() == ["tried", "tried", f"192.168.80.{other}"], said


TRY = """
cat > /tmp/try <<'END'
import socket
for host, port in {targets}:
    with socket.socket() as asking:
        asking.settimeout(3)
        try:
            asking.connect((host, int(port)))
        except ConnectionRefusedError:
            print("REFUSED", host, port)
        except OSError:
            continue  # no way, or no answer
        else:
            print("REACHED", host, port)
print("tried")
END
python3 /tmp/try
# The same with an address and a route as an uplink gives them.
card=$(ip -br -4 addr show up | awk '$1 != "lo" {{print $1}}')
ip addr add 10.0.2.15/24 dev $card; ip route add default via 10.0.2.2 dev $card
python3 /tmp/try
ip addr del 10.0.2.15/24 dev $card
# Whoever else is on the wire would say where.
python3 - <<'END'
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    for last in range(1, 255):
        try:
            asking.sendto(b"?", (f"192.168.80.{{last}}", 9))
        except OSError:
            pass
END
while ip neigh show dev $card | grep -q INCOMPLETE; do :; done
ip neigh show dev $card | awk '/lladdr/ {{print $1}}'
"""


def addresses_of_host() -> list[str]:
    """Of the cards of this very host, but for its loopback, which a guest has too."""
    cards = array.array("B", bytes(64 * 40))
    address, length = cards.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        told = fcntl.ioctl(asking, SIOCGIFCONF, struct.pack("iL", length, address))
    (used,) = struct.unpack_from("i", told)
    found = [socket.inet_ntoa(cards[at + 20 : at + 24].tobytes()) for at in range(0, used, 40)]
    return [one for one in found if not one.startswith("127.")]


SIOCGIFCONF = 0x8912


# ---- jobs, consoles, buttons


def test_a_job_reboots_one_fork_and_jumps_in_the_other_and_goes_on_under_new_boot_ids(lab: Lab) -> None:
    run = lab.house.run("done", limit=LONG + BOOTED)
    assert run["verdict"] == "success", (run["reason"], lab.house.log("agent"))

    def log(name: str) -> list[str]:
        return lab.house.step_log(run["id"], name).split()

    assert log("main-1-one")[1] == "left" == log("main-1-two")[1]
    for machine in ("one", "two"):
        assert log(f"before-1-{machine}")[0] != log(f"main-1-{machine}")[0], "another kernel runs"
    for machine in ("one", "two"):
        said = log(f"main-2-{machine}")
        assert (said[0], len(said)) == ("cut", 2), "it had an uplink, and has none"
    assert log("main-3-two")[-1] == "one", "keys and network are there after a reboot and without an uplink"

    console = lab.house.step_log(run["id"], "console-1-one")
    assert console.index("drawn ") < console.index("one came"), "what it said before and after its reboot"
    assert "two came" in lab.house.step_log(run["id"], "console-1-two")


def test_the_serial_line_is_followed_typed_on_and_looked_at(lab: Lab) -> None:
    with lab.lending("single") as lent:
        lab.run(lent, "only", "touch /run/enough; echo hello from inside > /dev/ttyS0")
        reading = lab.begin(lent, "only", "exec < /dev/ttyS0; echo reads; head -n 1")
        assert next(iter(lab.client.output(reading))) == b"reads\n"
        words = ("env", "console", lent.id, "only", "--input", "--for", "10s")
        said = subprocess.run(
            [sys.executable, "-m", "paddock", *words, "--server", lab.house.url, "--state", str(lab.house.state)],
            input=b"typed outside\n",
            capture_output=True,
            timeout=120,
            check=False,
            env=lab.house.surroundings({}),
        )
        assert b"drawn " in said.stdout, said
        assert b"hello from inside" in said.stdout
        assert lab.finished(reading) == "reads\ntyped outside\n"

        shot = lab.press(lent, "only", "screenshot")
        assert shot["state"] == "complete", shot
        png = base64.b64decode(shot["result"]["png"])
        assert png.startswith(b"\x89PNG\r\n")
        assert len(png) > 200


def test_buttons_obey_who_has_the_machine(lab: Lab) -> None:
    with lab.lending("single") as before:
        pass
    with lab.lending("single") as lent:
        lab.run(lent, "only", "touch /run/enough")
        assert lent.id == before.id
        with pytest.raises(AssertionError, match="fence"):
            lab.house.post(f"environments/{lent.id}/machines/only/power", action="off", fence=before.fence)
        first = lab.boot_id(lent, "only")
        (name,) = [one for one in lab.running() if lent.id in one]

        assert lab.press(lent, "only", "power", action="off")["state"] == "complete"
        assert name not in lab.running()
        assert lab.press(lent, "only", "power", action="on")["state"] == "complete"
        second = lab.booted(lent, "only", after=first)
        assert lab.press(lent, "only", "power", action="reset")["state"] == "complete"
        third = lab.booted(lent, "only", after=second)
        assert {one.partition("+")[2] for one in (first, second, third)} == {first.partition("+")[2]}, "it is itself"
        assert lab.run(lent, "only", "hostname") == "only\n"


# ---- deaths


def test_a_kill_of_the_hosts_agent_is_not_noticed_inside(lab: Lab) -> None:
    with lab.lending("single") as lent:
        command = lab.begin(lent, "only", waiting("it", Path("/run/gate")))
        pid = lab.running()[name_of(lab, lent, "only")]
        lab.until_running(command)

        lab.house.kill(lab.house.agent)
        lab.house.start_agent()

        lab.run(lent, "only", "touch /run/enough /run/gate")
        assert_whole(lab.finished(command), "it")
        assert lab.running()[name_of(lab, lent, "only")] == pid
        assert lab.is_tidy()


def test_a_machine_that_was_killed_is_replaced(lab: Lab) -> None:
    with lab.lending("single") as lent:
        name = name_of(lab, lent, "only")
        pid = lab.running()[name]
        os.kill(pid, signal.SIGKILL)
        lab.house.until(lambda: not lab.boot_id(lent, "only"), "it is away")
    lab.house.until_environments("ready", limit=FORKED)
    assert lab.running()[name] != pid
    lab.house.until(lab.is_tidy, "nothing is left")


def test_a_kill_of_the_server_while_a_machine_is_forked_lends_it_once(lab: Lab) -> None:
    with lab.lending("single") as first:
        pass
    asked = lab.house.post("leases", pool="single", ttl=7200)["id"]
    name = name_of(lab, first, "only")
    lab.house.until(lambda: lab.records().get(name, {}).get("stage") == "making", "a fork is under way", limit=FORKED)
    lab.house.kill(lab.house.server)
    lab.house.start_server()
    lent = lab.granted(asked)
    assert (lent.id, lent.fence > first.fence) == (first.id, True)
    assert [one["id"] for one in lab.house.get("leases", state="granted")["items"]] == [asked]
    assert lab.run(lent, "only", "touch /run/enough; hostname") == "only\n"
    lab.house.until(lab.is_tidy, "nothing is left")
    lab.give_back(lent)


def name_of(lab: Lab, lent: Lent, machine: str) -> str:
    return lab.layout.name(lent.id, machine)


# ---- disks that are kept


def test_the_disks_of_what_is_held_come_up_again(lab: Lab) -> None:
    lent = lab.lend("single")
    lab.run(lent, "only", "touch /run/enough; echo what failed > /var/why")
    booked = lab.house.get("hosts/local")["booked"]["memory"]
    lab.house.post(f"environments/{lent.id}/hold", ttl=3600, disks=True)
    lab.give_back(lent)
    lab.house.until(
        lambda: lab.house.get(f"environments/{lent.id}")["state"] == "saved", "its disks are kept", limit=FORKED
    )
    assert name_of(lab, lent, "only") not in lab.running()
    assert lab.house.get("hosts/local")["booked"]["memory"] < booked

    again = lab.granted(lab.house.post(f"environments/{lent.id}/fork", ttl=3600)["id"], limit=BOOTED)
    assert again.id != lent.id
    assert again.machines["only"]["start"] == "boot"
    assert lab.run(again, "only", "cat /var/why; hostname; cat /etc/machine-id").split()[:3] == [
        "what",
        "failed",
        "only",
    ]
    lab.give_back(again)
    lab.house.post(f"environments/{lent.id}/release")
    lab.house.until(lambda: not list(lab.layout.saved.iterdir()), "the copies are gone", limit=FORKED)


# ---- the next one


def test_two_machines_are_ready_again_soon_after_they_were_given_back(lab: Lab) -> None:
    with lab.lending("pair") as lent:
        lab.everywhere(lent, "touch /run/enough")
    began = time.monotonic()
    lab.house.until(
        lambda: lab.house.get(f"environments/{lent.id}")["state"] == "ready", "they are ready", limit=FORKED
    )
    took = time.monotonic() - began
    print(f"release to ready of two machines: {took:.2f} s")
    assert {one["start"] for one in lab.records().values() if one["environment"] == lent.id} == {"fork"}


# ---- what a fork must not share: at the end, for what is given back is forked anew, and eight are many


def test_eight_forks_of_one_machine_share_nothing_that_tells_machines_apart(lab: Lab) -> None:
    before = sealed(lab)
    with lab.lending("eight") as lent:
        assert {one["start"] for one in lent.machines.values()} == {"fork"}, lent.machines
        began = time.time()
        first = lab.everywhere(lent, "head -c 32 /dev/urandom | base64 -w0; date +' %s.%N'")
        ended = time.time()
        for machine, said in first.items():
            assert began - 1 <= float(said.split()[1]) <= ended + 1, f"{machine} has another time"
        assert_all_differ([said.split()[0] for said in first.values()])

        for one, other in combinations([drawn(lab, lent, machine) for machine in lent.machines], 2):
            assert not one & other, "what ran already drew the same in two forks"
        lab.everywhere(lent, "touch /run/enough")

        told = told_inside(lab, lent)
        for what in ("machine_id", "host_key", "mac", "ledger", "boot_id", "address"):
            assert_all_differ([one[what] for one in told.values()])
        assert len({one["card"] for one in told.values()}) == 1, "what is the same in all is called the same"
        for machine, one in lent.machines.items():
            assert told[machine]["host_key"] == " ".join(one["host_key"].split()[:2])
            assert told[machine]["mac"] == one["nics"][0]["mac"]
            assert told[machine]["address"] == one["nics"][0]["address"]
            assert told[machine]["hostname"] == machine

        lab.everywhere(lent, "hostname > /var/mine-$(hostname); sync")
        seen = lab.everywhere(lent, "ls /var/ | grep mine-")
        assert seen == {machine: f"mine-{machine}\n" for machine in lent.machines}

        secrets = []
        for machine, one in list(lent.machines.items())[:2]:
            served, *words = lab.run(lent, machine, SECRETS).split()
            assert served == one["host_key"].split()[1], "sshd has the key of its fork"
            secrets.append(words)
    after = sealed(lab)
    assert not [file for file in before if after.get(file) != before[file]], "a base was written to"
    below = [*lab.layout.images.rglob("*"), *lab.layout.templates.rglob("*")]
    for words in secrets:
        assert len(words) == 4
        for word in words:
            assert not [file for file in below if holds(file, word.encode())], "a base holds an identity"
    assert [file for file in below if holds(file, b"drawer.py")], "what is looked for would be found"


SECRETS = """
ssh-keyscan -T 100 -t ed25519 127.0.0.1 2> /dev/null | awk '{print $3}'
sed -n 3p /etc/ssh/ssh_host_ed25519_key; sed -n 3p /root/.ssh/paddock; cat /etc/machine-id
python3 -c 'import json; print(json.load(open("/opt/paddock-agent/state/woken.json"))["wake_id"])'
"""
TELL = """
cat /etc/machine-id; hostname
ip -br link show up | awk '$1 != "lo" {print $1, $3}'; ip -br -4 addr show up | awk '$1 != "lo" {print $3}'
cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub
"""


TOLD = ("machine_id", "hostname", "card", "mac", "address")


def told_inside(lab: Lab, lent: Lent) -> dict[str, dict[str, str]]:
    found = {}
    for machine, said in lab.everywhere(lent, TELL).items():
        *words, kind, key = said.split()
        found[machine] = dict(zip(TOLD, words, strict=True))
        found[machine] |= {"host_key": f"{kind} {key}", "boot_id": lab.boot_id(lent, machine)}
        found[machine] |= {"ledger": lab.ledger(lent, machine)}
    return found


def drawn(lab: Lab, lent: Lent, machine: str) -> set[str]:
    """What the service that ran in the template has drawn since the machine is one of its own."""
    template = lab.records()[name_of(lab, lent, machine)]["template"]
    before = (lab.layout.templates / template / "console.log").read_text(errors="replace")
    assert len(LINE.findall(before)) > 3, before[-1000:]

    def look() -> set[str]:
        since = (lab.directory(lent, machine) / "console.log").read_text(errors="replace")
        # A line that the template began is the template's.
        found = {match[1] for match in LINE.finditer(before + since) if match.start() >= len(before)}
        return found if len(found) > 3 else set()

    return set(lab.house.until(look, f"{machine} has drawn a few"))


LINE = re.compile(r"drawn \d+ ([0-9a-f]{32}) end")


def assert_all_differ(found: list[str]) -> None:
    assert all(found), found
    assert len(set(found)) == len(found), found


def sealed(lab: Lab) -> dict[str, str]:
    """Checksums of all that machines are made from."""
    files = [*lab.layout.images.rglob("*"), *lab.layout.templates.rglob("*")]
    return {str(file): checksum(file) for file in files if file.is_file() and file.name not in ("used", "layer.json")}


def parts(file: Path) -> Iterator[bytes]:
    """What a file holds, without its holes."""
    with file.open("rb", buffering=0) as opened:  # a buffer knows nothing of os.lseek
        end = 0
        while True:
            try:
                begin = os.lseek(opened.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(opened.fileno(), begin, os.SEEK_HOLE)
            yield os.pread(opened.fileno(), end - begin, begin)


def checksum(file: Path) -> str:
    found = hashlib.blake2b()
    for part in parts(file):
        found.update(part)
    return found.hexdigest()


def holds(file: Path, word: bytes) -> bool:
    return file.is_file() and not file.is_symlink() and any(word in part for part in parts(file))
