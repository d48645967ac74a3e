"""Disks, users and the journal of a real machine: what a loop device or a namespace cannot show.

The skills are asked in the guest itself; how orders reach an agent is another test's matter.
"""

import io
import json
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.agent.room import CHILD
from tests.e2e.guest import Guest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = Path(__file__).parents[2] / "src"
SITE = Path(sysconfig.get_path("purelib"))


@pytest.fixture(scope="module")
def guest(common_guest: Guest) -> Guest:
    common_guest.run("mkdir -p /opt/src && tar -xz -C /opt/src", stdin=_packed())
    common_guest.write("/opt/child.py", CHILD)
    return common_guest


def _packed() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for room in ("__init__.py", "core", "wire", "hands", "agent"):
            archive.add(SOURCE / "paddock" / room, f"paddock/{room}", filter=_without_caches)
        for package in ("websockets", "python_socks", "yaml"):
            archive.add(SITE / package, package, filter=_without_caches)
    return packed.getvalue()


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name else member


def ask(guest: Guest, method: str, **params: Any) -> dict[str, Any]:
    """What the skill answers; what it refuses is in `message`."""
    module = {"disk": "disks", "user": "users", "log": "logs"}[method.partition(".")[0]]
    asked = json.dumps({"method": method, "params": params}) + "\n"
    command = f"mkdir -p /var/room; PYTHONPATH=/opt/src python3 -S /opt/child.py paddock.agent.skills.{module}"
    answer: dict[str, Any] = json.loads(guest.run(command, stdin=asked.encode(), limit=120).splitlines()[-1])
    return dict(answer.get("result", {}), **{name: answer[name] for name in ("message",) if name in answer})


def disk(serial: str) -> str:
    return f"/dev/disk/by-id/virtio-{serial}"


def test_disks_have_their_serials_and_the_system_is_never_touched(guest: Guest) -> None:
    told = {one["serial"]: one for one in ask(guest, "disk.list")["disks"] if "serial" in one}
    assert {"system", "SAFE", "GROWS", "OURS"} <= set(told)
    assert told["system"]["system"] == "carries /"
    assert told["system"]["fs"] == "ext4"
    system = told["system"]["device"]
    wanted = {"device": system, "fs": "xfs", "serial": "system", "force": True}
    assert "the system's disk is never touched" in ask(guest, "disk.format", **wanted)["message"]
    assert (
        "has serial SAFE, not GROWS"
        in ask(guest, "disk.format", **{**wanted, "device": disk("SAFE"), "serial": "GROWS"})["message"]
    )


def test_an_encrypted_disk_is_open_and_mounted_after_a_reboot(guest: Guest) -> None:
    wanted = {"device": disk("SAFE"), "name": "safe", "key_file": "/etc/safe.key", "make_key": True}
    made = ask(guest, "disk.encrypt", **wanted)
    assert made["changed"] == ["key", "luks", "opened", "crypttab"]
    assert ask(guest, "disk.encrypt", **wanted)["changed"] == []
    assert guest.run("stat -c '%a %U %s' /etc/safe.key") == "400 root 64"
    assert guest.run("cat /etc/crypttab | grep -v '^#'") == f"safe UUID={made['uuid']} /etc/safe.key luks,nofail"
    assert "is part of /dev/mapper/safe" in ask(guest, "disk.format", device=disk("SAFE"), fs="ext4")["message"]

    assert ask(guest, "disk.format", device="/dev/mapper/safe", fs="ext4", label="safe")["changed"] is True
    mounted = ask(guest, "disk.mount", device="/dev/mapper/safe", path="/srv/safe")
    assert mounted["changed"] == ["mounted", "fstab"]
    guest.run("echo precious > /srv/safe/file; sync")
    guest.reboot()
    assert guest.until("findmnt -no SOURCE /srv/safe && cat /srv/safe/file") == "/dev/mapper/safe\nprecious"
    assert ask(guest, "disk.encrypt", **wanted)["changed"] == []
    (told,) = [one for one in ask(guest, "disk.list")["disks"] if one["device"] == "/dev/mapper/safe"]
    assert told["mounted"] == ["/srv/safe"]
    assert ask(guest, "disk.unmount", path="/srv/safe")["changed"] == ["unmounted", "fstab"]


