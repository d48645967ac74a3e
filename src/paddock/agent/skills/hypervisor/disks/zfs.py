"""Disks in ZFS datasets; a volume is a link to where its dataset is mounted.

Effects: idempotent; a volume is whole or not there, and a dataset without a link goes when this is checked at a start.
"""

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor.disks import volumes
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.ports import Disk
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken, PaddockError, Refused

_HOME = ".zfs-volumes"
_OURS = re.compile(r"v-[0-9a-f]{16}")
_SNAPSHOT, _COPY = "whole", "copy-"
_OCTAL = re.compile(r"\\([0-7]{3})")

Words = tuple[str, ...]


def dataset_at(place: Path, mounts: str) -> str:
    """The dataset on which a directory lies, from the text of /proc/self/mounts; empty if that is no ZFS."""
    kinds: dict[str, tuple[str, str]] = {}
    for line in mounts.splitlines():
        source, where, kind, *_ = (_OCTAL.sub(lambda found: chr(int(found[1], 8)), word) for word in line.split(" "))
        kinds[where] = (kind, source)
    for each in (place, *place.parents):
        if str(each) in kinds:
            kind, source = kinds[str(each)]
            return source if kind == "zfs" else ""
    return ""


def creating(dataset: str, mountpoint: Path) -> tuple[Words, ...]:
    """What makes an empty dataset."""
    return (("zfs", "create", "-p", "-o", f"mountpoint={mountpoint}", dataset),)


def cloning(source: str, dataset: str, mountpoint: Path, *, is_frozen: bool) -> tuple[Words, ...]:
    """What clones a dataset that nobody writes to; its snapshot is taken with the first clone."""
    snapshot = f"{source}@{_SNAPSHOT}"
    taken: tuple[Words, ...] = () if is_frozen else (("zfs", "snapshot", snapshot),)
    return (*taken, ("zfs", "clone", "-o", f"mountpoint={mountpoint}", snapshot, dataset))


def copying(source: str, dataset: str, mountpoint: Path) -> tuple[Words, ...]:
    """What copies a dataset as it is now, by a snapshot for this copy alone."""
    taken = f"{source}@{_COPY}{dataset[-16:]}"
    return (
        ("zfs", "snapshot", taken),
        ("zfs", "clone", "-o", f"mountpoint={mountpoint}", taken, dataset),
    )


def looking(dataset: str) -> Words:
    """What tells the snapshots of a dataset, the oldest first, and what was cloned from each."""
    return ("zfs", "list", "-Hp", "-d", "1", "-t", "snapshot", "-s", "createtxg", "-o", "name,clones", dataset)


def heir(told: str) -> str:
    """Of what `looking` tells: the copy that has to outlive its source; empty if there is none.

    The last: what it takes over is older, and with that comes what other copies need.
    """
    for line in reversed(told.splitlines()):
        snapshot, _, clones = line.partition("\t")
        if snapshot.rpartition("@")[2].startswith(_COPY) and clones not in ("", "-"):
            return clones.split(",")[0]
    return ""


def promoting(dataset: str) -> Words:
    """What turns a copy and its source around: now the source is a clone of the copy, and may go."""
    return ("zfs", "promote", dataset)


def dropping(dataset: str) -> Words:
    """What removes a dataset with its snapshots; it fails where something was cloned from it."""
    return ("zfs", "destroy", "-r", dataset)


class Zfs(Files):
    """Raw files, one dataset a volume, below the dataset on which the root lies."""

    name = "zfs"
    needs_source = True

    async def copy(self, source: Path, target: Path) -> None:
        """A clone. Whoever of both goes first, the other has the blocks then: see `_destroy`."""

        def make() -> None:
            volumes.found(source)
            with volumes.making(target, self._drop) as half:
                dataset, mountpoint = self._fresh()
                self._run(copying(self._dataset_of(source), dataset, mountpoint))
                half.symlink_to(mountpoint)

        await in_thread(make)

    async def room(self) -> int:
        """Bytes that are free."""
        told = await in_thread(lambda: tools.run("zfs", "get", "-Hpo", "value", "available", self._parent()))
        return int(told)

    def _probe(self) -> None:
        try:
            tools.find("zfs", package="zfsutils-linux")
        except PaddockError as exc:
            raise Refused(exc.message, hint=exc.hint) from None
        parent = self._parent()
        self._sweep(parent)
        dataset, mountpoint = self._fresh()
        try:
            self._run(creating(dataset, mountpoint))
            self._run((dropping(dataset),))
        except Broken as exc:
            raise Refused(f"{parent}: {exc.message}", hint="be root, or use another kind of disks") from None

    def _sweep(self, parent: str) -> None:
        """Datasets that no volume links to: somebody died before the link was made, or removed it by hand."""
        linked = {os.readlink(path) for path in _links(self.root)}
        known = tools.attempt("zfs", "list", "-Hro", "name", f"{parent}/{_HOME}")
        for dataset in known.out.split():
            name = dataset.rpartition("/")[2]
            if _OURS.fullmatch(name) and str(self.root / _HOME / name) not in linked:
                with suppress(Broken):  # what was cloned from it is still there
                    self._destroy(dataset)

    def _make(self, place: Path) -> None:
        dataset, mountpoint = self._fresh()
        self._run(creating(dataset, mountpoint))
        place.symlink_to(mountpoint)

    def _drop(self, place: Path) -> None:
        if not place.is_symlink():
            super()._drop(place)
            return
        try:
            self._destroy(self._dataset_of(place))
        except Broken as exc:
            raise Broken(f"{place.name}: {exc.message}") from exc
        place.unlink()

    def _destroy(self, dataset: str) -> None:
        """It does not exist; copies of it stay. Broken where something else was cloned from it."""
        if copy := heir(tools.attempt(*looking(dataset)).out):
            self._run((promoting(copy),))
        ran = tools.attempt(*dropping(dataset))
        if ran.code != 0 and "does not exist" not in ran.err:
            raise Broken(ran.last_words)

    def _clone(self, source: Path, disks: Sequence[Disk], half: Path) -> None:
        dataset, mountpoint = self._fresh()
        old = self._dataset_of(source)
        is_frozen = (source / ".zfs" / "snapshot" / _SNAPSHOT).is_dir()
        *taking, making = cloning(old, dataset, mountpoint, is_frozen=is_frozen)
        for words in taking:
            ran = tools.attempt(*words)
            if ran.code != 0 and "already exists" not in ran.err:  # another clone of it was a moment quicker
                raise Broken(f"{source.name}: {ran.last_words}")
        self._run((making,))
        half.symlink_to(mountpoint)

    def _fresh(self) -> tuple[str, Path]:
        name = f"v-{secrets.token_hex(8)}"
        return f"{self._parent()}/{_HOME}/{name}", self.root / _HOME / name

    def _dataset_of(self, volume: Path) -> str:
        return f"{self._parent()}/{_HOME}/{Path(os.readlink(volume)).name}"

    def _parent(self) -> str:
        dataset = dataset_at(self.root.resolve(), Path("/proc/self/mounts").read_text("utf-8"))
        if not dataset:
            raise Refused(f"{self.root}: does not lie on ZFS", hint="choose btrfs, reflink or qcow2")
        return dataset

    def _run(self, commands: Sequence[Words]) -> None:
        for words in commands:
            tools.run(*words)


def _links(root: Path) -> list[Path]:
    return [
        Path(place) / name for place, names, _ in os.walk(root) for name in names if (Path(place) / name).is_symlink()
    ]
