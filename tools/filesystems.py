"""File systems on loop devices that vanish with the process that made them, however that ends."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.maven import Unavailable

MAKE = {"xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"), "btrfs": ("mkfs.btrfs", "-q"), "ext4": ("mkfs.ext4", "-q")}
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@contextmanager
def mounted(kind: str, scratch: Path, size: int = 1 << 30) -> Iterator[Path]:
    """A directory on a new file system of this kind. `Unavailable` where it cannot be had.

    It is unmounted at once, lazily: an open handle keeps it, and the loop device goes with that. Who is killed leaves
    no mount behind.
    """
    _require(kind)
    file, place = scratch / f"{kind}.img", scratch / f"{kind}.mnt"
    place.mkdir()
    with file.open("wb") as made:
        made.truncate(size)
    _run(*MAKE[kind], str(file))
    _run("mount", "-o", "loop", str(file), str(place))
    try:
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        _run("umount", "--lazy", str(place))
    try:
        yield Path(f"/proc/{os.getpid()}/fd/{handle}")
    finally:
        os.close(handle)
        file.unlink()
        place.rmdir()


def _require(kind: str) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        raise Unavailable(f"{kind}: only root has loop devices, and only where the kernel has them")
    if shutil.which(MAKE[kind][0], path=_PATH) is None:
        raise Unavailable(f"{kind}: there is no {MAKE[kind][0]} here; ./dev host-setup installs it")


def _run(*argv: str) -> None:
    ran = subprocess.run(argv, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise Unavailable(f"{argv[0]}: {ran.stderr.strip() or ran.returncode}")
