"""Process trees: who descends from whom, and how all of them are ended for certain.

Effects: idempotent; ending what is gone already changes nothing.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from paddock.core.errors import Broken

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
# Fields of /proc/PID/stat, counted from the state, which follows the name's last bracket; times are in clock ticks.
_PPID, _USER, _SYSTEM, _STARTED = 1, 11, 12, 19
_LOOKS = 20  # how often the list of processes is read again while it brings new ones
_QUIET_LOOKS = 2  # looks that find nobody before a tree is believed gone: one can be outrun by a fork
_FREEZES = 20  # how often a tree that forks faster than it is stopped is looked through before it is killed


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A process that cannot be confused with a later one of the same pid.

    `started` is its start time in clock ticks since boot, as /proc/PID/stat tells it.
    """

    pid: int
    started: int


def _stat(pid: int) -> list[bytes] | None:
    """The fields after the name; None for a process that is gone. A zombie still has them."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].split()


def identify(pid: int) -> Identity | None:
    """Who carries this pid now: None if nobody does, or only a zombie or a process that is just leaving."""
    fields = _stat(pid)
    if fields is None or fields[0] in (b"Z", b"X"):
        return None
    return Identity(pid=pid, started=int(fields[_STARTED]))


def is_alive(identity: Identity) -> bool:
    """Whether this very process still runs. A zombie does not."""
    return identify(identity.pid) == identity


def used(pid: int) -> float:
    """Seconds of processor time that a process has used; zero once it is gone."""
    fields = _stat(pid)
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def name(identity: Identity) -> str:
    """`pid (program)`, for a person to read."""
    try:
        return f"{identity.pid} ({Path(f'/proc/{identity.pid}/comm').read_text('utf-8', 'replace').strip()})"
    except OSError:
        return str(identity.pid)


def become_subreaper() -> None:
    """From now on, a descendant whose parent dies becomes our child: no double fork leaves the tree."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def call_myself(title: str) -> None:
    """Set what `ps -o comm` and top show of this process: at most 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.create_string_buffer(title.encode()[:15]))


def _prctl(option: int, value: "int | ctypes.Array[ctypes.c_char]") -> None:
    argument = ctypes.c_ulong(value) if isinstance(value, int) else value
    if _libc.prctl(ctypes.c_int(option), argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


_libc = ctypes.CDLL(None, use_errno=True)


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _children(pid: int) -> list[int]:
    """Direct children by the kernel's own list, of every thread; raises FileNotFoundError where it keeps none."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found.extend(int(child) for child in (file.readall() or b"").split())
        except ProcessLookupError:
            continue
        except FileNotFoundError:
            if not _HAS_CHILDREN:
                raise
    return found


_HAS_CHILDREN = os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children")


def _children_by_scan() -> Callable[[int], list[int]]:
    """The same from one look at every process, for kernels without the list."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None:
            children.setdefault(int(fields[_PPID]), []).append(pid)
    return lambda pid: children.get(pid, [])


def descendants(pid: int) -> list[Identity]:
    """Whoever runs below a process, itself and zombies left out.

    One look: whoever is forked meanwhile may be missed. Look again until nothing is found.
    """
    children = _children if _HAS_CHILDREN else _children_by_scan()
    found: dict[int, Identity] = {}
    seen = {pid}
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            if child in seen:
                continue
            seen.add(child)
            waiting.append(child)  # a zombie's children have gone elsewhere, but its threads may still run
            identity = identify(child)
            if identity is not None:
                found[child] = identity
    return list(found.values())


def _everybody() -> Iterator[Identity]:
    """Every process, and those that were born while we looked, so that who forks and ends all the time is seen too."""
    seen: set[int] = set()
    for _ in range(_LOOKS):
        new = [pid for pid in _pids() if pid not in seen]
        if not new:
            return
        seen.update(new)
        for pid in new:
            identity = identify(pid)
            if identity is not None:
                yield identity


def marked(name: str, value: str) -> list[Identity]:
    """Whoever was started with NAME=VALUE in its environment; those that we may not read are passed over.

    A process that was forked and has not called exec yet shows its parent's environment.
    """
    wanted = f"{name}={value}".encode()
    found: list[Identity] = []
    asked: Iterable[Identity] = _everybody()
    for _ in range(_READS):
        unclear: list[Identity] = []
        for identity in asked:
            environment = _environment(identity.pid)
            if environment is None:
                unclear.append(identity)
            elif wanted in environment and is_alive(identity):
                found.append(identity)
        if not unclear:
            break
        time.sleep(_EXEC)
        asked = unclear
    return found


_READS = 4
_EXEC = 0.002
"""Seconds that an exec takes at most, usually."""


def _environment(pid: int) -> list[bytes] | None:
    """What the process was started with; None while it is in the middle of an exec, when it shows nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
        # The kernel's own and those that have ended show nothing either, but have no program.
        if not environment and os.readlink(f"/proc/{pid}/exe"):
            return None
    except OSError:
        return []
    return environment.split(b"\0")


def inside(directory: Path) -> list[Identity]:
    """Whoever has its working directory or its root in or below a directory, deleted ones included."""
    top = os.path.realpath(directory)
    return [identity for identity in _everybody() if _stands_in(identity.pid, top) and is_alive(identity)]


