"""Builds the Debian guest of the large tests: one shared image, its kernel and its initrd, once a machine.

A user, a disk, a reboot and a systemd unit can only be tested on a machine of one's own. The image is a minimal Debian
with systemd and what the tests look at; nothing of Paddock is in it. It is never written to: each guest of a test boots
an overlay (tests/e2e/guest.py). Building needs root, mmdebstrap and the machine's own Debian mirror, and took 27 s on
two cores; running it needs neither root nor network.

Beside the image stands its own little initrd: a few modules and busybox, where Debian's takes seconds to unpack.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.skills.hypervisor.errands.cpio import Archive
from paddock.agent.skills.hypervisor.errands.kernel import Kernel
from tools.maven import Unavailable, cache

SUITE = "bookworm"
PACKAGES = (
    *("linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus", "kmod", "procps", "iproute2", "busybox-static"),
    *("python3", "openssh-server", "sudo", "curl", "ca-certificates"),
    *("cryptsetup-bin", "e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "parted", "fdisk", "kexec-tools"),
)
MODULES = ("virtio_pci", "virtio_blk")
"""What the kernel needs to see its root (ext4 is built in); modprobe finds everything else there."""
SIZE = "3G"
SHELL = "guest.shell"
"""The word on the kernel's command line of a guest that has the port of the tests' shell."""
DEVICE = "/dev/vda"
"""Where a guest finds its root."""
TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"}
UNUSED = 14 * 86400
"""Seconds after which an image that no test has asked for is removed: recipes change."""

_LEFT_OUT = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*", "/usr/share/info/*")
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("e2scrub_reap.service", "getty@tty1.service", "serial-getty@ttyS0.service", "systemd-pstore.service"),
    *("sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount", "systemd-update-utmp.service"),
    *("sys-fs-fuse-connections.mount", "sys-kernel-config.mount", "proc-sys-fs-binfmt_misc.automount"),
    *("modprobe@configfs.service", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@loop.service"),
    *("modprobe@dm_mod.service", "modprobe@efi_pstore.service", "systemd-binfmt.service", "kexec-load.service"),
    *(
        "kexec.service",
        "systemd-network-generator.service",
        "systemd-sysusers.service",
        "systemd-machine-id-commit.service",
    ),
)
_SHELL = """
import base64, json, os, signal, subprocess, tempfile, time

port = os.open("/dev/virtio-ports/org.paddock.test", os.O_RDWR)
path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
surroundings = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}


