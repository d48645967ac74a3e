"""A kernel for our own small machines: one that this host has, with its modules.

Effects: none; it reads.
"""

import gzip
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.skills import tools
from paddock.core.errors import Broken, Refused

PACKAGE = "linux-image-cloud-amd64"
BUSYBOX = ("bin/busybox", "usr/bin/busybox", "sbin/busybox.static")
_SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")
_INTERPRETED = b"ld-linux"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """`modules` is the directory of its version."""

    image: Path
    modules: Path

    def files(self, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Name and content of these modules and all that they need, in the order in which they load.

        What is built into the kernel is passed over, and so is what it does not know.
        """
        for path in ordered(self.modules, wanted):
            yield name_of(path), _unpacked(self.modules / path)


def find(root: Path = Path("/")) -> Kernel:
    """A kernel that may be read and whose modules are there, the smallest first: those for clouds load fastest.

    Refused if there is none, saying what would help.
    """
    unreadable = ""
    for image in sorted((root / "boot").glob("vmlinuz-*"), key=lambda one: ("cloud" not in one.name, one.name)):
        modules = root / "lib/modules" / image.name.removeprefix("vmlinuz-")
        if not (modules / "modules.dep").is_file():
            continue
        try:
            with image.open("rb"):
                return Kernel(image=image, modules=modules)
        except PermissionError:
            unreadable = f"chmod a+r {image}"
    raise Refused("helper: there is no kernel for it on this host", hint=unreadable or f"apt-get install {PACKAGE}")


def busybox(root: Path = Path("/")) -> bytes:
    """A busybox that needs no library. Refused if there is none."""
    for name in BUSYBOX:
        if (root / name).is_file():
            found = (root / name).read_bytes()
            if _INTERPRETED not in found[:4096]:
                return found
    raise Refused("helper: there is no static busybox on this host", hint="apt-get install busybox-static")


def ordered(modules: Path, wanted: Iterable[str]) -> list[str]:
    """Files of these modules and of all that they need, needed ones first, below `modules`."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[name_of(path)] = (path, rest.split())
    found: dict[str, None] = {}
    for name in wanted:
        path, first = needs.get(name, ("", []))
        # modules.dep names the nearest need first and the deepest last.
        found |= dict.fromkeys((*reversed(first), path) if path else ())
    return list(found)


def name_of(path: str) -> str:
    """What a module is called, whatever packed it."""
    name = path.rpartition("/")[2]
    return next((name.removesuffix(suffix) for suffix in _SUFFIXES if name.endswith(suffix)), name)


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(data)
    if path.suffix in (".xz", ".zst"):
        program, package = ("xz", "xz-utils") if path.suffix == ".xz" else ("zstd", "zstd")
        return _piped([tools.find(program, package=package), "-dc"], data)
    return data


def _piped(words: list[str], data: bytes) -> bytes:
    try:
        done = subprocess.run(words, input=data, capture_output=True, env=tools.ENVIRONMENT, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise Broken(f"helper: {words[0]}: {exc}") from exc
    return done.stdout
