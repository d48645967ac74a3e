"""Control groups for tasks: where one may be made, and what can be limited in it.

Effects: idempotent; a group that is made again is the same group, and its keeper removes it when its task has ended.

The kernel lets a group either hold processes or hand limits down. So whoever forks keepers stands aside, in the leaf
`keepers`, and each task has a group beside it. Under systemd the warm process begins in a scope of its own, which no
unit that is restarted has a part in: systemd could not put a new agent into a unit whose group hands limits down.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from paddock.core.errors import Refused
from paddock.hands.order import Limits
from paddock.hands.trees import Cgroup

_LEAF = "keepers"
_SCOPE = "paddock-tasks-"
_PROPERTIES = ("--property=Delegate=yes", "--property=TasksMax=infinity")
_TASK = "paddock-t-"
_STALE = 60.0  # seconds
_PERIOD = 100_000  # microseconds, the kernel's own default
_FILES = {"memory": "memory.max", "pids": "pids.max", "cpus": "cpu.max"}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The group below which tasks get theirs. `why` tells what keeps limits from being handed down; usually nothing."""

    path: Path
    why: str = ""

    def group_of(self, directory: Path) -> Path:
        """The group of the task in this directory: no other task on the computer has it."""
        return self.path / f"{_TASK}{sha256(str(directory).encode()).hexdigest()[:20]}"


def scope() -> list[str]:
    """What to write before a command so that it begins in a scope of its own; nothing where systemd does not run."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemd-run") is None:
        return []
    name = f"--unit={_SCOPE}{secrets.token_hex(6)}.scope"
    whose = [] if os.geteuid() == 0 else ["--user"]
    return ["systemd-run", *whose, "--scope", "--quiet", "--collect", name, *_PROPERTIES, "--"]


def settle() -> Ground | None:
    """Stand aside, and let the group in which we began hand limits down. None where no group can be made."""
    home = Cgroup.home()
    if home is None:
        return None
    try:
        return _settle(home)
    except OSError as exc:
        return Ground(path=home, why=f"{home}: {exc.strerror}")


def _settle(home: Path) -> Ground:
    _sweep(home)
    if Path("/run/systemd/system").is_dir() and not home.name.startswith(_SCOPE):
        return Ground(path=home, why="systemd has given this agent no scope for its tasks")
    if not (home / "cgroup.type").exists():
        # The root of all groups: it alone may hold processes and hand limits down.
        return Ground(path=home, why=_hand_down(home))
    leaf = Cgroup(path=home / _LEAF)
    leaf.path.mkdir(exist_ok=True)
    for pid in _ours(home):
        leaf.add(pid)
    return Ground(path=home, why=_hand_down(home))


def _ours(home: Path) -> Iterator[int]:
    """Who has to stand aside: we, and our agent where no scope parts us from it."""
    yield os.getpid()
    if not home.name.startswith(_SCOPE):
        yield os.getppid()


def _sweep(home: Path) -> None:
    """Empty groups whose keepers were killed. One that is young may be about to be joined."""
    for group in home.glob(f"{_TASK}*"):
        with suppress(OSError):
            if time.time() - group.stat().st_mtime > _STALE:
                group.rmdir()


def _hand_down(home: Path) -> str:
    """Enable what there is; why the first failed."""
    why = ""
    for controller in (home / "cgroup.controllers").read_text("ascii").split():
        if controller in ("memory", "pids", "cpu"):
            try:
                (home / "cgroup.subtree_control").write_text(f"+{controller}")
            except OSError as exc:
                why = why or f"{home}: {exc.strerror}"
    return why


def make(group: Path, limits: Limits, *, why: str = "") -> None:
    """Make a task's group, with its limits. Refused, naming the limit, if one of them would not hold."""
    try:
        group.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        if limits.in_group:
            raise Refused(f"{limits.in_group[0]}: cannot be limited, {group}: {exc.strerror}") from exc
        return  # without limits a group is a help, not a condition
    for name in limits.in_group:
        try:
            (group / _FILES[name]).write_text(_value(name, limits))
        except OSError as exc:
            Cgroup(path=group).remove()
            raise Refused(f"{name}: cannot be limited, {why or f'{group.parent} hands no such limit down'}") from exc
    if limits.memory is not None:
        for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            with suppress(FileNotFoundError, PermissionError):  # a kernel without swap or from before 4.19
                (group / file).write_text(value)


def _value(name: str, limits: Limits) -> str:
    if name == "cpus" and limits.cpus is not None:
        return f"{max(1000, int(limits.cpus * _PERIOD))} {_PERIOD}"
    return str(limits.memory if name == "memory" else limits.pids)


def oom_kills(group: Path) -> int:
    """How many processes the group's memory limit has killed."""
    with suppress(OSError, ValueError):
        for line in (group / "memory.events").read_text("ascii").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0
