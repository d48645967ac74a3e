"""The base of an image: downloaded or read, checked, unpacked, taken as a volume of ours.

Effects: idempotent. Which content a URL had is remembered until somebody removes the layer; of a file on the host, for
as long as its size and its time stay.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from paddock.agent import durable
from paddock.agent.skills.hypervisor.disks import headers
from paddock.agent.skills.hypervisor.images import building, downloading, unpacking
from paddock.agent.skills.hypervisor.images.building import Means
from paddock.agent.skills.hypervisor.images.downloading import Half, Progress
from paddock.agent.skills.hypervisor.images.layers import Layer
from paddock.agent.skills.hypervisor.stopping import Stop, stoppable
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken, Missing, Refused
from paddock.core.image import Image
from paddock.hands import faults

FILE = "sources.json"
HALVES = "downloads"
MOST_DISK = 1 << 44
"""Bytes of a disk that is unpacked or read."""

Say = Callable[[str], None]
Tell = Callable[[float], None]


def check(image: Image) -> None:
    """Refused for a base that cannot be had, as far as that is known before anything is fetched."""
    if image.url:
        if why := downloading.objection(image.url):
            raise Refused(f"image {image.name}: {image.url} {why}")
        unpacking.check(image.url)
    elif not Path(image.path).is_absolute() or not Path(image.path).is_file():
        raise Refused(f"image {image.name}: {image.path} is no file on this host")


class Sources:
    """What is known of where bases are from, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.taking = asyncio.Lock()
        """One at a time becomes a layer: the next may hold the same."""

    def find(self, key: str) -> str:
        """The SHA-256 that it had; nothing if that is not known."""
        told = durable.read(self._path)
        known = told.get(key) if isinstance(told, dict) else None
        return known if isinstance(known, str) else ""

    def note(self, key: str, sha256: str) -> None:
        """It has this content; what a file of the host had before is forgotten."""
        told = durable.read(self._path)
        known = told if isinstance(told, dict) else {}
        durable.write(self._path, {**{one: known[one] for one in known if _file(one) != _file(key)}, key: sha256})

    def forget(self, sha256: str) -> None:
        """Whoever asks for what had this content looks again."""
        told = durable.read(self._path)
        if isinstance(told, dict) and sha256 in told.values():
            durable.write(self._path, {key: one for key, one in told.items() if one != sha256})


def key_of(image: Image) -> str:
    """What stands for the content of a base before it was read. Missing if its file is not there any more."""
    if image.url:
        return image.url
    try:
        found = os.stat(image.path)
    except OSError as exc:
        raise Missing(f"image {image.name}: {image.path}: {exc.strerror}") from None
    return f"{image.path}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _file(key: str) -> str:
    return key.rsplit(":", 3)[0] if key.startswith("/") else key


def known(image: Image, sources: Sources) -> str:
    """The digest that a base has, without reading it; nothing if it must be read first."""
    if image.url and image.sha256:
        return image.sha256.lower()
    found = sources.find(key_of(image))
    if image.sha256 and found and found != image.sha256.lower():
        raise Refused(f"image {image.name}: the sha256 of {image.path} is {found}, not {image.sha256.lower()}")
    return found


async def make(means: Means, image: Image, sources: Sources, say: Say, tell: Tell) -> str:
    """The digest of the base's layer, which is sealed. Whatever fails leaves none."""
    began = time.monotonic()
    digest, source, half = await _had(means, image, say, tell)
    async with sources.taking:
        # Of another URL, or of an agent that died before it noted where it was from: others may stand on it.
        if await in_thread(lambda: means.store.find(digest)) is None:
            await _take(means, image, sources, source, digest, began, say)
    sources.note(key_of(image), digest)
    if half is not None:
        half.drop()
    return digest


async def _take(
    means: Means, image: Image, sources: Sources, source: Path, digest: str, began: float, say: Say
) -> None:
    made = secrets.token_hex(8)
    async with building.place(means, image, (image,)) as machine:
        kind = await in_thread(lambda: unpacking.kind_of(source))
        if kind not in (headers.RAW, headers.QCOW2):
            say(f"image {image.name}: is unpacked ({kind})")
            packed, source = source, machine.directory / "unpacked"
            await _unpack(image.name, packed, kind, source)
            kind = await in_thread(lambda: headers.format_of(source))
        say(f"image {image.name}: becomes a volume ({kind})")
        (machine.directory / building.VOLUME).mkdir(mode=0o700)
        await means.store.disks.take(machine.directory / building.VOLUME / made, source, format=kind)
        faults.at("hypervisor.image_taken")
        _check_unchanged(image, sources, digest)
        layer = Layer(
            digest=digest,
            build=made,
            disks=means.store.disks.name,
            image=image.name,
            source=image.url or image.path,
            made=time.time(),
            seconds=round(time.monotonic() - began, 1),
        )
        await means.store.seal(machine.directory / building.VOLUME, layer)
    say(f"layer {digest[:12]} is sealed after {layer.seconds:g} s")


async def _had(means: Means, image: Image, say: Say, tell: Tell) -> tuple[str, Path, Half | None]:
    """Digest and path of what the base is made from, as it came; and what is kept of a download until it is sealed."""
    name = urlsplit(image.url).path.rpartition("/")[2] or image.name
    if image.url:
        say(f"image {image.name}: is downloaded from {image.url}")
        if not image.sha256:
            say("it has no sha256: it is taken as it comes")
        loop = asyncio.get_running_loop()
        progress = Progress(
            f"downloading {name}",
            lambda text: loop.call_soon_threadsafe(say, text),
            lambda share: loop.call_soon_threadsafe(tell, share),
        )

        def get(stop: Stop) -> tuple[str, Half]:
            halves = means.store.layout.images / HALVES
            wanted = image.sha256.lower()
            return downloading.download(image.url, sha256=wanted, directory=halves, told=progress, stop=stop)

        digest, half = await stoppable(get)
        return digest, half.data, half
    path = Path(image.path)
    before = key_of(image)
    say(f"image {image.name}: {path} is read")
    digest = await stoppable(lambda stop: downloading.digest(path, stop))
    if image.sha256 and digest != image.sha256.lower():
        raise Refused(f"image {image.name}: the sha256 of {path} is {digest}, not {image.sha256.lower()}")
    if key_of(image) != before:
        raise Broken(f"image {image.name}: {path} was changed while it was read")
    # Noted at once: if it is changed before it is taken, its key is another one then.
    Sources(means.store.layout.images / FILE).note(before, digest)
    return digest, path, None


def _check_unchanged(image: Image, sources: Sources, digest: str) -> None:
    if image.path and sources.find(key_of(image)) != digest:
        raise Broken(f"image {image.name}: {image.path} was changed while it was read")


async def _unpack(name: str, packed: Path, kind: str, target: Path) -> None:
    def unpack(stop: Stop) -> None:
        try:
            unpacking.unpack(f"image {name}", packed, kind, target, most=MOST_DISK, stop=stop)
        except OSError as exc:
            raise Broken(f"image {name}: {exc.strerror or exc}", hint="image.collect makes room") from exc

    await stoppable(unpack)
