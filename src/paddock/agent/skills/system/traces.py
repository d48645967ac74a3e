"""What a machine's image should not hold: where it lies, and how it goes.

Effects: idempotent; what is gone stays gone. Links are never followed, other file systems never entered.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

_ROTATED = re.compile(r".*(\.(gz|xz|bz2|zst|old|journal|journal~)|[.-][0-9]+(\.[a-z]+)?)")
_HISTORIES = (
    *(".bash_history", ".zsh_history", ".sh_history", ".ash_history", ".history", ".local/share/fish/fish_history"),
    *(".python_history", ".lesshst", ".viminfo", ".mysql_history", ".psql_history", ".sqlite_history", ".wget-hsts"),
)


class Act(StrEnum):
    """How it goes."""

    REMOVE = "remove"
    EMPTY = "empty"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One file or directory that goes."""

    path: Path
    act: Act = Act.REMOVE


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where to look: the machine's files below `root`, all but what is `spared`; of these users, or of all if none.

    `logs` are directories of logs beside the usual one.
    """

    root: Path
    spared: tuple[Path, ...] = ()
    users: tuple[str, ...] = ()
    logs: tuple[Path, ...] = ()

    def found(self, *patterns: str) -> Iterator[Trace]:
        """What matches, below the root."""
        for path in chain.from_iterable(sorted(self.root.glob(pattern)) for pattern in patterns):
            yield Trace(path=path)

    def homes(self) -> Iterator[Path]:
        """The users' home directories."""
        try:
            lines = (self.root / "etc/passwd").read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            name, *fields = line.split(":")
            if len(fields) >= 5 and fields[4].startswith("/") and (not self.users or name in self.users):
                home = self.root / fields[4].lstrip("/")
                if home != self.root and home.is_dir():
                    yield home

    def inside(self, directory: Path) -> Iterator[Trace]:
        """All that is in a directory, whole where nothing in it is spared."""
        try:
            names = sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for path in names:
            if path in self.spared:
                continue
            if any(path in spared.parents for spared in self.spared) or path.name.startswith("systemd-private-"):
                yield from self.inside(path)
            elif path.name == "tmp" and directory.name.startswith("systemd-private-"):
                yield from self.inside(path)  # a service that runs has it mounted
            else:
                yield Trace(path=path)


def _ssh_host_keys(scene: Scene) -> Iterator[Trace]:
    return scene.found("etc/ssh/ssh_host_*key", "etc/ssh/ssh_host_*key.pub")


def _authorized_keys(scene: Scene) -> Iterator[Trace]:
    for home in scene.homes():
        yield from (Trace(path=home / ".ssh" / name) for name in ("authorized_keys", "authorized_keys2"))


def _machine_id(scene: Scene) -> Iterator[Trace]:
    # Empty, not absent: so systemd makes a new one at the next boot, also where /etc cannot be written early.
    yield Trace(path=scene.root / "etc/machine-id", act=Act.EMPTY)
    if not (scene.root / "var/lib/dbus/machine-id").is_symlink():
        yield from scene.found("var/lib/dbus/machine-id")
    yield from scene.found("var/lib/systemd/credential.secret")


def _histories(scene: Scene) -> Iterator[Trace]:
    for home in scene.homes():
        yield from (Trace(path=home / name) for name in _HISTORIES)


def _cloud_init(scene: Scene) -> Iterator[Trace]:
    # Its seed is there on purpose: an image may bring its own.
    yield from scene.found("var/lib/cloud/instance", "var/lib/cloud/instances/*")
    yield from scene.found("var/lib/cloud/data/*", "var/lib/cloud/sem/*")
    yield from scene.found("etc/netplan/50-cloud-init.yaml", "etc/network/interfaces.d/50-cloud-init*")


def _leases(scene: Scene) -> Iterator[Trace]:
    return scene.found(
        *("var/lib/dhcp/*.lease*", "var/lib/dhclient/*.lease*", "var/lib/dhcpcd*/*.lease*"),
        *("var/lib/NetworkManager/*.lease", "var/lib/NetworkManager/*.leases", "var/lib/NetworkManager/secret_key"),
    )


def _random_seed(scene: Scene) -> Iterator[Trace]:
    return scene.found(
        *("var/lib/systemd/random-seed", "var/lib/urandom/random-seed", "var/lib/misc/random-seed"),
        *("var/lib/random-seed", "boot/loader/random-seed", "boot/efi/loader/random-seed", "efi/loader/random-seed"),
    )


def _network_names(scene: Scene) -> Iterator[Trace]:
    return scene.found("etc/udev/rules.d/70-persistent-net.rules", "etc/udev/rules.d/75-persistent-net-generator.rules")


def _temporary(scene: Scene) -> Iterator[Trace]:
    return chain(scene.inside(scene.root / "tmp"), scene.inside(scene.root / "var/tmp"))


def _logs(scene: Scene) -> Iterator[Trace]:
    for directory, names, files in chain.from_iterable(map(os.walk, (scene.root / "var/log", *scene.logs))):
        here = Path(directory)
        names[:] = [name for name in sorted(names) if here / name not in scene.spared]
        for name in sorted(files):
            yield Trace(path=here / name, act=Act.REMOVE if _ROTATED.fullmatch(name) else Act.EMPTY)


ITEMS: Mapping[str, Callable[[Scene], Iterator[Trace]]] = {
    "ssh_host_keys": _ssh_host_keys,
    "authorized_keys": _authorized_keys,
    "machine_id": _machine_id,
    "histories": _histories,
    "cloud_init": _cloud_init,
    "leases": _leases,
    "random_seed": _random_seed,
    "network_names": _network_names,
    "temporary": _temporary,
    "logs": _logs,
}
"""In the order in which they go: logs last, they hold what was said of the others."""


def is_there(trace: Trace) -> bool:
    """Whether there is still something to do; a file that is to be empty and is a link is somebody else's."""
    try:
        found = trace.path.lstat()
    except OSError:
        return False
    return trace.act is Act.REMOVE or (stat.S_ISREG(found.st_mode) and found.st_size > 0)


def undo(trace: Trace) -> None:
    """Make it gone. Again is no harm; raises OSError where that cannot be."""
    path = trace.path
    if trace.act is Act.EMPTY:
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        path.unlink()
        return
    if found.st_dev != path.parent.stat().st_dev:
        raise OSError(0, "is another file system", str(path))
    shutil.rmtree(path)
