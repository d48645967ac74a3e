"""The promises of the port Disks, kept by each kind of disks on the file systems that it is for."""

import asyncio
import itertools
import json
import os
import random
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.disks.zfs import Zfs
from paddock.agent.skills.hypervisor.figures import kept
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.core.errors import Broken, Missing, PaddockError, Refused
from tools.filesystems import mounted
from tools.maven import Unavailable

MIB, GIB = 1 << 20, 1 << 30
GROUNDS = ("qcow2", "reflink-on-xfs", "reflink-on-btrfs", "btrfs", "zfs")
WORDS = b"what was in the image"

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Disks of one kind, and the directory below which they are."""

    disks: Files
    root: Path

    @property
    def image(self) -> Path:
        """A raw image of 8 MiB with a few words in it."""
        path = self.root / "image"
        with path.open("wb") as file:
            file.truncate(8 * MIB)
            file.seek(4 * MIB)
            file.write(WORDS)
        return path

    async def base(self, size: int = 0) -> Path:
        """A volume that has the image's content."""
        await self.disks.take(self.root / "base", self.image, format="raw", size=size)
        return self.root / "base"


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    kind, _, where = request.param.partition("-on-")
    if kind == "zfs":
        with pool(tmp_path) as root:
            yield Ground(disks=kinds.named(kind, root), root=root)
        return
    if kind == "qcow2":
        yield Ground(disks=kinds.named(kind, tmp_path), root=tmp_path)
        return
    with on(where or kind, tmp_path) as root:
        yield Ground(disks=kinds.named(kind, root), root=root)


@contextmanager
def on(kind: str, scratch: Path, size: int = GIB) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            root = stack.enter_context(mounted(kind, scratch, size))
        except Unavailable as exc:
            pytest.skip(str(exc))
        yield root


@contextmanager
def pool(scratch: Path) -> Iterator[Path]:
    """A directory on a new ZFS pool, which lies in a file. Nothing of a pool that is there already is touched."""
    if os.geteuid() != 0:
        pytest.skip("zfs: only root makes pools")
    for program in ("zpool", "zfs"):
        if shutil.which(program, path=tools.ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"zfs: there is no {program} here; on Debian: apt-get install zfsutils-linux, of contrib")
    if not Path("/sys/module/zfs").is_dir():
        pytest.skip("zfs: this kernel has not loaded its module; modprobe zfs, which zfs-dkms builds on Debian")
    name, file, place = f"paddock-tests-{secrets.token_hex(4)}", scratch / "zfs.img", scratch / "zfs.mnt"
    with file.open("wb") as made:
        made.truncate(GIB)
    tools.run("zpool", "create", "-m", str(place), name, str(file))
    try:
        yield place
    finally:
        tools.run("zpool", "destroy", "-f", name)
        file.unlink()


def seen(disk: Path, format: str, offset: int, length: int) -> bytes:
    """What a machine reads from a disk; by QEMU's own tool where it is no raw file."""
    if format == "raw":
        with disk.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    ran = qemu_io(disk, format, "-r", f"read -v {offset} {-(-length // 16) * 16}")
    lines = [line for line in ran.splitlines() if re.match(r"[0-9a-f]{8}:", line)]
    return b"".join(bytes.fromhex(line[11:58]) for line in lines)[:length]


def write(disk: Path, format: str, offset: int, pattern: int) -> None:
    """A machine writes 4 KiB."""
    if format == "raw":
        with disk.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([pattern]) * 4096)
    else:
        qemu_io(disk, format, f"write -P {pattern} {offset} 4096")


