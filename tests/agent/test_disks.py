"""disk.* on loop devices with the system's real tools, in a room whose mounts and whose /etc are lost afterwards."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.skills.disks import devices, tables
from paddock.core.errors import Missing, PaddockError, Refused
from tests.agent.room import Room, opened

MIB = 1 << 20
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
NEEDED = ("losetup", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "wipefs", "sfdisk", "partx", "lsblk", "cryptsetup")
FSTAB = "# what was here before\nproc /proc proc defaults 0 0\n/dev/nothing /mnt/data2 ext4 noauto 0 0\n"

pytestmark = pytest.mark.slow


class Disk:
    """A loop device over a sparse file."""

    def __init__(self, file: Path, size: int) -> None:
        self.file = file
        with file.open("wb") as made:
            made.truncate(size)
        self.path = _run("losetup", "--find", "--show", "--partscan", str(file))

    @property
    def serial(self) -> str:
        """Loop devices have none: disk.list tells their file."""
        return str(self.file)

    @property
    def uuid(self) -> str:
        return _run("blkid", "--probe", "--match-tag", "UUID", "--output", "value", self.path)

    def grow(self, size: int) -> None:
        with self.file.open("r+b") as file:
            file.truncate(size)
        _run("losetup", "--set-capacity", self.path)

    def close(self) -> None:
        _run("losetup", "--detach", self.path)


def _run(*argv: str, stdin: str = "") -> str:
    ran = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{argv}: {ran.stderr}"
    return ran.stdout.strip()


Making = Callable[..., Disk]


@pytest.fixture
def making(tmp_path: Path) -> Iterator[Making]:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("only root has loop devices, and only where the kernel has them")
    if missing := [tool for tool in NEEDED if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]:
        pytest.skip(f"there is no {missing[0]} here; ./dev host-setup installs it")
    made: list[Disk] = []

    def make(size: int = SIZES["ext4"]) -> Disk:
        made.append(Disk(tmp_path / f"disk-{len(made)}", size))
        return made[-1]

    yield make
    for disk in made:
        disk.close()


@pytest.fixture
def room(making: Making, tmp_path: Path) -> Iterator[Room]:
    """It ends before its disks do: what it has mounted goes with its namespace."""
    room = opened("paddock.agent.skills.disks", tmp_path / "room")
    room.run(f"printf '{FSTAB}' > /etc/fstab")
    yield room
    room.close()


@pytest.fixture
def at(room: Room, tmp_path: Path) -> Path:
    return tmp_path / "mnt" / "data"


# ---- listed ----------------------------------------------------------------------------------------------------------


def test_a_disk_is_listed_with_what_is_on_it_and_where_it_is_mounted(making: Making, room: Room, at: Path) -> None:
    disk = making()
    (blank,) = room.ask("disk.list", device=disk.path)["disks"]
    assert (blank["device"], blank["size"], blank["serial"]) == (disk.path, SIZES["ext4"], disk.serial)
    assert not {"fs", "mounted", "system"} & set(blank)
    made = room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    room.ask("disk.mount", device=disk.path, path=str(at))
    (told,) = [one for one in room.ask("disk.list")["disks"] if one["device"] == disk.path]
    assert (told["fs"], told["label"], told["uuid"], told["mounted"]) == ("ext4", "data", made["uuid"], [str(at)])


def test_the_disk_of_the_system_is_told(room: Room) -> None:
    root = room.run("findmnt -no MAJ:MIN /")
    if not (Path("/sys/dev/block") / root).exists():
        pytest.skip("the root of this machine lies on no block device")
    device = devices.of_number(root)
    (told,) = room.ask("disk.list", device=device.path)["disks"]
    assert "carries /" in told["system"]
    with pytest.raises(Refused, match="the system's disk is never touched"):
        room.ask("disk.format", device=device.path, fs="ext4", label="x", serial=device.serial, force=True)


def test_pieces_name_their_disk(making: Making, room: Room) -> None:
    disk = making()
    _partition(disk)
    (piece,) = room.ask("disk.list", device=f"{disk.path}p1")["disks"]
    assert (piece["parents"], piece["serial"], piece["kind"]) == ([disk.path], disk.serial, "part")
    (whole,) = room.ask("disk.list", device=disk.path)["disks"]
    assert (whole["partitions"], whole["table"]) == ([f"{disk.path}p1"], "gpt")


def _partition(disk: Disk, table: str = "label: gpt\nsize=20MiB\n") -> None:
    _run("sfdisk", "--quiet", disk.path, stdin=table)
    # For kernels that read no tables by themselves.
    _run("partx", "--update", disk.path)


# ---- formatted -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", SIZES)
def test_a_blank_disk_is_formatted_and_again_keeps_its_data(making: Making, room: Room, at: Path, fs: str) -> None:
    disk = making(SIZES[fs])
    made = room.ask("disk.format", device=disk.path, fs=fs, label="data")
    assert (made["fs"], made["label"], made["changed"]) == (fs, "data", True)
    assert made["uuid"] == disk.uuid
    room.ask("disk.mount", device=f"{disk.path}", path=str(at))
    room.run(f"echo precious > {at}/file")
    forced = {"serial": disk.serial, "force": True}
    for more in ({}, forced, {"uuid": disk.uuid}, {"uuid": disk.uuid.upper(), **forced}):
        assert room.ask("disk.format", device=disk.path, fs=fs, label="data", **more)["changed"] is False
    assert room.run(f"cat {at}/file") == "precious"


@pytest.mark.parametrize("fs", SIZES)
def test_what_a_killed_mkfs_has_left_is_begun_anew(making: Making, room: Room, fs: str) -> None:
    """The record says what was begun; the checker, that it is not whole. Its UUID stays: it was promised to nobody."""
    disk = making(SIZES[fs])
    made = room.ask("disk.format", device=disk.path, fs=fs, label="data")
    _remember(room, disk, fs, made["uuid"])
    _damage(disk, fs)
    again = room.ask("disk.format", device=disk.path, fs=fs, label="data")
    assert (again["changed"], again["uuid"]) == (True, made["uuid"])
    assert room.run("ls /var/room/disk | grep -v lock || true") == ""


def test_what_our_mkfs_finished_after_the_agent_died_is_kept(making: Making, room: Room, at: Path) -> None:
    disk = making()
    made = room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    room.run(f"mkdir -p {at} && mount {disk.path} {at} && echo precious > {at}/file")
    _remember(room, disk, "ext4", made["uuid"])
    assert room.ask("disk.format", device=disk.path, fs="ext4", label="data")["changed"] is False
    _remember(room, disk, "ext4", made["uuid"])
    room.run(f"umount {at}")
    assert room.ask("disk.format", device=disk.path, fs="ext4", label="data")["changed"] is False
    assert room.run(f"mount {disk.path} {at} && cat {at}/file") == "precious"


def test_damage_that_is_not_ours_is_no_reason_to_wipe(making: Making, room: Room) -> None:
    disk = making()
    made = room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    _damage(disk, "ext4")
    assert room.ask("disk.format", device=disk.path, fs="ext4", label="data")["changed"] is False
    assert disk.uuid == made["uuid"]


def _remember(room: Room, disk: Disk, fs: str, uuid: str) -> None:
    """As the agent does before it begins, for one that was killed then."""
    script = (
        "from pathlib import Path; from paddock.agent.skills.disks import records; "
        "from paddock.agent.skills.skill import Place; home = Path('/var/room'); "
        "place = Place(work=home, temporary=home, tasks=home, state=home); "
        f"records.save(place, records.Record(identity='{disk.serial}:0', kind='{fs}', label='data', uuid='{uuid}'))"
    )
    room.run(f'{os.environ.get("VIRTUAL_ENV", "")}/bin/python -c "{script}" || python3 -c "{script}"')


def _damage(disk: Disk, fs: str) -> None:
    """What lies behind the superblock is not written yet."""
    start = {"ext4": 2048, "xfs": 512, "btrfs": 20 * MIB}[fs]
    with open(disk.path, "r+b") as file:
        file.seek(start)
        file.write(bytes(44 * MIB if fs == "btrfs" else 64 * 1024))
        file.flush()
        os.fsync(file.fileno())


def test_another_description_needs_the_disk_to_be_given_up(making: Making, room: Room) -> None:
    disk = making(SIZES["xfs"])
    first = room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    for wanted in (
        {"fs": "xfs"},
        {"fs": "ext4", "label": "other"},
        {"fs": "ext4", "label": "data", "uuid": str(uuid.uuid4())},
    ):
        for consent in ({}, {"force": True}, {"serial": disk.serial}):
            with pytest.raises(Refused, match="holds ext4 'data'"):
                room.ask("disk.format", device=disk.path, **{**wanted, **consent})
    with pytest.raises(Refused, match=r"has serial .*, not another"):
        room.ask("disk.format", device=disk.path, fs="xfs", serial="another", force=True)
    assert disk.uuid == first["uuid"]
    wiped = room.ask("disk.format", device=disk.path, fs="xfs", serial=disk.serial, force=True)
    assert (wiped["fs"], wiped["changed"]) == ("xfs", True)
    anew = str(uuid.uuid4())
    made = room.ask("disk.format", device=disk.path, fs="xfs", uuid=anew, serial=disk.serial, force=True)
    assert (made["uuid"], made["changed"]) == (anew, True)


def test_a_mounted_disk_is_kept_and_given_up_it_is_unmounted_first(making: Making, room: Room, at: Path) -> None:
    disk = making()
    room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    room.ask("disk.mount", device=disk.path, path=str(at))
    with pytest.raises(Refused, match=f"is mounted on {at}"):
        room.ask("disk.format", device=disk.path, fs="ext4", label="other")
    wanted = {"fs": "ext4", "label": "other", "serial": disk.serial, "force": True}
    pid = room.run(f"sleep 60 < {at}/lost+found > /dev/null 2>&1 & echo $!")
    try:
        with pytest.raises(Refused, match=r"is used by \d+ \(sleep\)"):
            room.ask("disk.format", device=disk.path, **wanted)
    finally:
        room.run(f"kill {pid}")
    room.run(f"until umount {at}; do :; done; mount {disk.path} {at}")
    assert room.ask("disk.format", device=disk.path, **wanted)["changed"] is True


def test_what_another_namespace_has_mounted_is_seen_by_the_kernels_lock(making: Making, room: Room, at: Path) -> None:
    disk = making()
    _run("mkfs.ext4", "-q", disk.path)
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"mkdir -p {at} && mount {disk.path} {at} && echo up && read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        with pytest.raises(Refused, match="is in use"):
            room.ask("disk.format", device=disk.path, fs="ext4", label="x", serial=disk.serial, force=True)
        assert _run("blkid", "--probe", "--match-tag", "TYPE", "--output", "value", disk.path) == "ext4"
    finally:
        holder.communicate("\n", timeout=10)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        ("mkswap -q {}", "holds swap"),
        ("printf 'label: gpt\\n' | sfdisk -q {}", "a partition table"),
        ("printf 'label: dos\\nsize=5MiB\\n' | sfdisk -q {}", "a partition table"),
        ("cryptsetup --batch-mode --pbkdf-force-iterations 4 --pbkdf-memory 32 luksFormat {} /etc/hostname", "LUKS"),
        ("mkfs.xfs -q {}", "holds xfs"),
    ],
)
def test_what_has_a_signature_is_kept(making: Making, room: Room, prepare: str, why: str) -> None:
    disk = making(SIZES["xfs"] if "xfs" in prepare else SIZES["ext4"])
    room.run(prepare.format(disk.path))
    before = _begin_of(disk)
    with pytest.raises(Refused, match=why):
        room.ask("disk.format", device=disk.path, fs="ext4", label="data", force=True)
    assert _begin_of(disk) == before


def _begin_of(disk: Disk) -> bytes:
    with open(disk.path, "rb") as file:
        return file.read(8 * MIB)


def test_a_disk_with_pieces_is_given_up_whole(making: Making, room: Room, at: Path) -> None:
    disk = making()
    _partition(disk)
    piece = f"{disk.path}p1"
    assert room.ask("disk.format", device=piece, fs="ext4", label="piece")["changed"] is True
    room.ask("disk.mount", device=piece, path=str(at), persist=False)
    with pytest.raises(Refused, match=r"holds a partition table|is mounted"):
        room.ask("disk.format", device=disk.path, fs="ext4", label="whole")
    made = room.ask("disk.format", device=disk.path, fs="ext4", label="whole", serial=disk.serial, force=True)
    assert made["changed"] is True
    (told,) = room.ask("disk.list", device=disk.path)["disks"]
    assert (told["fs"], "partitions" in told) == ("ext4", False)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"device": "/etc/passwd"}, "no device"),
        ({"device": "/dev/null"}, "no block device"),
        ({"device": "/dev/no-such-disk"}, "does not exist"),
        ({"device": "UUID=../../etc/passwd"}, "no such file system"),
        ({"fs": "ntfs"}, "does not match"),
        ({"label": "a b"}, "does not match"),
        ({"label": "x" * 17}, "takes 16 bytes"),
        ({"uuid": "nonsense"}, "does not match"),
    ],
)
def test_what_cannot_be_made_is_refused(making: Making, room: Room, params: dict[str, Any], why: str) -> None:
    disk = making()
    with pytest.raises(PaddockError, match=why):
        room.ask("disk.format", **{"device": disk.path, "fs": "ext4", "label": "data", **params})
    assert _run("wipefs", "--no-act", disk.path) == ""


# ---- mounted ---------------------------------------------------------------------------------------------------------


def test_a_disk_is_mounted_by_uuid_and_again_changes_nothing(making: Making, room: Room, at: Path) -> None:
    disk = making()
    room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    wanted = {"device": disk.path, "path": str(at), "options": ["noatime", "nofail", "x-systemd.device-timeout=10s"]}
    assert room.ask("disk.mount", **wanted)["changed"] == ["mounted", "fstab"]
    assert "noatime" in room.run(f"findmnt -no OPTIONS {at}")
    line = f"UUID={disk.uuid} {at} ext4 noatime,nofail,x-systemd.device-timeout=10s 0 2\n"
    assert room.run("cat /etc/fstab") == (FSTAB + line).strip()
    assert room.ask("disk.mount", **wanted)["changed"] == []
    assert room.ask("disk.mount", device=disk.path, path=str(at))["changed"] == ["fstab"]
    assert room.run("cat /etc/fstab").count(str(at)) == 1
    room.run("findmnt --verify --tab-file /etc/fstab 2>&1 | grep -v /dev/nothing || true")


def test_a_mount_that_was_killed_is_done_by_the_next(making: Making, room: Room, at: Path) -> None:
    disk = making()
    room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    room.run(f"mkdir -p {at}; mount {disk.path} {at}")
    assert room.ask("disk.mount", device=disk.path, path=str(at))["changed"] == ["fstab"]


@pytest.mark.parametrize(
    ("prepare", "params", "why"),
    [
        ("true", {"path": "/etc"}, "the system lives there"),
        ("true", {"path": "/"}, "the system lives there"),
        ("true", {"path": "mnt/data"}, "no absolute path"),
        ("true", {"path": "/mnt/../etc"}, "no absolute path"),
        ("true", {"options": ["noatime,suid"]}, "is none"),
        ("true", {"options": ["x 0 0\n/dev/sda"]}, "is none"),
        ("true", {"options": ["-o"]}, "is none"),
        ("mkdir -p {at}; touch {at}/file", {}, "is not empty"),
        ("mkdir -p {at}; mount -t tmpfs t {at}", {}, "t is mounted there"),
        ("mkdir -p $(dirname {at}); ln -s /etc {at}", {}, "through a symbolic link"),
        ("echo '/dev/other {at} ext4 defaults 0 0' >> /etc/fstab", {}, "fstab has /dev/other there"),
    ],
)
def test_what_cannot_be_mounted_is_refused(
    making: Making, room: Room, at: Path, prepare: str, params: dict[str, Any], why: str
) -> None:
    disk = making()
    room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    room.run(prepare.format(at=at))
    before = room.run("cat /etc/fstab; findmnt")
    with pytest.raises(Refused, match=why):
        room.ask("disk.mount", **{"device": disk.path, "path": str(at), **params})
    assert room.run("cat /etc/fstab; findmnt") == before


def test_a_blank_disk_is_not_mounted(making: Making, room: Room, at: Path) -> None:
    with pytest.raises(Refused, match="holds nothing"):
        room.ask("disk.mount", device=making().path, path=str(at))


def test_unmounting_takes_its_own_line_and_no_other(making: Making, room: Room, at: Path) -> None:
    """dcm-agent took every line of fstab away that held the path anywhere."""
    disk = making()
    room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    others = f"/dev/a {at}2 ext4 noauto 0 0\n/dev/b /srv{at} ext4 noauto 0 0\n# {at} is ours\n"
    room.run(f"printf '{others}' >> /etc/fstab")
    room.ask("disk.mount", device=disk.path, path=str(at))
    assert room.ask("disk.unmount", path=str(at))["changed"] == ["unmounted", "fstab"]
    assert room.run("cat /etc/fstab") == (FSTAB + others).strip()
    assert room.ask("disk.unmount", path=str(at))["changed"] == []
    assert room.attempt(f"findmnt {at}")[0] == 1


def test_a_busy_disk_is_told_with_who_uses_it_and_nothing_changes(making: Making, room: Room, at: Path) -> None:
    disk = making()
    room.ask("disk.format", device=disk.path, fs="ext4", label="data")
    room.ask("disk.mount", device=disk.path, path=str(at))
    pid = room.run(f"cd {at}; sleep 60 > /dev/null 2>&1 & echo $!")
    try:
        with pytest.raises(AssertionError, match=rf"busy.*used by .*{pid} \(sleep\)"):
            room.ask("disk.unmount", path=str(at))
        assert str(at) in room.run("cat /etc/fstab")
    finally:
        room.run(f"kill {pid}")


@pytest.mark.parametrize("path", ["/", "/etc", "/var"])
def test_the_system_is_not_unmounted(room: Room, path: str) -> None:
    with pytest.raises(Refused, match="the system lives there"):
        room.ask("disk.unmount", path=path)


# ---- grown -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", SIZES)
@pytest.mark.parametrize("layout", ["whole", "partition"])
def test_a_file_system_grows_with_its_disk(making: Making, room: Room, at: Path, fs: str, layout: str) -> None:
    if fs == "ext4" and not _may_grow_mounted():
        pytest.skip("mounted, the kernel grows ext4 for those with CAP_SYS_RESOURCE only")
    size = SIZES[fs] + 16 * MIB
    disk = making(size)
    device = disk.path
    if layout == "partition":
        _partition(disk, f"label: gpt\nsize={SIZES[fs] // MIB}MiB\n")
        device = f"{disk.path}p1"
    room.ask("disk.format", device=device, fs=fs, label="data")
    room.ask("disk.mount", device=device, path=str(at))
    room.run(f"echo precious > {at}/file")
    disk.grow(size * 2)
    before = int(room.run(f"df --output=size -k {at} | tail -1"))
    grown = room.ask("disk.resize", device=device)
    assert grown["changed"] == (["partition", "fs"] if layout == "partition" else ["fs"])
    assert int(room.run(f"df --output=size -k {at} | tail -1")) > before * 1.4
    assert grown["size"] > size * 1.8
    assert room.ask("disk.resize", device=device)["changed"] == []
    assert room.run(f"cat {at}/file") == "precious"


def _may_grow_mounted() -> bool:
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> 24 & 1)


def test_ext4_grows_unmounted_too_and_others_say_that_they_do_not(making: Making, room: Room) -> None:
    one, other = making(), making(SIZES["xfs"])
    room.ask("disk.format", device=one.path, fs="ext4", label="data")
    room.ask("disk.format", device=other.path, fs="xfs", label="data")
    one.grow(2 * SIZES["ext4"])
    assert room.ask("disk.resize", device=one.path)["changed"] == ["fs"]
    with pytest.raises(Refused, match="only while it is mounted"):
        room.ask("disk.resize", device=other.path)
    with pytest.raises(Refused, match="holds nothing"):
        room.ask("disk.resize", device=making().path)


# ---- encrypted -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "params", "why"),
    [
        ("true", {"key_file": "key"}, "no absolute path"),
        ("true", {"key_file": "/etc/no-such-key"}, "holds no key"),
        ("echo k > /etc/key; chmod 644 /etc/key", {}, "others than root may read it"),
        ("echo k > /etc/key; chmod 400 /etc/key; chown daemon /etc/key", {}, "others than root may read it"),
        ("ln -s /etc/hostname /etc/key", {}, "symbolic link"),
        ("mkdir -m 777 /etc/open", {"key_file": "/etc/open/key", "make_key": True}, "may write to its directory"),
        ("true", {"name": "../x"}, "does not match"),
        ("echo k > /etc/key; chmod 400 /etc/key; echo 'safe UUID=1 none' > /etc/crypttab", {}, "crypttab has UUID=1"),
    ],
)
def test_what_cannot_be_encrypted_is_refused(
    making: Making, room: Room, prepare: str, params: dict[str, Any], why: str
) -> None:
    disk = making()
    room.run(prepare)
    with pytest.raises(Refused, match=why):
        room.ask("disk.encrypt", **{"device": disk.path, "name": "safe", "key_file": "/etc/key", **params})
    assert _run("wipefs", "--no-act", disk.path) == ""


def test_the_key_stands_in_no_command_line_and_in_no_file_of_ours(making: Making, room: Room) -> None:
    """dcm-agent wrote the key of a disk to a predictable name in a directory that everybody may write to."""
    disk = making()
    room.run("printf hunter2hunter2 > /etc/key; chmod 400 /etc/key; cp $(command -v cryptsetup) /var/real")
    room.run('printf \'#!/bin/sh\\necho "$@" >> /var/argv\\nexec /var/real "$@"\\n\' > /var/spy; chmod 755 /var/spy')
    room.run("mount --bind /var/spy $(command -v cryptsetup)")
    name = f"paddock-{uuid.uuid4().hex[:12]}"
    said = ""
    try:
        room.ask("disk.encrypt", device=disk.path, name=name, key_file="/etc/key", persist=False)
    except PaddockError as exc:  # where the kernel maps no devices it is not opened
        said = exc.message
    assert "hunter2" not in said
    room.run(f"/var/real open --test-passphrase --key-file /etc/key {disk.path}")
    room.attempt(f"/var/real close {name}")
    assert "luksFormat" in room.run("cat /var/argv")
    assert room.attempt("grep -rls hunter2 /var/argv /var/room /tmp/*paddock* /dev/shm")[1] == ""


def test_a_container_of_somebody_else_is_kept(making: Making, room: Room) -> None:
    disk = making()
    weak = "--batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000"
    room.run("echo other > /etc/other; echo k > /etc/key; chmod 400 /etc/key")
    room.run(f"cryptsetup {weak} luksFormat {disk.path} /etc/other")
    before = _begin_of(disk)
    for more in ({}, {"make_key": True, "key_file": "/etc/new"}):
        with pytest.raises(Refused, match="holds crypto_LUKS"):
            room.ask("disk.encrypt", **{"device": disk.path, "name": "safe", "key_file": "/etc/key", **more})
    assert _begin_of(disk) == before
    assert room.attempt("test -e /etc/new")[0] == 1


# ---- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "method"),
    [
        ("disk.formatting", "disk.format"),
        ("disk.formatted", "disk.format"),
        ("drafts.replacing", "disk.format"),
        ("disk.mounted", "disk.mount"),
        ("drafts.replacing", "disk.mount"),
        ("disk.unmounted", "disk.unmount"),
        ("drafts.replacing", "disk.unmount"),
        ("disk.encrypting", "disk.encrypt"),
        ("disk.encrypted", "disk.encrypt"),
    ],
)
def test_a_kill_at_any_step_is_made_up_for_by_the_same_command(
    making: Making, room: Room, at: Path, point: str, method: str
) -> None:
    disk = making()
    name = f"paddock-{uuid.uuid4().hex[:12]}"
    wanted: dict[str, dict[str, Any]] = {
        "disk.format": {"device": disk.path, "fs": "ext4", "label": "data"},
        "disk.mount": {"device": disk.path, "path": str(at)},
        "disk.unmount": {"path": str(at)},
        "disk.encrypt": {"device": disk.path, "name": name, "key_file": "/etc/key", "make_key": True},
    }
    before = {"disk.mount": ("disk.format",), "disk.unmount": ("disk.format", "disk.mount")}
    for step in before.get(method, ()):
        room.ask(step, **wanted[step])
    room.die(point, method, **wanted[method])
    made = _run("blkid", "--probe", "--match-tag", "UUID", "--output", "value", disk.path) if _has_some(disk) else ""
    try:
        room.ask(method, **wanted[method])
    except PaddockError:
        if method != "disk.encrypt" or Path("/sys/class/misc/device-mapper").exists():
            raise  # only a kernel that maps no devices cannot open what it has encrypted
    if method == "disk.encrypt":
        room.run(f"cryptsetup open --test-passphrase --key-file /etc/key {disk.path}")
        room.attempt(f"cryptsetup close {name}")
    if method == "disk.mount":
        assert room.run(f"findmnt -rno SOURCE {at}; grep -c {at} /etc/fstab") == f"{disk.path}\n1"
    if method == "disk.unmount":
        assert room.attempt(f"findmnt {at} || grep {at} /etc/fstab")[0] == 1
    assert made in ("", disk.uuid)
    assert room.run("ls -A /etc /var/room/disk | grep paddock~ || true") == ""


def _has_some(disk: Disk) -> bool:
    return _run("wipefs", "--no-act", disk.path) != ""


# ---- tables and devices ----------------------------------------------------------------------------------------------


def test_an_entry_is_found_by_its_exact_field() -> None:
    text = "# /data\n/dev/a /data2 ext4 x 0 0\nUUID=1\t/data\text4 x 0 0\n"
    assert tables.entry(text, column=1, value="/data/") == ["UUID=1", "/data", "ext4", "x", "0", "0"]
    assert tables.entry(text, column=1, value="/dat") is None
    assert tables.without_entry(text, column=1, value="/data") == "# /data\n/dev/a /data2 ext4 x 0 0\n"


def test_a_path_with_a_space_stands_in_one_field() -> None:
    text = tables.with_entry("", ["UUID=1", "/my data", "ext4", "x", "0", "0"], column=1)
    assert text == "UUID=1 /my\\040data ext4 x 0 0\n"
    assert tables.entry(text, column=1, value="/my data") is not None


def test_an_entry_takes_the_place_of_the_one_before() -> None:
    text = "a /x ext4 o 0 0\n# middle\nb /y ext4 o 0 0"
    after = tables.with_entry(text, ["c", "/x", "xfs", "o", "0", "0"], column=1)
    assert after == "c /x xfs o 0 0\n# middle\nb /y ext4 o 0 0\n"
    assert tables.with_entry(after, ["c", "/x", "xfs", "o", "0", "0"], column=1) == after


def test_what_is_no_device_is_refused() -> None:
    with pytest.raises(Refused):
        devices.find("/tmp")
    with pytest.raises(Missing):
        devices.of_number("999:999")
