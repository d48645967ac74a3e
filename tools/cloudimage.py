"""Builds the cloud image of the large tests: a Debian with cloud-init and a boot loader, as one qcow2 file.

It is what a distribution publishes for clouds, in small: nothing of Paddock is in it, it boots by itself, and whoever
boots it tells it by a NoCloud seed what to become. Tests serve it over HTTP on the loopback. The boot loader lies on a
FAT partition of its own, which is written without mounting anything. Building needs root, like tools/guest.py.
"""

import fcntl
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tools import guest
from tools.maven import Unavailable, cache

PACKAGES = (
    *("linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "kmod", "procps", "iproute2", "busybox-static"),
    *("python3", "cloud-init", "ca-certificates"),
)
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "mkfs.fat": "dosfstools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "qemu-img": "qemu-utils",
}
MBR = Path("/usr/lib/SYSLINUX/mbr.bin")
FILES: Mapping[str, str] = {
    "etc/hostname": "cloud\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/resolv.conf": "",
    "etc/fstab": "/dev/vda2 / ext4 rw,noatime 0 0\n",
    "etc/apt/sources.list": "",
    "etc/machine-id": "",
    "etc/systemd/journald.conf.d/guest.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
    "etc/cloud/cloud.cfg.d/90_here.cfg": "datasource_list: [NoCloud, None]\n",
}
CONFIG = """\
DEFAULT linux
PROMPT 0
TIMEOUT 1
LABEL linux
 KERNEL vmlinuz
 APPEND initrd=initrd.img root=/dev/vda2 console=ttyS0 quiet mitigations=off
"""
SECTOR, MIB = 512, 1 << 20
BOOT, ROOT = 48 * MIB, 1200 * MIB
"""Sizes of both partitions; the first begins after 1 MiB."""


def recipe() -> str:
    """The name of what is built: another recipe, another image."""
    parts = [guest.SUITE, PACKAGES, sorted(FILES.items()), CONFIG, BOOT, ROOT, guest.recipe()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def image() -> Path:
    """The image, built if this machine has none. `Unavailable` where none can be built."""
    home = cache(".").resolve()
    place = home / f"cloud-{recipe()}.qcow2"
    if not place.is_file():
        with (home / "cloud.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.is_file():
                _require()
                _forget(home)
                _build(place)
    os.utime(place)
    return place


def _require() -> None:
    for tool, package in TOOLS.items():
        if shutil.which(tool, path=guest.path()) is None:
            raise Unavailable(f"cloud image: there is no {tool} here; on Debian: apt-get install {package}")
    if not MBR.is_file():
        raise Unavailable(f"cloud image: there is no {MBR} here; on Debian: apt-get install syslinux-common")
    if os.geteuid() != 0:
        raise Unavailable("cloud image: it is built by root, once; as root: python -m tools.cloudimage")


def _forget(home: Path) -> None:
    for old in home.glob("cloud-*.qcow2"):
        if time.time() - old.stat().st_mtime > guest.UNUSED:
            old.unlink()
    for half in home.glob("making-cloud-*"):
        shutil.rmtree(half)


def _build(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-cloud-") as scratch:
        root, disk = Path(scratch) / "root", Path(scratch) / "disk"
        guest.install(root, PACKAGES)
        for name, text in FILES.items():
            guest.put(root / name, text)
        guest.run("chroot", str(root), "systemctl", "--quiet", "mask", *guest.MASKED)
        with disk.open("wb") as file:
            file.truncate(MIB + BOOT + ROOT)
        _partition(disk)
        _copy(_boot(Path(scratch), root), disk, MIB)
        ext4 = Path(scratch) / "ext4"
        guest.run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(ext4), f"{ROOT // MIB}M")
        _copy(ext4, disk, MIB + BOOT)
        made = Path(scratch) / "made"
        guest.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", str(disk), str(made))
        made.chmod(0o444)
        made.rename(place)


def _partition(disk: Path) -> None:
    """A boot sector that starts the active partition, and a table with two."""
    table = b""
    for flag, kind, start, size in ((0x80, 0x0C, MIB, BOOT), (0, 0x83, MIB + BOOT, ROOT)):
        table += struct.pack("<B3sB3sII", flag, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start // SECTOR, size // SECTOR)
    with disk.open("r+b") as file:
        file.write(MBR.read_bytes()[:440].ljust(440, b"\0"))
        file.seek(446)
        file.write(table.ljust(64, b"\0") + b"\x55\xaa")


def _boot(scratch: Path, root: Path) -> Path:
    """The partition with boot loader, kernel and initrd."""
    made, config, initrd = scratch / "fat", scratch / "syslinux.cfg", scratch / "initrd.img"
    kernel = next((root / "boot").glob("vmlinuz-*"))
    config.write_text(CONFIG)
    initrd.write_bytes(guest.initrd(root, kernel.name.removeprefix("vmlinuz-"), device="/dev/vda2"))
    with made.open("wb") as file:
        file.truncate(BOOT)
    # It knows where on the disk it lies: the boot sector of a partition counts from the disk's beginning.
    guest.run("mkfs.fat", "-F", "16", "-n", "BOOT", "-h", str(MIB // SECTOR), str(made))
    for source, name in ((kernel, "vmlinuz"), (initrd, "initrd.img"), (config, "syslinux.cfg")):
        guest.run("mcopy", "-i", str(made), str(source), f"::{name}")
    guest.run("syslinux", "--install", str(made))
    return made


def _copy(source: Path, disk: Path, offset: int) -> None:
    with source.open("rb") as taken, disk.open("r+b") as file:
        for at in range(0, source.stat().st_size, MIB):
            if (block := taken.read(MIB)).strip(b"\0"):
                file.seek(offset + at)
                file.write(block)


def main() -> int:
    """Build the image if it is not there, and say where it is."""
    began = time.monotonic()
    try:
        found = image()
    except (Unavailable, guest.Failed) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{found} ({found.stat().st_size >> 20} MiB, {time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
