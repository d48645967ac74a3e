"""The helper machine: it puts the agent into disks whose file systems the host never reads."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.bundle import bundling
from paddock.agent.skills.hypervisor.errands import kernel, machine
from paddock.agent.skills.hypervisor.errands.cpio import Archive
from paddock.agent.skills.hypervisor.errands.machine import Work
from paddock.agent.skills.hypervisor.errands.putting import MODULES, Helper
from paddock.agent.skills.hypervisor.inside import Inside
from paddock.agent.skills.hypervisor.ports import SYSTEM, Disk
from paddock.core.errors import Broken, Refused
from tests.agent.hypervisor.yards import INSTANCE, MIB, QemuYard
from tests.e2e.guest import shared_image
from tools.maven import Unavailable

LIMIT = timedelta(seconds=60)
AGENT = b"#!/usr/bin/env python3\nprint('agent')\n"
SYSTEM_FILES = {
    "etc/os-release": "NAME=Some\n",
    "etc/hostname": "some\n",
    "sbin/init": "",
    "usr/lib/systemd/systemd": "",
    "usr/bin/python3": "",
}
_FIRST = 1 << 20  # where a partition begins
_ENOUGH = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
_CHECK = """
tries=0
until [ -b /dev/PLACE ]; do tries=$((tries + 1)); [ $tries -gt 500 ] && refuse "no disk"; sleep 0.02; done
mkdir -p /disk
mount -t TYPE -o ro /dev/PLACE /disk || refuse "it does not mount"
cd /disk
[ "$(sed -n 2p opt/paddock-agent/bin/paddock-agent.pyz)" = "print('agent')" ] || refuse "the agent is not there"
[ "$(stat -c '%u %a' opt/paddock-agent/bin/paddock-agent.pyz)" = "0 755" ] || refuse "$(stat opt/paddock-agent/bin/*)"
[ "$(stat -c %a opt/paddock-agent/state)" = 700 ] || refuse "state is open"
grep -q '^line = virtio:/dev/virtio-ports/org.paddock.0$' opt/paddock-agent/etc/agent.conf || refuse "no line"
service=etc/systemd/system/multi-user.target.wants/paddock-agent.service
[ "$(readlink $service)" = /etc/systemd/system/paddock-agent.service ] || refuse "it is not enabled"
begin='^ExecStart=/usr/bin/python3 -I /opt/paddock-agent/bin/paddock-agent.pyz run'
grep -q "$begin" .$(readlink $service) || refuse "no unit"
[ "$(cat etc/hostname)" = some ] || refuse "what was there is gone"
cd /
umount /disk
end done
"""


class Volumes:
    """One disk, wherever it is asked for."""

    def __init__(self, path: Path, *, format: str = "raw") -> None:
        self.found = [Disk(name=SYSTEM, path=path, format=format)]

    async def disks(self, volume: Path) -> Sequence[Disk]:
        return self.found


@pytest.fixture
def yard(yard: QemuYard) -> QemuYard:
    for tool, package in (("sfdisk", "fdisk"), ("mkfs.ext4", "e2fsprogs"), ("mkfs.xfs", "xfsprogs")):
        if shutil.which(tool, path=_path()) is None:
            pytest.skip(f"errands: there is no {tool} here; on Debian: apt-get install {package}")
    return yard


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _run(*words: str, given: str = "") -> None:
    subprocess.run(
        words, input=given, text=True, check=True, capture_output=True, timeout=60, env={**os.environ, "PATH": _path()}
    )


def _tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _prototype(tree: Path) -> str:
    """What mkfs.xfs fills a file system by."""

    def lines(directory: Path) -> list[str]:
        said = []
        for entry in sorted(directory.iterdir()):
            if entry.is_dir():
                said += [f"{entry.name} d--755 0 0", *lines(entry), "$"]
            else:
                said.append(f"{entry.name} ---755 0 0 {entry}")
        return said

    return "\n".join(["/", "0 0", "d--755 0 0", *lines(tree), "$", ""])


def _format(kind: str, tree: Path, target: Path) -> None:
    target.touch()
    os.truncate(target, _ENOUGH[kind])
    match kind:
        case "ext4":
            _run("mkfs.ext4", "-q", "-d", str(tree), str(target))
        case "xfs":
            prototype = target.with_suffix(".proto")
            prototype.write_text(_prototype(tree))
            _run("mkfs.xfs", "-q", "-p", str(prototype), str(target))
        case "btrfs":
            _run("mkfs.btrfs", "-q", "--rootdir", str(tree), str(target))


def _disk(kind: str, tree: Path, path: Path) -> Path:
    """A disk as they come: a partition for something else first, then the one with the file system."""
    content = path.with_suffix(f".{kind}")
    _format(kind, tree, content)
    path.touch()
    os.truncate(path, _FIRST + 4 * MIB + _ENOUGH[kind] + MIB)
    _run("sfdisk", "-q", str(path), given=f"label: gpt\nstart=2048, size=4MiB\nsize={_ENOUGH[kind] // 1024}KiB\n")
    with path.open("r+b") as disk, content.open("rb") as given:
        disk.seek(_FIRST + 4 * MIB)
        shutil.copyfileobj(given, disk, MIB)
    return path


def _helper(yard: QemuYard, disk: Path) -> Helper:
    return Helper(yard.driver(), Volumes(disk), instance=INSTANCE, archive=lambda: AGENT)  # type: ignore[arg-type]


async def _errand(yard: QemuYard, script: str, disk: Path) -> None:
    await machine.run(
        yard.driver(),
        Work(script=script, modules=MODULES),
        name=f"paddock-{INSTANCE}-helper-look",
        directory=yard.root / "look",
        disks=[Disk(name=SYSTEM, path=disk, format="raw")],
        limit=LIMIT,
    )


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
async def test_the_agent_is_put_into_the_system_on_a_partition(yard: QemuYard, kind: str) -> None:
    disk = _disk(kind, _tree(yard.root / "tree", SYSTEM_FILES), yard.root / "disk")
    await _helper(yard, disk).put_agent(yard.root / "volume", directory=yard.root / "image", limit=LIMIT)

    await _errand(yard, _CHECK.replace("PLACE", "vda2").replace("TYPE", kind), disk)
    assert not (yard.root / "image" / "helper").exists()
    assert await yard.driver().running(INSTANCE) == []


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(180)
async def test_a_disk_that_is_one_file_system_is_as_good(yard: QemuYard) -> None:
    disk = yard.root / "disk"
    _format("ext4", _tree(yard.root / "tree", SYSTEM_FILES), disk)
    for _ in range(2):  # again is no harm
        await _helper(yard, disk).put_agent(yard.root / "volume", directory=yard.root / "image", limit=LIMIT)

    await _errand(yard, _CHECK.replace("PLACE", "vda").replace("TYPE", "ext4"), disk)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(300)
async def test_the_agent_that_was_put_in_waits_for_its_wake_and_the_button_is_heard(yard: QemuYard) -> None:
    try:
        image = await asyncio.to_thread(shared_image)
    except Unavailable as exc:
        pytest.skip(str(exc))
    disk = Disk(name=SYSTEM, path=yard.root / "disk.qcow2", format="qcow2")
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", "raw", str(disk.path))
    driver, volumes = yard.driver(), Volumes(disk.path, format="qcow2")
    helper = Helper(driver, volumes, instance=INSTANCE, archive=bundling.archive)  # type: ignore[arg-type]
    await helper.put_agent(yard.root / "volume", directory=yard.root / "image", limit=LIMIT)
    words = "root=/dev/vda rw console=ttyS0 quiet panic=1 mitigations=off apparmor=0 selinux=0"
    booted = {"kernel": image.kernel, "initrd": image.initrd, "cmdline": words, "memory": 512 * MIB, "vcpus": 2}
    plan = yard.plan("one", disks=[disk], **booted)
    await driver.boot(plan)
    inside = Inside(plan.directory / "channel")
    await inside.parked(timedelta(minutes=3))
    await driver.power(plan, "shutdown")

    async with asyncio.timeout(90):
        await driver.wait_off(plan)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("etc/os-release", r"no operating system is found on its disk, only vda1 \(unknown\) vda2 \(ext\)"),
        ("usr/lib/systemd/systemd", "vda2: its system is not run by systemd"),
        ("usr/bin/python3", "vda2: it has no python3"),
    ],
)
async def test_a_disk_without_such_a_system_is_refused_with_its_reason(yard: QemuYard, missing: str, why: str) -> None:
    files = {name: text for name, text in SYSTEM_FILES.items() if name != missing}
    disk = _disk("ext4", _tree(yard.root / "tree", files), yard.root / "disk")

    with pytest.raises(Broken, match=why):
        await _helper(yard, disk).put_agent(yard.root / "volume", directory=yard.root / "image", limit=LIMIT)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(180)
async def test_a_disk_with_nothing_on_it_is_refused(yard: QemuYard) -> None:
    disk = yard.root / "disk"
    disk.touch()
    os.truncate(disk, 4 * MIB)

    with pytest.raises(Broken, match=r"only vda \(unknown\)"):
        await _helper(yard, disk).put_agent(yard.root / "volume", directory=yard.root / "image", limit=LIMIT)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("script", "limit", "why"),
    [
        ("sleep 60\n", timedelta(seconds=3), "did not end within"),
        ("poweroff -f\n", LIMIT, "without a word"),
        ("echo helper: done done > /dev/console; poweroff -f\n", LIMIT, "without a word"),
    ],
)
async def test_a_helper_that_does_not_say_done_has_not_done_it(
    yard: QemuYard, script: str, limit: timedelta, why: str
) -> None:
    disk = yard.plan("disk").disks[0].path
    with pytest.raises(Broken, match=why):
        await machine.run(
            yard.driver(),
            Work(script=script),
            name=f"paddock-{INSTANCE}-helper-look",
            directory=yard.root / "look",
            disks=[Disk(name=SYSTEM, path=disk, format="raw")],
            limit=limit,
        )
    assert await yard.driver().running(INSTANCE) == []


# ---- without machines ------------------------------------------------------------------------------------------------


def test_an_archive_is_what_a_kernel_unpacks(tmp_path: Path) -> None:
    busybox = shutil.which("busybox", path=_path())
    if busybox is None:
        pytest.skip("cpio: there is no busybox here; on Debian: apt-get install busybox-static")
    archive = Archive()
    archive.file("a/b/file", b"content", mode=0o751)
    archive.link("a/link", "b/file")
    archive.directory("a/b", mode=0o700)
    done = subprocess.run(
        [busybox, "cpio", "-idm"], input=archive.content(), cwd=tmp_path, check=True, capture_output=True, timeout=10
    )

    assert done.returncode == 0
    assert (tmp_path / "a/link").read_bytes() == b"content"
    assert (tmp_path / "a/b/file").stat().st_mode & 0o777 == 0o751


def _installed(root: Path, version: str = "6.1.0-1-cloud-amd64", mode: int = 0o644) -> Path:
    image = root / "boot" / f"vmlinuz-{version}"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"kernel")
    image.chmod(mode)
    modules = root / "lib/modules" / version
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("k/c.ko: k/b.ko k/a.ko\nk/b.ko: k/a.ko\nk/a.ko:\nk/z.ko.gz: k/a.ko\n")
    return modules


def test_modules_load_after_what_they_need(tmp_path: Path) -> None:
    modules = _installed(tmp_path)

    assert kernel.ordered(modules, ["c", "z", "built-in"]) == ["k/a.ko", "k/b.ko", "k/c.ko", "k/z.ko.gz"]


def test_the_kernel_for_clouds_goes_first(tmp_path: Path) -> None:
    _installed(tmp_path, "6.1.0-1-amd64")
    _installed(tmp_path, "6.1.0-1-cloud-amd64")

    assert kernel.find(tmp_path).image.name == "vmlinuz-6.1.0-1-cloud-amd64"


def _nothing(root: Path) -> None:
    pass


def _without_modules(root: Path) -> None:
    shutil.rmtree(_installed(root))


@pytest.mark.parametrize("prepare", [_nothing, _without_modules])
def test_a_host_without_a_kernel_is_told_what_helps(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    prepare(tmp_path)
    with pytest.raises(Refused) as refused:
        kernel.find(tmp_path)
    assert "linux-image-cloud-amd64" in refused.value.hint


def test_a_busybox_that_needs_libraries_is_none(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(b"\x7fELF" + bytes(600) + b"/lib64/ld-linux-x86-64.so.2\0")

    with pytest.raises(Refused) as refused:
        kernel.busybox(tmp_path)
    assert "busybox-static" in refused.value.hint
