"""Disks without a disk: headers of strangers, datasets by name, and which kind is chosen."""

import os
import struct
from pathlib import Path

import pytest

from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor.disks import headers, volumes, zfs
from paddock.core.errors import Missing, Refused

GIB = 1 << 30
MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
tank/paddock /srv/my\\040disks zfs rw 0 0
tank /srv zfs rw 0 0
tmpfs /srv/tmp tmpfs rw 0 0
"""


def header(*, version: int = 3, backing: int = 0, size: int = GIB, crypt: int = 0, incompatible: int = 0) -> bytes:
    told = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 9 if backing else 0, 16, size, crypt, 2, 0, 0, 1, 0, 0
    )
    return told + struct.pack(">QQQII", incompatible, 0, 0, 4, 112)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (header(backing=200), "names a backing file"),
        (header(incompatible=4), "names a data file"),
        (header(crypt=2), "is encrypted"),
        (header(size=0), "says that its disk has 0 bytes"),
        (header(size=1 << 60), "at most"),
        (header(version=4), "is qcow2 of version 4"),
        (header()[:60], "is no qcow2 file"),
        (header()[:74], "its qcow2 header is cut off"),
        (b"MZ" * 100, "is no qcow2 file"),
    ],
)
def test_a_strangers_header_that_could_do_harm_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "image").write_bytes(data)

    with pytest.raises(Refused, match=why):
        headers.harmless(tmp_path / "image")


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_that_names_nobody_is_taken(tmp_path: Path, version: int) -> None:
    (tmp_path / "image").write_bytes(header(version=version))

    assert headers.harmless(tmp_path / "image").size == GIB
    assert headers.format_of(tmp_path / "image") == "qcow2"


def test_an_overlay_says_what_it_lies_on() -> None:
    parts = headers.overlay(Path("/images/base/system.raw"), "raw", 20 * GIB)

    assert headers.read(parts[0], "overlay").size == 20 * GIB
    assert headers.read(parts[0], "overlay").has_backing
    assert parts[0].endswith(b"/images/base/system.raw")
    assert max(offset + len(data) for offset, data in parts.items()) <= headers.length(20 * GIB)


def test_a_path_that_is_too_long_for_an_overlay_is_refused() -> None:
    with pytest.raises(Refused, match="longer than a qcow2 header holds"):
        headers.overlay(Path("/" + "x" * 1023), "raw", GIB)


def test_what_is_no_disk_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "system.vmdk").touch()

    with pytest.raises(Missing):
        volumes.found(tmp_path)
    with pytest.raises(Missing):
        volumes.found(tmp_path / "system.vmdk")


# ---- zfs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "dataset"),
    [
        ("/srv/my disks/state", "tank/paddock"),
        ("/srv/other", "tank"),
        ("/srv/tmp/state", ""),
        ("/home", ""),
    ],
)
def test_the_dataset_below_a_directory_is_the_nearest_mount(place: str, dataset: str) -> None:
    assert zfs.dataset_at(Path(place), MOUNTS) == dataset


def test_a_clone_takes_the_snapshot_of_its_source_once() -> None:
    at = Path("/srv/v-2")

    assert zfs.cloning("tank/v-1", "tank/v-2", at, is_frozen=False) == (
        ("zfs", "snapshot", "tank/v-1@whole"),
        ("zfs", "clone", "-o", "mountpoint=/srv/v-2", "tank/v-1@whole", "tank/v-2"),
    )
    assert zfs.cloning("tank/v-1", "tank/v-2", at, is_frozen=True) == (
        ("zfs", "clone", "-o", "mountpoint=/srv/v-2", "tank/v-1@whole", "tank/v-2"),
    )


def test_a_copy_is_promoted_so_that_its_source_may_go() -> None:
    assert zfs.promoting("tank/v-1", "tank/v-2", Path("/srv/v-2"), "copy-1") == (
        ("zfs", "snapshot", "tank/v-1@copy-1"),
        ("zfs", "clone", "-o", "mountpoint=/srv/v-2", "tank/v-1@copy-1", "tank/v-2"),
        ("zfs", "promote", "tank/v-2"),
    )


async def test_a_root_that_is_not_on_zfs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        await kinds.named("zfs", tmp_path).check()


# ---- chosen ----------------------------------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="lvm: is no kind of disks") as refused:
        kinds.named("lvm", tmp_path)

    assert refused.value.hint == "one of: btrfs, reflink, zfs, qcow2"


async def test_the_best_kind_leaves_no_trace_of_its_probing(tmp_path: Path) -> None:
    disks = await kinds.best(tmp_path)

    await disks.check()
    assert os.listdir(tmp_path) == []