def test_a_container_that_was_begun_and_not_finished_is_begun_anew(guest: Guest) -> None:
    """No key opens it, and the record says that it is ours; without the record it is somebody's."""
    wanted = {"device": disk("OURS"), "name": "ours", "key_file": "/etc/ours.key", "make_key": True, "persist": False}
    made = ask(guest, "disk.encrypt", **wanted)
    guest.run(f"cryptsetup close ours; cryptsetup --batch-mode luksErase {disk('OURS')}")
    assert "holds crypto_LUKS" in ask(guest, "disk.encrypt", **wanted)["message"]
    record = {"identity": "OURS:0", "kind": "crypto_LUKS", "label": "", "uuid": made["uuid"]}
    script = (
        "from paddock.agent.skills.disks import records; from paddock.agent.skills.skill import Place; "
        "from pathlib import Path; home = Path('/var/room'); place = Place(work=home, temporary=home, tasks=home, "
        f"state=home); records.save(place, records.Record(**{record}))"
    )
    guest.run("PYTHONPATH=/opt/src python3 -S -", stdin=script.encode())
    again = ask(guest, "disk.encrypt", **wanted)
    assert (again["changed"], again["uuid"]) == (["luks", "opened"], made["uuid"])
    guest.run("cryptsetup close ours")


def test_a_mounted_partition_grows_with_its_disk(guest: Guest) -> None:
    guest.run(f"printf 'label: gpt\\nsize=100MiB\\n' | sfdisk -q {disk('GROWS')}; udevadm settle")
    piece = f"{disk('GROWS')}-part1"
    assert ask(guest, "disk.format", device=piece, fs="ext4", label="grows")["changed"] is True
    assert ask(guest, "disk.mount", device=piece, path="/srv/grows")["changed"] == ["mounted", "fstab"]
    guest.run("echo precious > /srv/grows/file")
    assert guest.qmp("block_resize", device="d-GROWS", size=400 << 20) == {}
    grown = ask(guest, "disk.resize", device=piece)
    assert grown["changed"] == ["partition", "fs"]
    assert grown["size"] > 390 << 20
    assert ask(guest, "disk.resize", device=piece)["changed"] == []
    assert int(guest.run("df --output=size -BM /srv/grows | tail -1").strip("M ")) > 350
    assert guest.run("cat /srv/grows/file") == "precious"


def test_a_user_may_do_what_its_rule_says_until_it_is_removed(guest: Guest) -> None:
    rule = "ALL=(root) NOPASSWD: /usr/bin/id"
    made = ask(guest, "user.add", name="ann", shell="/bin/bash", sudo=[rule])
    assert made["changed"] == ["account", "sudo"]
    assert guest.run("su - ann -c 'sudo -n id -u'") == "0"
    assert guest.attempt("su - ann -c 'sudo -n true'").code != 0
    guest.run("systemd-run --quiet --uid=ann sleep 1000")
    guest.until("pgrep -u ann sleep")
    removed = ask(guest, "user.remove", name="ann", home=True, grace=1)
    assert removed["ended"] >= 1
    assert {"sudo", "home", "account"} <= set(removed["changed"])
    assert guest.attempt(f"getent passwd ann || pgrep -U {made['uid']} || ls -d /home/ann").code != 0


def test_the_journal_of_a_unit_is_followed_from_where_it_was(guest: Guest) -> None:
    guest.run("systemd-run --quiet --wait --unit=talks sh -c 'echo one; echo two'")
    first = ask(guest, "log.tail", unit="talks.service", follow=False, lines=100)
    assert first["ended"] == "end"
    assert "two" in _output(guest)
    guest.run("rm -r /var/room/task; systemd-run --quiet --wait --unit=talks sh -c 'echo three'")
    ask(guest, "log.tail", unit="talks.service", follow=False, cursor=first["cursor"])
    assert "three" in _output(guest)
    assert "two" not in _output(guest)
    guest.run("rm -r /var/room/task")
    ended = ask(guest, "log.tail", unit="talks.service", lines=1, seconds=2)
    assert ended["ended"] == "time"
    assert guest.attempt("pgrep journalctl").code != 0


def _output(guest: Guest) -> str:
    return guest.run("cat /var/room/task/output")
