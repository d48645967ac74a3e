"""What a sealed layer is: made from what, and holding what; checked against the disk.

Effects: none; it reads, and the store writes.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from paddock.agent.skills.hypervisor.disks import headers, volumes
from paddock.core.errors import Missing, PaddockError
from paddock.wire.framing import JSON

FILE = "layer.json"
PROVEN = "proven"
"""Beside the record once a machine has booted from it and its parked agent has answered."""
USED = "used"
"""Its time is when the layer was used last."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """A disk as it was when it was sealed. Nobody writes to it any more."""

    format: str
    size: int
    """Bytes that a machine sees."""
    length: int
    """Bytes of its file."""
    changed: int
    """Nanoseconds: when it was written last."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an image. `build` is the name of its volume: one that is built again never has the same.

    So what was cloned from the one before finds nothing, instead of something else, where clones need their source.
    """

    digest: str
    build: str
    disks: str
    """The kind of disks that it was made with."""
    image: str
    parent: str = ""
    parent_build: str = ""
    script: str = ""
    source: str = ""
    """Of a base: where it is from."""
    made: float = 0.0
    """When, in seconds since 1970."""
    seconds: float = 0.0
    """How long that took."""
    content: Mapping[str, Content] = field(default_factory=dict)

    def params(self) -> dict[str, JSON]:
        """For its file."""
        return asdict(self)


def read(place: Path) -> Layer | None:
    """The record in a layer's directory; None if there is none that can be read."""
    try:
        told = json.loads((place / FILE).read_text("utf-8"))
        content = {name: Content(**one) for name, one in told.pop("content").items()}
        return Layer(**told, content=content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def content(volume: Path) -> dict[str, Content]:
    """What is in a volume now. Missing if there is none."""
    found = {}
    for disk in volumes.found(volume):
        about = disk.path.stat()
        found[disk.path.name] = Content(
            format=disk.format,
            size=headers.check_size(disk.path, disk.format),
            length=about.st_size,
            changed=about.st_mtime_ns,
        )
    return found


def damage(place: Path, layer: Layer, kind: str) -> str:
    """What somebody did to a layer's volume by hand; nothing if it is as it was sealed."""
    if layer.disks != kind:
        return f"was made with disks of the kind {layer.disks}, and this host has {kind}"
    try:
        now = content(place / layer.build)
    except Missing as exc:
        return exc.message
    except (OSError, PaddockError) as exc:
        return str(exc)
    for name, one in layer.content.items():
        if name not in now:
            return f"{name} is missing"
        if now[name] != one:
            return f"{name} is not what was sealed"
    return (
        f"{min(set(now) - set(layer.content))} was not there when it was sealed"
        if set(now) - set(layer.content)
        else ""
    )