def _stands_in(pid: int, top: str) -> bool:
    for link in ("cwd", "root"):
        with suppress(OSError):
            place = os.readlink(f"/proc/{pid}/{link}").removesuffix(" (deleted)")
            if place == top or place.startswith(top.rstrip("/") + "/"):
                return True
    return False


def send(identity: Identity, number: signal.Signals) -> bool:
    """Signal this very process, never a successor on its pid: False if it is gone, PermissionError if not ours."""
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity):  # asked while the handle holds the pid's owner, so the answer stays true
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def terminate(identities: Iterable[Identity]) -> None:
    """Ask them to end; whoever is stopped is woken, so that it hears it."""
    for identity in identities:
        with suppress(PermissionError):
            if send(identity, signal.SIGTERM):
                send(identity, signal.SIGCONT)


def kill(find: Callable[[], Iterable[Identity]]) -> None:
    """Stop all first, so that none forks away meanwhile, then kill them all. Once: the caller looks again."""
    stopped: set[Identity] = set()
    for _ in range(_FREEZES):
        new = [identity for identity in find() if identity not in stopped and identity.pid != os.getpid()]
        if not new:
            break
        for identity in new:
            stopped.add(identity)
            with suppress(PermissionError):
                send(identity, signal.SIGSTOP)
    for identity in stopped:
        with suppress(PermissionError):
            send(identity, signal.SIGKILL)


async def end(
    find: Callable[[], Iterable[Identity]], *, grace: timedelta, bound: timedelta = timedelta(seconds=10)
) -> list[Identity]:
    """End whoever `find` finds, with everything below: TERM, grace, KILL, until it finds nobody. Gives who was there.

    `find` is called again and again, so that what is born meanwhile is caught: `lambda: marked("PADDOCK_TASK", task)`.
    The caller's own process is spared. Broken, naming them, if some still live `bound` after the KILL.
    """
    import asyncio  # here, because keepers load this module and would carry asyncio in every fork

    def everyone() -> list[Identity]:
        found = {identity: None for identity in find() if identity.pid != os.getpid()}
        for identity in list(found):
            found.update(dict.fromkeys(descendants(identity.pid)))
        return [identity for identity in found if identity.pid != os.getpid() and is_alive(identity)]

    ended: dict[Identity, None] = {}
    killing = time.monotonic() + grace.total_seconds()
    giving_up = killing + bound.total_seconds()
    pause = 0.005
    quiet = 0
    while quiet < _QUIET_LOOKS:
        left = everyone()
        quiet = 0 if left else quiet + 1
        now = time.monotonic()
        if left and now >= giving_up:
            raise Broken("processes: would not die: " + ", ".join(name(identity) for identity in left))
        if left and now >= killing:
            kill(everyone)
        else:
            terminate(identity for identity in left if identity not in ended)  # each is asked once
        ended.update(dict.fromkeys(left))
        if left:
            await asyncio.sleep(min(pause, max(killing - now, 0.005)))
            pause = min(pause * 2, 0.1)
    return list(ended)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cgroup:
    """A control group of version 2 that holds one task's processes; used where one can be made, else not at all."""

    path: Path

    @staticmethod
    def home() -> Path | None:
        """The directory in which we may make groups: our own group in the version 2 tree; None where there is none."""
        try:
            mounts = Path("/proc/mounts").read_text("utf-8", "surrogateescape").splitlines()
            own = Path("/proc/self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        except OSError:
            return None
        place = next((line[3:] for line in own if line.startswith("0::")), None)
        mount = next((fields[1] for fields in map(str.split, mounts) if fields[2] == "cgroup2"), None)
        if place is None or mount is None:
            return None
        home = Path(mount.replace("\\040", " ")) / place.lstrip("/")
        return home if os.access(home, os.W_OK) and os.access(home / "cgroup.procs", os.W_OK) else None

    @classmethod
    def create(cls, name: str) -> "Cgroup | None":
        """Make (or find again) the group of this name below our own; None where groups cannot be made."""
        home = cls.home()
        if home is None:
            return None
        group = cls(path=home / name)
        try:
            group.path.mkdir(exist_ok=True)
        except OSError:
            return None
        return group

    def add(self, pid: int) -> None:
        """Move a process here; 0 is the caller. What it forks later is born here."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def procs(self) -> list[Identity]:
        """Whoever is in the group or below it; nobody if the group is gone."""
        found: list[Identity] = []
        for directory, _, _ in os.walk(self.path):
            with suppress(OSError):
                pids = (Path(directory) / "cgroup.procs").read_text().split()
                found.extend(identity for identity in map(identify, map(int, pids)) if identity is not None)
        return found

    def kill(self) -> None:
        """KILL everyone in the group or below it: at one stroke where the kernel can (5.14)."""
        try:
            (self.path / "cgroup.kill").write_text("1")
        except OSError:
            kill(self.procs)

    def remove(self) -> None:
        """Remove the empty group and those below it. Idempotent; one that is not empty stays."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            with suppress(OSError):
                os.rmdir(directory)
