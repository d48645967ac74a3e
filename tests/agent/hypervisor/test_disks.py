"""Disks without a disk: headers of strangers, datasets by name, and which kind is chosen."""

import itertools
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor.disks import headers, volumes, zfs
from paddock.agent.skills.tools import Ran
from paddock.core.errors import Broken, Missing, Refused

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


def test_a_copy_is_a_clone_of_a_snapshot_of_its_own() -> None:
    assert zfs.copying("tank/v-1", "tank/v-0123456789abcdef", Path("/srv/v-2")) == (
        ("zfs", "snapshot", "tank/v-1@copy-0123456789abcdef"),
        ("zfs", "clone", "-o", "mountpoint=/srv/v-2", "tank/v-1@copy-0123456789abcdef", "tank/v-0123456789abcdef"),
    )


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ("", ""),
        ("tank/v-1@copy-a\t\ntank/v-1@copy-b\t-\n", ""),
        ("tank/v-1@copy-a\ttank/v-2\ntank/v-1@copy-b\ttank/v-3\ntank/v-1@copy-c\t-\n", "tank/v-3"),
        ("tank/v-1@whole\ttank/v-2,tank/v-3\n", ""),
        ("tank/v-1@copy-a\ttank/v-2,tank/v-3\n", "tank/v-2"),
    ],
    ids=["no snapshot", "no copy", "the last copy", "clones of a layer", "one of two"],
)
def test_the_heir_of_a_volume_is_the_last_copy_of_it(told: str, found: str) -> None:
    assert zfs.heir(told) == found


class Pool:
    """What ZFS keeps of datasets, and refuses, by its manual; their content is in directories."""

    def __init__(self) -> None:
        self.mounts: dict[str, Path] = {}
        self.origins: dict[str, str] = {}
        self.snapshots: dict[str, list[str]] = {}

    def attempt(self, *argv: str) -> Ran:
        verb, dataset = argv[1], argv[-1]
        if verb != "snapshot" and dataset not in self.mounts and verb not in ("create", "clone"):
            return Ran(code=1, out="", err=f"cannot open '{dataset}': dataset does not exist")
        match verb:
            case "create" | "clone":
                self.mounts[dataset] = Path(argv[argv.index("-o") + 1].removeprefix("mountpoint="))
                self.snapshots[dataset] = []
                if verb == "create":
                    self.mounts[dataset].mkdir(parents=True)
                else:
                    self.origins[dataset] = argv[-2]
                    shutil.copytree(self.mounts[argv[-2].partition("@")[0]], self.mounts[dataset])
            case "snapshot":
                self.snapshots[dataset.partition("@")[0]].append(dataset.partition("@")[2])
            case "list":
                return Ran(code=0, out="".join(f"{one}\t{','.join(has)}\n" for one, has in self._of(dataset)), err="")
            case "promote":
                self._promote(dataset)
            case "destroy":
                if any(has for _, has in self._of(dataset)):
                    return Ran(code=1, out="", err=f"cannot destroy '{dataset}': filesystem has dependent clones")
                shutil.rmtree(self.mounts.pop(dataset))
                self.origins.pop(dataset, None)
        return Ran(code=0, out="", err="")

    def run(self, *argv: str) -> str:
        ran = self.attempt(*argv)
        if ran.code != 0:
            raise Broken(ran.err)
        return ran.out

    def _of(self, dataset: str) -> list[tuple[str, list[str]]]:
        names = [f"{dataset}@{name}" for name in self.snapshots[dataset]]
        return [(name, [clone for clone, origin in self.origins.items() if origin == name]) for name in names]

    def _promote(self, dataset: str) -> None:
        source, _, last = self.origins.pop(dataset).partition("@")
        place = self.snapshots[source].index(last) + 1
        moved, self.snapshots[source] = self.snapshots[source][:place], self.snapshots[source][place:]
        assert not set(moved) & set(self.snapshots[dataset]), "ZFS refuses it: two snapshots of one name"
        self.snapshots[dataset][:0] = moved
        for clone, origin in self.origins.items():
            if origin in {f"{source}@{name}" for name in moved}:
                self.origins[clone] = f"{dataset}@{origin.partition('@')[2]}"
        if source in self.origins:
            self.origins[dataset] = self.origins[source]
        self.origins[source] = f"{dataset}@{last}"


@pytest.mark.parametrize("order", [*itertools.permutations(("machine", "saved", "fork", "again"))], ids=" ".join)
async def test_machines_their_saved_disks_and_forks_of_these_go_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Sequence[str]
) -> None:
    pool = Pool()
    monkeypatch.setattr(tools, "attempt", pool.attempt)
    monkeypatch.setattr(tools, "run", pool.run)
    monkeypatch.setattr(zfs, "dataset_at", lambda place, mounts: "tank")
    disks = kinds.named("zfs", tmp_path)
    await disks.create(tmp_path / "layer", {"system": 1 << 20})
    await disks.clone(tmp_path / "layer", tmp_path / "machine")
    for source, target in (("machine", "saved"), ("saved", "fork"), ("saved", "other"), ("fork", "again")):
        await disks.copy(tmp_path / source, tmp_path / target)
    with pytest.raises(Broken, match=r"layer: .*dependent clones"):
        await disks.remove(tmp_path / "layer")

    for place, name in enumerate(order, start=1):
        await disks.remove(tmp_path / name)
        for kept in ("other", *order[place:]):
            assert [disk.name for disk in await disks.disks(tmp_path / kept)] == ["system"]
    await disks.remove(tmp_path / "other")
    await disks.remove(tmp_path / "layer")

    assert pool.mounts == {}


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
