"""The demo on virtual machines: two images, made once and kept, and its configuration."""

import functools
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from paddock.cli import checkout
from paddock.core.errors import Broken

LIMIT = 900.0
"""Seconds in which images are built, machines made and the job done, on a host without KVM that has other work."""
_UNUSED = 86400.0
"""Seconds after which what another agent's images are is removed."""
_OPTION = "--machines qemu"
_WORDS = "root=/dev/vda rw console=ttyS0 quiet panic=1 mitigations=off apparmor=0 selinux=0"


@dataclass(frozen=True, kw_only=True)
class Images:
    """Files of a plain Debian that is booted with its kernel, and where a cloud image is served."""

    disk: Path
    kernel: Path
    initrd: Path
    cloud: str
    """URL of an image with cloud-init, as a distribution publishes it."""
    sha256: str


@contextmanager
def served() -> Iterator[Images]:
    """Both images, made if this machine has none; the second is served over HTTP while the block runs.

    Broken where they cannot be made, or machines cannot run.
    """
    guest = checkout.tool("guest", option=_OPTION)
    cloud = checkout.tool("cloudimage", option=_OPTION)
    try:
        plain, file = guest.image(), cloud.image()
    except (guest.Unavailable, guest.Failed) as exc:
        raise Broken(f"demo: {exc}") from exc
    handler = functools.partial(_Quiet, directory=str(file.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        try:
            yield Images(
                disk=plain.disk,
                kernel=plain.kernel,
                initrd=plain.initrd,
                cloud=f"http://127.0.0.1:{server.server_address[1]}/{file.name}",
                sha256=_digest(file),
            )
        finally:
            server.shutdown()
            serving.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants to read it."""


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def storage(room: str = "demo") -> Path:
    """Where images and templates are kept from one go to the next; with another agent, others are made."""
    from paddock.agent.bundle import bundling

    rooms: Path = checkout.tool("maven", option=_OPTION).cache(room).resolve()
    place = rooms / hashlib.sha256(bundling.archive()).hexdigest()[:12]
    for old in rooms.iterdir():
        if old != place and time.time() - old.stat().st_mtime > _UNUSED:
            shutil.rmtree(old)
    place.mkdir(mode=0o700, exist_ok=True)
    os.utime(place)
    return place


def configuration(images: Images) -> str:
    """The demo's configuration with virtual machines in the place of directories; the job is as it stands there."""
    import yaml

    from paddock.cli.stage import examples

    text = (examples() / "demo" / "paddock.yaml").read_text("utf-8")
    host = [{"host": {"name": "local", "skills": ["hypervisor"]}}]
    for kind, items in (("host", host), ("environment", [*_images(images), _environment()])):
        block = re.search(rf"(?ms)^- {kind}:.*?(?=^\S|\Z)", text)
        if block is None:
            raise AssertionError(f"the demo's configuration has a {kind}")
        text = text.replace(block[0], yaml.safe_dump(items, sort_keys=False) + "\n")
    return text


def _images(images: Images) -> list[dict[str, object]]:
    plain = {
        "name": "plain",
        "path": str(images.disk),
        "kernel": str(images.kernel),
        "initrd": str(images.initrd),
        "cmdline": _WORDS,
        "entry": "helper",
        "memory": "512MiB",
    }
    cloud = {"name": "cloud", "url": images.cloud, "sha256": images.sha256, "entry": "nocloud", "memory": "512MiB"}
    return [{"image": plain}, {"image": cloud}]


def _environment() -> dict[str, object]:
    machines = [
        {"name": "one", "image": "plain", "memory": "384MiB", "nets": ["lan"]},
        {"name": "two", "image": "cloud", "memory": "384MiB", "nets": ["lan"]},
    ]
    return {
        "environment": {"name": "two-machines", "machines": machines, "networks": [{"name": "lan"}], "host": "local"}
    }
