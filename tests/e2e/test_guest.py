"""The guest that other tests use: it boots, it is a machine of its own, and it ends when it is told."""

import hashlib
from pathlib import Path

import pytest

from tests.e2e.guest import Guest
from tools.guest import Image

pytestmark = pytest.mark.e2e


@pytest.fixture
def guest(common_guest: Guest) -> Guest:
    return common_guest


def test_a_command_runs_as_root_in_a_debian_with_systemd(guest: Guest) -> None:
    assert guest.run("id -u") == "0"
    assert guest.run("systemctl is-system-running --wait") == "running"
    assert guest.run(". /etc/os-release; echo $ID") == "debian"


def test_a_command_that_fails_says_how_and_one_that_hangs_is_ended(guest: Guest) -> None:
    done = guest.attempt("echo out; echo err >&2; exit 3")
    assert (done.code, done.out) == (3, "out\nerr\n")
    assert guest.attempt("sleep 1000 & sleep 1000", limit=0.5).code is None
    assert guest.run("pgrep -c sleep || true") == "0"


def test_a_blank_disk_is_found_by_its_serial(guest: Guest) -> None:
    assert guest.run("lsblk -dno SERIAL,SIZE /dev/disk/by-id/virtio-blank-1").split() == ["blank-1", "512M"]
    assert guest.run("wipefs /dev/disk/by-id/virtio-blank-1") == ""


def test_what_lies_on_a_disk_can_be_encrypted_and_be_of_each_file_system(guest: Guest) -> None:
    guest.run(
        "modprobe -a dm-crypt xfs btrfs vfat && command -v cryptsetup mkfs.xfs mkfs.btrfs mkfs.ext4 parted visudo"
    )


def test_a_file_is_put_into_it_byte_by_byte(guest: Guest) -> None:
    content = bytes(range(256)) * 1000
    guest.write("/var/tmp/there/file", content, mode="0600")
    assert guest.run("stat -c '%a %s' /var/tmp/there/file") == "600 256000"
    assert guest.run("sha256sum </var/tmp/there/file").split()[0] == hashlib.sha256(content).hexdigest()


@pytest.mark.timeout(300)
def test_a_reboot_is_another_boot_of_the_same_disks(guest: Guest) -> None:
    """A reset is seen in test_guest_line.py, a copy in test_guest_agent.py: each boot more is ten seconds."""
    former = guest.boot_id
    guest.run("echo written >/var/kept")
    assert guest.reboot() != former
    assert guest.run("cat /var/kept; systemctl is-system-running --wait").split() == ["written", "running"]


def test_a_guest_that_is_closed_leaves_no_process_no_disk_and_no_socket(guest_image: Image, tmp_path: Path) -> None:
    with Guest(tmp_path, guest_image, disks={"blank": "1G"}) as started:
        started.launch()
        pid, sockets = started.pid, started.channel.parent
        assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"qemu-system")
    assert not Path(f"/proc/{pid}").exists()
    assert not sockets.exists()
    assert not list(tmp_path.rglob("*.qcow2"))
