"""A disk to clone, as configured: a parent plus build scripts; the digests of its layers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

BUILDER = 1
"""Version of how images are built: with another one, every layer that a script made is built again."""

GIB = 1 << 30


class Entry(StrEnum):
    """How our agent gets into an image that does not hold it yet."""

    NOCLOUD = "nocloud"
    """cloud-init in the image finds a NoCloud seed as a second drive, and installs the agent from it."""
    HELPER = "helper"
    """A helper machine of ours has the disk as its second drive, and puts the agent into its root file system."""
    NONE = "none"
    """The agent is in it already, and waits on its channel."""


@dataclass(frozen=True, kw_only=True)
class BuildScript:
    """One script of an image's chain: it makes one layer."""

    name: str
    run: str
    interpreter: str = "/bin/sh -e"
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    """What is put into the machine before it runs: absolute path → text."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A configured image. Exactly one of `url`, `path` and `parent` is given."""

    name: str
    url: str = ""
    path: str = ""
    """A file on the host."""
    parent: str = ""
    """Name of another image."""
    sha256: str = ""
    """Of what `url` or `path` holds, as it is there, compressed or not; empty: taken as it comes."""
    size: int = 0
    """Bytes of its disk, at least its parent's; 0: as large as that."""
    scripts: tuple[BuildScript, ...] = ()
    memory: int = GIB
    """Bytes of the machine that builds it."""
    vcpus: int = 1
    limit: timedelta = timedelta(minutes=30)
    """How long one of its scripts may take, the machine's boot included."""
    entry: Entry = Entry.NOCLOUD
    """Of a url's or a path's: its children have the agent in them."""
    kernel: str = ""
    """A file on the host that is booted directly, for a disk without a boot loader; with `initrd` and `cmdline`."""
    initrd: str = ""
    cmdline: str = ""
    warm_up: str = ""
    """A script that is run in a template before it is frozen."""
    restart: tuple[str, ...] = ()
    """Services that are restarted in a fork once it has its own identity."""
    where: str = ""


Chain = tuple[Image, ...]
"""An image with all that it is made of: the one with a url or a path first, the image itself last."""


def chain(images: Mapping[str, Image], name: str) -> Chain:
    """The chain of a configured image. The loader has refused unknown parents and circles."""
    found = images[name]
    return (*chain(images, found.parent), found) if found.parent else (found,)


def kernel_of(images: Chain) -> Image:
    """The image whose kernel boots the last one of a chain: the nearest that names one, or the first."""
    return next((one for one in reversed(images) if one.kernel), images[0])


@dataclass(frozen=True, kw_only=True)
class Step:
    """What makes one layer out of its parent's: a script, or a larger disk, or the agent put into it."""

    image: str
    digest: str
    parent: str
    """Digest of the layer below."""
    script: BuildScript | None = None
    """None: the agent is put in (above the base), or the disk is made larger."""
    size: int = 0
    settings: Image


def steps(images: Chain, base: str) -> Sequence[Step]:
    """The layers above the base, in order; `base` is the SHA-256 of the base disk's content, in hexadecimal.

    The first one puts the agent in; then come the scripts of each image. An image without scripts whose disk is larger
    than its parent's is a layer too.
    """
    found: list[Step] = []
    below = base
    for index, image in enumerate(images):
        wanted: list[BuildScript | None] = list(image.scripts)
        if index == 0 or (image.size and not wanted):
            wanted.insert(0, None)
        for script in wanted:
            made = digest(below, image, script, is_first=index == 0 and script is None)
            found.append(
                Step(image=image.name, digest=made, parent=below, script=script, size=image.size, settings=image)
            )
            below = made
    return found


def digest(parent: str, image: Image, script: BuildScript | None, *, is_first: bool = False) -> str:
    """The name of a layer: SHA-256 over parent, script, inputs and builder version, in hexadecimal."""
    told = {
        "builder": BUILDER,
        "parent": parent,
        "size": image.size,
        "entry": image.entry.value if is_first else "",
        "script": None
        if script is None
        else [script.run, script.interpreter, sorted(script.env.items()), sorted(script.files.items())],
    }
    return hashlib.sha256(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def recipe(images: Chain) -> str:
    """What an image is made from, as far as its configuration says: another recipe, another image to build."""
    first = images[0]
    told = [first.url, first.path, first.sha256, first.kernel, first.initrd, first.cmdline]
    base = hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()
    made = steps(images, base)
    return made[-1].digest if made else base