def qemu_img(*words: str) -> str:
    if shutil.which("qemu-img") is None:
        pytest.skip("there is no qemu-img here; ./dev host-setup installs it")
    return subprocess.run(["qemu-img", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def qemu_io(disk: Path, format: str, *words: str) -> str:
    if shutil.which("qemu-io") is None:
        pytest.skip("there is no qemu-io here; ./dev host-setup installs it")
    options = [word for word in words if word.startswith("-")]
    ran = subprocess.run(
        ["qemu-io", "-f", format, *options, "-c", words[-1], str(disk)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


async def first(ground: Ground, volume: Path) -> tuple[Path, str]:
    disk = (await ground.disks.disks(volume))[0]
    return disk.path, disk.format


# ---- made ------------------------------------------------------------------------------------------------------------


async def test_this_kind_works_where_it_is_for(ground: Ground) -> None:
    await ground.disks.check()

    assert set(os.listdir(ground.root)) <= {".zfs-volumes"} or ground.disks.name == "qcow2"


async def test_a_volume_of_blank_disks_has_them_in_order(ground: Ground) -> None:
    await ground.disks.create(ground.root / "v", {"system": GIB, **{f"blank-{n}": n * MIB for n in range(11, 0, -1)}})

    disks = await ground.disks.disks(ground.root / "v")

    assert [disk.name for disk in disks] == ["system", *(f"blank-{number}" for number in range(1, 12))]
    assert (await ground.disks.usage(ground.root / "v")).apparent == GIB + 66 * MIB
    assert (await ground.disks.usage(ground.root / "v")).own < MIB


async def test_an_image_is_taken_with_its_content_and_made_larger(ground: Ground) -> None:
    base = await ground.base(size=20 * GIB)

    path, format = await first(ground, base)

    assert seen(path, format, 4 * MIB, len(WORDS)) == WORDS
    assert seen(path, format, 20 * GIB - 512, 512) == bytes(512)
    assert (await ground.disks.usage(base)).apparent == 20 * GIB
    assert (await ground.disks.usage(base)).own < 9 * MIB


async def test_a_qcow2_image_is_taken_by_its_content(ground: Ground) -> None:
    foreign = ground.root / "foreign"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", str(ground.image), str(foreign))

    await ground.disks.take(ground.root / "base", foreign, format="qcow2")

    path, format = await first(ground, ground.root / "base")
    assert format == "raw"
    assert seen(path, format, 4 * MIB, len(WORDS)) == WORDS


async def test_a_qcow2_image_that_names_a_file_of_the_host_is_refused(ground: Ground) -> None:
    foreign, secret = ground.root / "foreign", ground.image
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(foreign))

    with pytest.raises(Refused, match="names a backing file"):
        await ground.disks.take(ground.root / "base", foreign, format="qcow2")

    assert not (ground.root / "base").exists()


# ---- cloned ----------------------------------------------------------------------------------------------------------


async def test_what_a_clone_writes_is_seen_by_nobody_else(ground: Ground) -> None:
    base = await ground.base()
    for name in ("one", "two"):
        await ground.disks.clone(base, ground.root / name)
    one, two, below = [await first(ground, ground.root / name) for name in ("one", "two", "base")]

    write(*one, 4 * MIB, 0x41)

    assert seen(*one, 4 * MIB, 16) == b"A" * 16
    assert seen(*two, 4 * MIB, len(WORDS)) == WORDS
    assert seen(*below, 4 * MIB, len(WORDS)) == WORDS


async def test_a_clone_of_a_clone_has_all_of_both(ground: Ground) -> None:
    base = await ground.base()
    await ground.disks.clone(base, ground.root / "layer")
    write(*await first(ground, ground.root / "layer"), 0, 0x42)

    await ground.disks.clone(ground.root / "layer", ground.root / "machine")

    machine = await first(ground, ground.root / "machine")
    assert seen(*machine, 0, 16) == b"B" * 16
    assert seen(*machine, 4 * MIB, len(WORDS)) == WORDS


async def test_a_clone_is_larger_and_has_more_disks_as_asked(ground: Ground) -> None:
    await ground.disks.clone(await ground.base(), ground.root / "one", size=2 * GIB, blank=(MIB, 3 * GIB))

    await ground.disks.clone(ground.root / "one", ground.root / "two", blank=(5 * MIB,))

    disks = await ground.disks.disks(ground.root / "two")
    assert [disk.name for disk in disks] == ["system", "blank-1", "blank-2", "blank-3"]
    assert (await ground.disks.usage(ground.root / "two")).apparent == 5 * GIB + 6 * MIB
    assert seen(disks[0].path, disks[0].format, 4 * MIB, len(WORDS)) == WORDS
    assert seen(disks[0].path, disks[0].format, 2 * GIB - 512, 512) == bytes(512)


async def test_a_smaller_size_changes_nothing(ground: Ground) -> None:
    await ground.disks.clone(await ground.base(), ground.root / "one", size=MIB)

    assert (await ground.disks.usage(ground.root / "one")).apparent == 8 * MIB


async def test_a_clone_takes_nothing_of_its_own_until_it_writes(ground: Ground) -> None:
    base = await ground.base()
    path, _ = await first(ground, base)
    with path.open("r+b") as file:
        file.write(os.urandom(4 * MIB))
        os.fsync(file.fileno())

    await ground.disks.clone(base, ground.root / "one")
    os.sync()

    assert (await ground.disks.usage(ground.root / "one")).own <= 300_000


@pytest.mark.parametrize("length", [100, 4 * MIB + 100])
async def test_an_image_that_ends_within_a_sector_is_filled_up_with_zeros(ground: Ground, length: int) -> None:
    content = os.urandom(length)
    (ground.root / "odd").write_bytes(content)

    await ground.disks.take(ground.root / "base", ground.root / "odd", format="raw")
    await ground.disks.clone(ground.root / "base", ground.root / "one")

    whole = length + 412
    assert (await ground.disks.usage(ground.root / "one")).apparent == whole
    at = whole - 512
    assert seen(*await first(ground, ground.root / "one"), at, 512) == content[at:] + bytes(412)


async def test_a_copy_outlives_its_source(ground: Ground) -> None:
    base = await ground.base()
    await ground.disks.clone(base, ground.root / "machine", blank=(MIB,))
    write(*await first(ground, ground.root / "machine"), 0, 0x43)

    await ground.disks.copy(ground.root / "machine", ground.root / "saved")
    await ground.disks.remove(ground.root / "machine")

    disks = await ground.disks.disks(ground.root / "saved")
    assert [disk.name for disk in disks] == ["system", "blank-1"]
    assert seen(disks[0].path, disks[0].format, 0, 16) == b"C" * 16
    assert seen(disks[0].path, disks[0].format, 4 * MIB, len(WORDS)) == WORDS


async def test_saved_disks_are_counted_as_what_they_take_once_their_machine_is_gone(ground: Ground) -> None:
    layout = Layout.of(ground.root)
    (ground.root / "image").write_bytes(os.urandom(8 * MIB))
    await ground.disks.take(layout.images / "base", ground.root / "image", format="raw")
    machine, saved = layout.machines / "one", layout.saved / "one"
    await ground.disks.clone(layout.images / "base", machine, blank=(16 * MIB,))
    blank = (await ground.disks.disks(machine))[1]
    with blank.path.open("r+b") as file:
        file.write(os.urandom(4 * MIB))
        os.fsync(file.fileno())
    os.sync()

    before = kept(layout, machine)
    await ground.disks.copy(machine, saved)
    os.sync()
    told = kept(layout, saved)
    await ground.disks.remove(machine)

    assert told == before == kept(layout, saved)
    assert told >= 4 * MIB
    if not isinstance(ground.disks, Zfs):  # its files do not say what they share: never too little
        assert told < 5 * MIB


@pytest.mark.parametrize("order", [*itertools.permutations(("machine", "saved", "fork"))], ids=" ".join)
async def test_a_machine_its_saved_disks_and_a_fork_of_these_go_in_any_order(
    ground: Ground, order: Sequence[str]
) -> None:
    await ground.disks.clone(await ground.base(), ground.root / "machine")
    write(*await first(ground, ground.root / "machine"), 0, 0x45)
    await ground.disks.copy(ground.root / "machine", ground.root / "saved")
    for name in ("fork", "other"):
        await ground.disks.copy(ground.root / "saved", ground.root / name)

    for name in order:
        await ground.disks.remove(ground.root / name)
        assert name not in os.listdir(ground.root)

    assert seen(*await first(ground, ground.root / "other"), 0, 16) == b"E" * 16
    assert seen(*await first(ground, ground.root / "other"), 4 * MIB, len(WORDS)) == WORDS


async def test_twenty_clones_at_once_are_twenty_volumes(ground: Ground) -> None:
    base = await ground.base()

    await asyncio.gather(*(ground.disks.clone(base, ground.root / "m" / f"{number}") for number in range(20)))

    for number in range(20):
        write(*await first(ground, ground.root / "m" / f"{number}"), 4 * MIB, number)
    for number in range(20):
        assert seen(*await first(ground, ground.root / "m" / f"{number}"), 4 * MIB, 16) == bytes([number]) * 16
    assert sorted(os.listdir(ground.root / "m")) == sorted(str(number) for number in range(20))


@pytest.mark.parametrize("size", [GIB, 20 * GIB], ids=["1-gib", "20-gib"])
async def test_a_clone_takes_milliseconds_whatever_its_size(ground: Ground, size: int) -> None:
    base = await ground.base(size=size)
    took = []
    for number in range(40):
        began = time.monotonic()
        await ground.disks.clone(base, ground.root / f"m{number}")
        took.append(time.monotonic() - began)

    assert sorted(took)[20] < 0.015, "the median alone: what is promised of one in twenty is measured by the bench"


# ---- gone, refused, broken -------------------------------------------------------------------------------------------


async def test_what_is_removed_does_not_exist_and_may_be_removed_again(ground: Ground) -> None:
    volume = await ground.base()

    await ground.disks.remove(volume)
    await ground.disks.remove(volume)

    assert "base" not in os.listdir(ground.root)
    with pytest.raises(Missing):
        await ground.disks.disks(volume)


async def test_a_source_that_is_missing_makes_nothing(ground: Ground) -> None:
    for making in (
        ground.disks.clone(ground.root / "nowhere", ground.root / "one"),
        ground.disks.copy(ground.root / "nowhere", ground.root / "one"),
        ground.disks.take(ground.root / "one", ground.root / "nowhere", format="raw"),
    ):
        with pytest.raises(Missing):
            await making
    assert not any(name for name in os.listdir(ground.root) if "one" in name)


async def test_a_target_that_exists_is_not_written_over(ground: Ground) -> None:
    base = await ground.base()
    await ground.disks.clone(base, ground.root / "one")
    write(*await first(ground, ground.root / "one"), 0, 0x44)

    for making in (
        ground.disks.clone(base, ground.root / "one"),
        ground.disks.copy(base, ground.root / "one"),
        ground.disks.create(ground.root / "one", {"system": MIB}),
        ground.disks.take(ground.root / "one", ground.image, format="raw"),
    ):
        with pytest.raises(Refused, match="one: there is such a volume already"):
            await making

    assert seen(*await first(ground, ground.root / "one"), 0, 16) == b"D" * 16


async def test_a_volume_that_cannot_be_whole_is_not_there(ground: Ground) -> None:
    base = await ground.base()

    with pytest.raises(PaddockError):
        await ground.disks.clone(base, ground.root / "one", blank=(MIB, 1 << 62))

    assert not any(name for name in os.listdir(ground.root) if "one" in name)


async def test_a_full_disk_leaves_no_half_volume(tmp_path: Path, ground: Ground) -> None:
    if ground.disks.name == "qcow2":
        with on("ext4", tmp_path, 64 * MIB) as small:
            await _fill(Ground(disks=kinds.named("qcow2", small), root=small), tmp_path)
    else:
        await _fill(ground, tmp_path)


async def _fill(ground: Ground, scratch: Path) -> None:
    # Four times what is free, from a file that takes no room itself: its data lies on another file system.
    large = scratch / "large"
    with large.open("wb") as file:
        block = os.urandom(MIB)
        for _ in range(min(await ground.disks.room() // MIB + 32, 1400)):
            file.write(block)

    with pytest.raises(Broken, match=r"base: .*No space left|base: .*no space"):
        await ground.disks.take(ground.root / "base", large, format="raw")

    assert [name for name in os.listdir(ground.root) if "base" in name] == []


# ---- killed ----------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from paddock.agent.skills.hypervisor import disks as kinds
root = Path(sys.argv[2])
disks = kinds.named(sys.argv[1], root)
print("here", flush=True)
async def main():
    for number in range(int(sys.argv[3])):
        await disks.clone(root / "base", root / f"m{number}", blank=(1 << 20,))
asyncio.run(main())
"""


def _child(ground: Ground, count: int, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, ground.disks.name, str(ground.root), str(count)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize("point", ["hypervisor.volume_made", "hypervisor.volume_named"])
async def test_a_kill_at_each_step_leaves_a_whole_volume_or_none(ground: Ground, point: str) -> None:
    await ground.base()
    with _child(ground, 1, PADDOCK_FAULT=point) as child:
        child.communicate()
    assert child.returncode == -9

    if point == "hypervisor.volume_made":
        with pytest.raises(Missing):
            await ground.disks.disks(ground.root / "m0")
        await ground.disks.clone(ground.root / "base", ground.root / "m0", blank=(MIB,))
    assert [disk.name for disk in await ground.disks.disks(ground.root / "m0")] == ["system", "blank-1"]
    await ground.disks.remove(ground.root / "m0")
    assert [name for name in os.listdir(ground.root) if "m0" in name] == []


async def test_a_kill_at_any_moment_leaves_whole_volumes_only(ground: Ground) -> None:
    await ground.base()
    chance = random.Random(4)
    for _ in range(8):
        with _child(ground, 400) as child:
            assert child.stdout is not None
            child.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(chance.uniform(0.005, 0.1))
            child.kill()
        for name in {name.strip(".").removesuffix(".making") for name in os.listdir(ground.root) if "m" in name}:
            volume = ground.root / name
            if volume.exists() and name not in ("base", "image"):
                disks = await ground.disks.disks(volume)
                assert [disk.name for disk in disks] == ["system", "blank-1"]
                assert seen(disks[0].path, disks[0].format, 4 * MIB, len(WORDS)) == WORDS
            if name not in ("base", "image"):
                await ground.disks.remove(volume)
    assert {name for name in os.listdir(ground.root) if name.startswith((".", "m"))} == set()


# ---- chosen ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "kind"), [("btrfs", "btrfs"), ("xfs", "reflink"), ("ext4", "qcow2")])
async def test_the_best_kind_is_what_the_file_system_can_do(tmp_path: Path, where: str, kind: str) -> None:
    with on(where, tmp_path) as root:
        assert (await kinds.best(root)).name == kind


# ---- the overlay's header, as QEMU reads it --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8 * MIB, 8 * MIB + 512, GIB, 20 * GIB, 1 << 44], ids=str)
async def test_qemu_finds_an_overlay_of_ours_in_order(tmp_path: Path, size: int) -> None:
    ground = Ground(disks=kinds.named("qcow2", tmp_path), root=tmp_path)
    await ground.disks.clone(await ground.base(), tmp_path / "one", size=size)
    path, _ = await first(ground, tmp_path / "one")

    told = json.loads(qemu_img("info", "--output=json", "-f", "qcow2", str(path)))
    checked = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(path)))

    assert told["virtual-size"] == size
    assert told["full-backing-filename"] == str(tmp_path / "base" / "system.raw")
    assert told["backing-filename-format"] == "raw"
    assert not {"leaks", "corruptions", "check-errors"} & {name for name, count in checked.items() if count}
