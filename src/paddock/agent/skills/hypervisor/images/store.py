"""The layers of this host on its disk: sealed by one rename, found, removed, counted.

Effects: idempotent. What is being made lies in `making/` and is swept at the next start.
"""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills.hypervisor import record
from paddock.agent.skills.hypervisor.disks import headers, volumes
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.images import layers
from paddock.agent.skills.hypervisor.images.layers import Layer
from paddock.agent.skills.hypervisor.images.space import OTHERS, Space, measure
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken, Missing, PaddockError
from paddock.hands import faults

TEMPLATE = "made.json"
"""Beside a template's volume: which layer it was made from."""


class Store:
    """Directories `images/DIGEST/` with a record and a volume each."""

    def __init__(self, layout: Layout, disks: Files) -> None:
        self.layout = layout
        self.disks = disks

    def place(self, digest: str) -> Path:
        """Where a layer is."""
        return self.layout.images / digest

    def read(self, digest: str) -> Layer | None:
        """A layer's record, whatever became of the layer."""
        return layers.read(self.place(digest))

    def find(self, digest: str) -> Layer | None:
        """A layer that is whole, and whose parents are where it cannot be without them."""
        layer = self.read(digest)
        if layer is None or layer.digest != digest or layers.damage(self.place(digest), layer, self.disks.name):
            return None
        if self.disks.needs_source and layer.parent:
            parent = self.find(layer.parent)
            if parent is None or parent.build != layer.parent_build:
                return None
        return layer

    def volume(self, digest: str) -> Path:
        """Where a layer's volume is. Missing if there is no such layer."""
        layer = self.read(digest)
        if layer is None:
            raise Missing(f"image {digest[:12]}: is not on this host")
        return self.place(digest) / layer.build

    def all(self) -> Sequence[Layer]:
        """Every layer that has a record, oldest first."""
        found = [layers.read(place) for place in _entries(self.layout.images)]
        return sorted((layer for layer in found if layer is not None), key=lambda layer: layer.made)

    def used(self, digest: str) -> float:
        """When it was used last, in seconds since 1970."""
        with suppress(FileNotFoundError):
            return (self.place(digest) / layers.USED).stat().st_mtime
        return 0.0

    def touch(self, digest: str) -> None:
        """It is used now."""
        with suppress(FileNotFoundError):
            (self.place(digest) / layers.USED).touch()

    def is_proven(self, digest: str) -> bool:
        """Whether its agent answered once."""
        return (self.place(digest) / layers.PROVEN).exists()

    def prove(self, digest: str) -> None:
        """Its agent answered."""
        with suppress(FileNotFoundError):
            (self.place(digest) / layers.PROVEN).touch()

    async def seal(self, half: Path, layer: Layer) -> None:
        """What was made in `half`, the volume and nothing else, is the layer from now on; what was there goes."""
        gone = await in_thread(lambda: self._seal(half, layer))
        if gone is not None:
            await self.drop(gone)

    def _seal(self, half: Path, layer: Layer) -> Path | None:
        try:
            faults.at("hypervisor.image_sealing")
            volumes.settle(half / layer.build)
            durable.write(half / layers.FILE, {**layer.params(), "content": _plain(half / layer.build)})
            (half / layers.USED).touch()
            faults.at("hypervisor.image_recorded")
            gone = self._push_aside(layer.digest)
            self.layout.images.mkdir(mode=0o700, parents=True, exist_ok=True)
            half.rename(self.place(layer.digest))
            durable.sync(self.layout.images)
        except OSError as exc:
            raise Broken(f"image {layer.image}: {exc.strerror or exc}", hint="image.collect makes room") from exc
        faults.at("hypervisor.image_sealed")
        return gone

    def _push_aside(self, digest: str) -> Path | None:
        """What has the name of a layer gets another one: where a start finds it if it is not removed before."""
        place = self.place(digest)
        if not place.exists():
            return None
        self.layout.making.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place.rename(self.layout.making / f"gone-{digest[:12]}-{time.time_ns()}")

    async def remove(self, digest: str) -> None:
        """A layer does not exist. It has another name before any of it goes."""
        gone = await in_thread(lambda: self._push_aside(digest))
        if gone is not None:
            faults.at("hypervisor.image_pushed_aside")
            await self.drop(gone)

    async def remove_template(self, key: str) -> None:
        """A template does not exist."""
        gone = self.layout.making / f"gone-{key[:12]}-{time.time_ns()}"
        self.layout.making.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            (self.layout.templates / key).rename(gone)
            faults.at("hypervisor.template_pushed_aside")
            await self.drop(gone)

    async def drop(self, place: Path) -> None:
        """A directory below `making` is gone with the volumes in it."""
        for volume in await in_thread(lambda: [one for one in (place, *_directories(place)) if _is_volume(one)]):
            await self.disks.remove(volume)
        await in_thread(lambda: shutil.rmtree(place, ignore_errors=True))

    async def sweep(self) -> None:
        """Whatever is not whole is gone. Only while nobody makes anything."""
        for place in _entries(self.layout.making):
            with suppress(PaddockError):  # what cannot go now goes at the next start
                await self.drop(place)

    def users(self) -> dict[str, list[str]]:
        """Who needs a layer or a template beside their own kind: machines and saved disks, by digest or key.

        By records, and by what overlays name: those of saved disks have no record.
        """
        found: dict[str, list[str]] = {}

        def note(name: str, user: str) -> None:
            if name and user not in found.setdefault(name, []):
                found[name].append(user)

        for directory in self.layout.machines.glob("*/*/"):
            with suppress(Broken):
                if known := record.load(directory):
                    note(known.layer, f"{known.environment}/{known.machine}")
                    note(known.template, f"{known.environment}/{known.machine}")
        for directory in (
            *self.layout.machines.glob("*/*/"),
            *_entries(self.layout.saved),
            *_entries(self.layout.making),
        ):
            for below in _overlaid(directory):
                if below.is_relative_to(self.layout.images) or below.is_relative_to(self.layout.templates):
                    note(below.relative_to(self.layout.root).parts[1], directory.name)
        return found

    def space(self) -> Space:
        """What layers and templates take, and what machines and whatever else there is share with them."""
        named = {self.place(layer.digest): layer.digest for layer in self.all()}
        named |= {self.layout.templates / key: key for key, *_ in self.templates()}
        entries = [*_entries(self.layout.images), *_entries(self.layout.templates)]
        others = (self.layout.machines, self.layout.saved, self.layout.making)
        return measure([(named.get(place, OTHERS), place) for place in (*entries, *others)])

    def templates(self) -> Iterator[tuple[str, str, float, float]]:
        """Key, layer, when made and when used last, of each template."""
        for place in _entries(self.layout.templates):
            told = durable.read(place / TEMPLATE)
            if isinstance(told, dict):
                made = told.get("made")
                when = float(made) if isinstance(made, int | float) else 0.0
                with suppress(FileNotFoundError):
                    yield place.name, str(told.get("layer", "")), when, max(when, (place / "used").stat().st_mtime)
                    continue
                yield place.name, str(told.get("layer", "")), when, when


def _plain(volume: Path) -> dict[str, dict[str, str | int]]:
    return {
        name: {"format": one.format, "size": one.size, "length": one.length, "changed": one.changed}
        for name, one in layers.content(volume).items()
    }


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory / name for name in os.listdir(directory))
    except FileNotFoundError:
        return []


def _directories(place: Path) -> list[Path]:
    """All directories below, and links, which a volume may be; the deepest first."""
    found = []
    for above, names, _ in os.walk(place):
        found += [Path(above) / name for name in names]
    return found[::-1]


def _is_volume(place: Path) -> bool:
    return place.is_symlink() or any(name.startswith("system.") for name in os.listdir(place) if place.is_dir())


def _overlaid(directory: Path) -> Iterator[Path]:
    """What the overlays below a directory lie on."""
    for path in directory.glob("**/*.qcow2"):
        with suppress(OSError, PaddockError):
            if below := headers.backing(path):
                yield Path(below)
