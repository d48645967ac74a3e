"""What a machine's processes see of the host's files, where bubblewrap can be had.

Effects: none. Walls are mounts alone: network, kernel and processes stay shared, so this is no isolation and is not
called one. Without a namespace of pids the agent's pid is true, and keepers are found again after its death.
"""

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Broken
from paddock.hands.trees import Identity

OWN = ("agent", "work", "tmp")
"""Directories of a machine that it sees under their own names; `agent` is its agent's state."""
CONTENTS = ("work", "tmp", "var-tmp", "shm")
"""Directories of a machine that are emptied when it is cleaned."""
_PRIVATE = {"/tmp": "tmp", "/var/tmp": "var-tmp", "/dev/shm": "shm"}
_PROBE_LIMIT = 10.0  # seconds
_PACKAGE = Path(__file__).parents[4]
_KEPT = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}
"""What root keeps behind walls: nothing that mounts, traces or opens by handle, each of which leads around them."""


@dataclass(frozen=True, kw_only=True)
class Walls:
    """How machines of this host are walled. `hidden` are the host's directories that no machine may see into."""

    program: str
    hidden: tuple[Path, ...]

    def command(self, directory: Path, *, group: Path | None, marks: dict[str, str]) -> list[str]:
        """The words before the agent's own. `marks` are put into its environment, not into that of its warden outside.

        Its directories must exist.
        """
        words = [self.program, "--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--bind", "/proc", "/proc"]
        mounts = sorted(self._mounts(directory, group).items(), key=lambda one: len(one[0].parts))
        for _, mount in mounts:
            words += mount  # the deeper ones lie in the others
        for place, mount in mounts:
            if mount[0] == "--tmpfs":
                words += ["--remount-ro", str(place)]
        if os.geteuid() == 0:
            words += ["--cap-drop", "ALL", *(word for name in _kept() for word in ("--cap-add", name))]
        for name, value in marks.items():
            words += ["--setenv", name, value]
        return [*words, "--"]

    def stands(self, directory: Path, agent: Identity) -> bool:
        """Whether a machine's agent, and so whatever it starts, sees the machine's directories where they belong."""
        views = {Path(place): name for place, name in private()} | {directory / name: name for name in OWN}
        try:
            return all(_same(agent, place, directory / name) for place, name in views.items())
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # nobody tells

    def spared(self, directory: Path) -> frozenset[Path]:
        """What in the machine's directories is none of its own doing: the empty places on which others are mounted.

        Where the host's state or this program lies below /tmp, there are some; they go only with the machine.
        """
        mounts = self._mounts(directory, None)
        stand_ins = {Path(place): directory / name for place, name in private()}
        found = set()
        for place in mounts:
            over = _nearest(place, mounts)
            if over in stand_ins:
                below = stand_ins[over] / place.relative_to(over)
                found |= {below, *(one for one in below.parents if stand_ins[over] in one.parents)}
        return frozenset(found)

    def _mounts(self, directory: Path, group: Path | None) -> dict[Path, list[str]]:
        """By the place at which they appear."""
        places = {Path(place): name for place, name in private()}
        mounts = {place: ["--bind", str(directory / name), str(place)] for place, name in places.items()}
        for path in _needed():
            if not places.keys().isdisjoint(path.parents) and not {path, *path.parents}.intersection(self.hidden):
                mounts[path] = ["--ro-bind", str(path), str(path)]
        # What lies below a machine's own /tmp is out of sight already.
        seen = [path for path in self.hidden if path.is_dir() and _nearest(path, mounts) not in places]
        mounts |= {path: ["--tmpfs", str(path)] for path in seen}
        mounts |= {directory / name: ["--bind", str(directory / name), str(directory / name)] for name in OWN}
        if group is not None and group.is_dir():
            mounts[group] = ["--bind", str(group), str(group)]
        return mounts


def private() -> list[tuple[str, str]]:
    """Places of which each machine has its own, with the name of the directory that stands in for them."""
    return [(place, name) for place, name in _PRIVATE.items() if os.path.isdir(place) and not os.path.islink(place)]


def find(*, hidden: tuple[Path, ...], trial: Path) -> Walls:
    """Walls as they can be made here. Broken, with the reason, if they cannot: then machines have none.

    `trial` is a directory like a machine's, below a hidden one, in which to try; the caller removes it.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise Broken("bubblewrap: is not installed")
    walls = Walls(program=program, hidden=hidden)
    test = [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, sys.argv[1]); import paddock.agent"]
    try:
        prepare(trial)
        words = walls.command(trial, group=None, marks={})
        subprocess.run([*words, *test, str(_PACKAGE)], check=True, capture_output=True, cwd="/", timeout=_PROBE_LIMIT)
    except subprocess.CalledProcessError as exc:
        said = exc.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Broken(f"bubblewrap: {said[-1] if said else f'exit {exc.returncode}'}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Broken(f"bubblewrap: {exc}") from exc
    return walls


def prepare(directory: Path) -> None:
    """Make the directories of a machine; again is no harm."""
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in (*OWN, *(name for _, name in private())):
        (directory / name).mkdir(exist_ok=True)
        (directory / name).chmod(mode_of(name))


def mode_of(name: str) -> int:
    """The mode of one of a machine's directories. Nobody else reaches them: the one that holds them is closed."""
    return 0o700 if name == "agent" else 0o755 if name == "work" else 0o1777


def _kept() -> list[str]:
    # Asked for one that it cannot give, bubblewrap gives all.
    status = Path("/proc/self/status").read_text("ascii", "replace")
    own = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:"))
    return [name for name, bit in _KEPT.items() if own >> bit & 1]


@functools.cache
def _needed() -> tuple[Path, ...]:
    """What Python and this program are made of, wherever that lies."""
    # Where somebody happened to stand when he called `python -m` is on the path too, and no part of it.
    paths = [path for path in sys.path if path and path != os.getcwd() and os.path.exists(path)]
    found = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, sys.exec_prefix, str(_PACKAGE), *paths)}
    return tuple(path for path in found if not found.intersection(path.parents))


def _nearest(place: Path, mounts: dict[Path, list[str]]) -> Path | None:
    return next((parent for parent in place.parents if parent in mounts), None)


def _same(agent: Identity, place: Path, directory: Path) -> bool:
    seen, own = os.stat(f"/proc/{agent.pid}/root{place}"), os.stat(directory)
    return (seen.st_dev, seen.st_ino) == (own.st_dev, own.st_ino)