def carry_out(asked):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as given:
        given.write(base64.b64decode(asked.get("stdin", "")))
        given.seek(0)
        child = subprocess.Popen(
            ["/bin/sh", "-c", asked["cmd"]], stdin=given, stdout=out, stderr=out, cwd="/root", env=surroundings,
            start_new_session=True,
        )
        try:
            code = child.wait(asked["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = None
        out.seek(0)
        return {"id": asked["id"], "code": code, "out": out.read().decode(errors="replace")}


def answer(line):
    try:
        asked = json.loads(line)
    except ValueError:
        return  # the half of a line whose writer was cut off
    said = json.dumps(carry_out(asked)).encode() + b"\\n"
    while said:
        said = said[os.write(port, said):]


rest = b""
while True:
    got = os.read(port, 65536)
    if not got:
        time.sleep(0.05)  # nobody at the other end
    *lines, rest = (rest + got).split(b"\\n")
    for line in lines:
        if line.strip():
            answer(line)
"""
FILES: Mapping[str, str] = {
    "etc/hostname": "guest\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 guest\n10.0.2.2 house\n",
    "etc/resolv.conf": "",
    "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\n",
    "etc/apt/sources.list": "",
    # Empty, not absent: systemd then takes one at the first boot and keeps it, without a first boot's work.
    "etc/machine-id": "",
    "etc/systemd/network/en.network": (
        "[Match]\nName=en*\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n[DHCPv4]\nUseDNS=no\n"
    ),
    "etc/systemd/journald.conf.d/guest.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=16M\n",
    # A reboot is one: it goes past the firmware only where that is asked for.
    "etc/default/kexec": "LOAD_KEXEC=false\n",
    "etc/systemd/system/guest-shell.service": (
        "[Unit]\nDescription=The shell of the tests, on a serial port of its own\n"
        # Without its port it would end and be begun again for ever.
        f"ConditionKernelCommandLine={SHELL}\n"
        "[Service]\nExecStart=/usr/bin/python3 -IS /usr/local/lib/guest-shell\nRestart=always\nKillMode=process\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    "usr/local/lib/guest-shell": _SHELL,
}
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module; done
until /bin/busybox mount -t ext4 -o rw,noatime /dev/vda /root 2>/dev/null; do /bin/busybox sleep 0.05; done
/bin/busybox mount -o move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""


class Failed(Exception):
    """The image could not be made; the message has the last words of what failed."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """What QEMU is given. Read only: a guest writes to an overlay of `disk`."""

    disk: Path
    kernel: Path
    initrd: Path


def recipe() -> str:
    """The name of what is built: another recipe, another image."""
    parts = [SUITE, PACKAGES, MODULES, SIZE, _LEFT_OUT, MASKED, sorted(FILES.items()), _INIT]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def image() -> Image:
    """The image, built if this machine has none. `Unavailable` where none can be built.

    Whoever comes while it is built waits for it: two builds never run, and a half one never has the name.
    """
    home = cache(".").resolve()
    place = home / f"guest-{recipe()}"
    if not place.is_dir():
        with (home / "guest.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.is_dir():
                _require()
                _forget(home)
                _build(place)
    os.utime(place)
    return Image(disk=place / "disk", kernel=place / "kernel", initrd=place / "initrd")


def _require() -> None:
    if platform.machine() != "x86_64":
        raise Unavailable(f"guest: it is an amd64 Debian, and this machine is {platform.machine()}")
    for tool, package in TOOLS.items():
        if shutil.which(tool, path=path()) is None:
            raise Unavailable(f"guest: there is no {tool} here; on Debian: apt-get install {package}")
    if os.geteuid() != 0:
        raise Unavailable("guest: its image is built by root, once; as root: python -m tools.guest")


def path() -> str:
    """Where the system's own programs are, too."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _forget(home: Path) -> None:
    """Images of other recipes that nobody has used for long, and what a build left that was killed."""
    for old in home.glob("guest-*"):
        if time.time() - old.stat().st_mtime > UNUSED:
            shutil.rmtree(old)
    for half in home.glob("making-guest-*"):
        shutil.rmtree(half)


def _build(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-guest-") as scratch:
        root = Path(scratch) / "root"
        made = Path(scratch) / "made"
        made.mkdir(mode=0o755)
        install(root, PACKAGES)
        _furnish(root)
        kernel = next((root / "boot").glob("vmlinuz-*"))
        shutil.copy(kernel, made / "kernel")
        (made / "initrd").write_bytes(initrd(root, kernel.name.removeprefix("vmlinuz-")))
        # Beside the link to the kernel, for whoever jumps into that.
        shutil.copy(made / "initrd", root / "initrd.img")
        run("mke2fs", "-q", "-t", "ext4", "-L", "guest", "-d", str(root), str(made / "disk"), SIZE)
        for file in made.iterdir():
            file.chmod(0o444)
        made.rename(place)


def mirror() -> str:
    """Where this machine's own Debian comes from. `Unavailable` if it does not say."""
    for place, pattern in (
        ("/etc/apt/sources.list.d/debian.sources", r"^URIs:\s*(\S+)"),
        ("/etc/apt/sources.list", r"^deb\s+(?:\[[^]]*\]\s*)?(\S+)"),
    ):
        if Path(place).is_file() and (found := re.search(pattern, Path(place).read_text(), re.MULTILINE)):
            return found[1]
    raise Unavailable("guest: this machine's apt names no mirror to build the image from")


def install(root: Path, packages: Iterable[str]) -> None:
    """A minimal Debian with these packages."""
    leaving_out = [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    run(
        *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory", *leaving_out),
        *('--aptopt=Acquire::Languages "none"', f"--include={','.join(packages)}", SUITE, str(root), mirror()),
        INITRD="No",  # Debian's hook for kernels then makes none
    )


def put(file: Path, text: str) -> None:
    """A file of the image, whatever was there before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(text)


def _furnish(root: Path) -> None:
    for name, text in FILES.items():
        put(root / name, text)
    run("chroot", str(root), "systemctl", "--quiet", "enable", "guest-shell", "systemd-networkd")
    run("chroot", str(root), "systemctl", "--quiet", "mask", *MASKED)


# ---- the initrd ------------------------------------------------------------------------------------------------------


def initrd(root: Path, version: str, device: str = DEVICE) -> bytes:
    """busybox, the modules that lead to the root file system, in the order in which they load, and /init."""
    found = Kernel(image=root / "boot" / f"vmlinuz-{version}", modules=root / "lib/modules" / version)
    modules = dict(found.files(MODULES))
    archive = Archive()
    for directory in ("dev", "root"):
        archive.directory(directory)
    archive.file("init", _init(modules, device), mode=0o755)
    archive.file("bin/busybox", (root / "bin/busybox").read_bytes(), mode=0o755)
    for name, content in modules.items():
        archive.file(f"modules/{name}", content)
    return archive.content()


def _init(modules: Iterable[str], device: str) -> bytes:
    return _INIT.format(modules=" ".join(modules)).replace(f" {DEVICE} ", f" {device} ").encode()


def run(*command: str, **environment: str) -> None:
    """A program, to its end. `Failed` with its last words if it fails."""
    done = subprocess.run(
        command,
        env={"PATH": path(), "LANG": "C.UTF-8", "HOME": os.environ.get("HOME", "/"), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode != 0:
        raise Failed(f"guest: {command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def main() -> int:
    """Build the image if it is not there, and say where it is."""
    began = time.monotonic()
    try:
        found = image()
    except (Unavailable, Failed) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(f"{found.disk.parent} ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
