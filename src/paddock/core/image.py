"""A disk to clone: a parent plus build scripts, digests of layers; its row on a host."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from paddock.core.machine import MIB, Size
from paddock.core.table import Table

BUILDER = 1
"""Version of how images are built: with another one, every layer that a script made is built again."""

GIB = 1 << 30
DOWNLOAD = timedelta(hours=2)
"""What fetching the first of a chain may take, beside its scripts."""
HELPER = Size(memory=256 * MIB, vcpus=1)
"""The machine that puts our agent into an image, before the image's own is booted."""
WARM_UP = timedelta(minutes=10)
"""What the warm-up of one image may take."""


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
    egress: tuple[str, ...] = ()
    """What its own scripts may reach outside while they run; those of other images of its chain have theirs."""
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


def booted(images: Chain) -> Image | None:
    """Of the image whose kernel boots the last one of a chain what a machine needs for that; None for a boot loader."""
    own = kernel_of(images)
    return Image(name=own.name, kernel=own.kernel, initrd=own.initrd, cmdline=own.cmdline) if own.kernel else None


def build_limit(images: Chain) -> timedelta:
    """How long building all of an image may take, its base included."""
    return DOWNLOAD + sum((image.limit * (len(image.scripts) + 1) for image in images), timedelta())


def warm_up_limit(images: Chain) -> timedelta:
    """How long its host may take, beside the machine itself, for the scripts that warm up what it is forked from."""
    return WARM_UP * sum(bool(image.warm_up) for image in images)


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
    # Not its egress: that says what a script may reach, not what it makes. Another mirror on the list builds nothing.
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


class State(StrEnum):
    WANTED = "wanted"
    """To be built, or built anew, once its host has room for that."""
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    """What served before goes on serving, if it is there; it is tried again after a while, or when a person asks."""


class Signal(StrEnum):
    WANT = "want"
    BUILD = "build"
    BUILT = "built"
    FAIL = "fail"


LIFECYCLE = Table(
    name="image",
    initial=State.WANTED,
    final=frozenset(),
    steps={
        (State.WANTED, Signal.BUILD): State.BUILDING,
        (State.BUILDING, Signal.BUILT): State.READY,
        (State.BUILDING, Signal.FAIL): State.FAILED,
        (State.READY, Signal.WANT): State.WANTED,
        (State.READY, Signal.FAIL): State.FAILED,
        (State.FAILED, Signal.WANT): State.WANTED,
    },
)

FIRST_PAUSE = timedelta(minutes=5)
LONGEST_PAUSE = timedelta(hours=6)

INTERRUPTIONS = 10
"""How many orders of one build may come to nothing, for no reason of the image's, before it counts as failed."""
BUSY_AGAIN = timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an image that was built, as its host told it."""

    digest: str
    image: str
    script: str = ""
    """Name of the script that made it; empty: a base, the agent put in, or a larger disk."""
    bytes: int = 0
    """What it takes of the host's disk beyond its parent."""
    seconds: float = 0.0
    built: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class HostImage:
    """The row of an image on a host. Its id is `IMAGE@HOST`."""

    id: str
    image: str
    host: str
    since: datetime
    """When it came into its present state."""
    chain: Chain = ()
    """What is wanted: configured now, or when the present build began."""
    recipe: str = ""
    state: State = State.WANTED
    serving: Chain = ()
    """What machines are made from meanwhile; empty: it was never built here."""
    digest: str = ""
    """Of what serves."""
    bytes: int = 0
    apparent: int = 0
    """Bytes of its disk, as a machine sees it: what a clone may grow to."""
    layers: tuple[Layer, ...] = ()
    attempts: int = 0
    """How often in a row building did not succeed."""
    reason: str = ""
    built: datetime | None = None
    command: str = ""
    """The order of the present or last build."""
    log: str = ""
    """Where in the archive its log is, without `.log`."""
    asked_by: str = ""
    """Who wants it built although nothing changed; empty: nobody."""
    version: int = 0

    @property
    def serves(self) -> bool:
        """Whether machines can be made from it."""
        return bool(self.serving)


def id_of(image: str, host: str) -> str:
    """The id of an image's row on a host."""
    return f"{image}@{host}"


def again(row: HostImage) -> datetime | None:
    """When a failed one is tried again by itself: twice as long after each time."""
    if row.state is not State.FAILED:
        return None
    return row.since + min(LONGEST_PAUSE, FIRST_PAUSE * (1 << min(10, max(0, row.attempts - 1))))


def pause(codes: Sequence[str]) -> timedelta | None:
    """How long to leave a host alone after orders of one build that came to nothing; None: it is given up.

    `codes` says why they did, one after the other. The first that was not refused as `busy` is asked for again at once.
    """
    if len(codes) >= INTERRUPTIONS:
        return None
    pauses = len(codes) if codes[-1] == "busy" else len(codes) - 1
    return min(FIRST_PAUSE, BUSY_AGAIN * (1 << (pauses - 1))) if pauses else timedelta()
