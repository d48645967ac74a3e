"""Gives the machine another host name.

Effects: idempotent; a file is the old or the new one, and what is right already is not touched. Killed in between, the
same command makes the rest so.

What the real machine needs: root. Where systemd runs, hostnamectl is asked first, so that it and D-Bus know at once;
where that fails, or without systemd, /etc/hostname and the kernel are told directly: hostnamectl does no more. Where
there is cloud-init, it is told to leave the name alone, or it would bring the old one back with the next boot.
"""

import errno
import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from paddock.agent.durable import sync
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Work, in_thread
from paddock.core.errors import Broken, Refused
from paddock.wire.framing import JSON

_OWN = "127.0.1.1"
"""Where Debian puts a machine's own name; any address of 127/8 would do."""
_KEPT = frozenset({"localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"})
_CLOUD = "etc/cloud/cloud.cfg.d/99-paddock-hostname.cfg"
_LIMIT = 30


def deeds(place: Place) -> Mapping[str, Deed]:
    """system.rename."""

    async def act(call: Call) -> Outcome:
        if place.machine:
            raise Refused(f"{place.machine}: has no name of its own, it shares that of its host")
        if os.geteuid() != 0:
            raise Refused("system.rename: needs root", hint="run the agent as root")
        hostname = call.text("hostname")
        running = socket.gethostname()
        return await in_thread(
            lambda: Outcome(result=rename(Path("/"), hostname, running=running, tell_kernel=tell_kernel))
        )

    return {"system.rename": Work(act=act)}


def rename(root: Path, hostname: str, *, running: str, tell_kernel: Callable[[str], None]) -> dict[str, JSON]:
    """Make it the name of the machine whose /etc lies below `root`, and whose kernel goes by the name `running`."""
    static = root / "etc/hostname"
    before = _read(static).strip()
    # Hosts first: whoever looks up the new name the moment it is there finds it.
    text = _read(root / "etc/hosts")
    changed = _put(root / "etc/hosts", text, hosts(text, old={before, running}, new=hostname))
    if (root / "etc/cloud/cloud.cfg.d").is_dir():
        changed |= _put(root / _CLOUD, _read(root / _CLOUD), "# By Paddock: system.rename\npreserve_hostname: true\n")
    if running != hostname:
        tell_kernel(hostname)
    # After hostnamectl, which writes it too, and would not if it held that name already.
    changed |= before != hostname
    _put(static, _read(static), f"{hostname}\n")
    return {"hostname": hostname, "before": before or running, "changed": changed or running != hostname}


def hosts(text: str, *, old: set[str], new: str) -> str:
    """The text of /etc/hosts with one name for another, field by field: what only contains a name is not touched."""
    names = [new, *([new.partition(".")[0]] if "." in new else [])]
    gone = {name for one in old for name in (one, one.partition(".")[0]) if name} - _KEPT - set(names)
    lines = []
    is_there = False
    for line in text.splitlines():
        plain, mark, comment = line.partition("#")
        fields = plain.split()
        if len(fields) > 1 and gone & set(fields[1:]):
            plain = _renamed(plain, gone, names)
            fields = plain.split()
        is_there = is_there or (len(fields) > 1 and new in fields[1:])
        lines.append(plain + mark + comment)
    if not is_there:
        lines.append(f"{_OWN}\t{' '.join(names)}")
    return "\n".join(lines) + "\n"


def _renamed(plain: str, gone: set[str], names: list[str]) -> str:
    """The first of the old names becomes the new ones, the others go; spaces and all other names stay as they are."""
    pieces = re.split(r"(\s+)", plain)
    wanted = [name for name in names if name not in pieces]
    done = []
    for piece in pieces:
        if piece not in gone:
            done.append(piece)
        elif wanted:
            done.append(" ".join(wanted))
            wanted = []
        elif done and done[-1].isspace():
            done.pop()
    return "".join(done)


def tell_kernel(hostname: str) -> None:
    """Make it the running name, through systemd where it runs."""
    if not _by_systemd(hostname):
        try:
            socket.sethostname(hostname)
        except OSError as exc:
            raise Broken(f"{hostname}: the kernel does not take it: {exc.strerror}") from exc


def _by_systemd(hostname: str) -> bool:
    if not Path("/run/systemd/system").is_dir():
        return False
    words = ["hostnamectl", "set-hostname", hostname]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT, check=False)
        # Debian without D-Bus has the program and nobody whom it could ask.
        return done.returncode == 0 and socket.gethostname() == hostname
    return False


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def _put(path: Path, before: str, after: str) -> bool:
    """Make the file hold this, whole or not at all, with the mode and owner that it has; False if it does already."""
    if before == after:
        return False
    data = after.encode("utf-8", "surrogateescape")
    draft = path.with_name(f".{path.name}.paddock")
    with suppress(FileNotFoundError):
        draft.unlink()
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        if path.exists():
            known = path.stat()
            os.fchown(handle, known.st_uid, known.st_gid)
            os.fchmod(handle, stat.S_IMODE(known.st_mode))
        else:
            os.fchmod(handle, 0o644)
        os.fsync(handle)
    try:
        draft.rename(path)
    except OSError as exc:
        draft.unlink()
        if exc.errno != errno.EBUSY:
            raise
        path.write_bytes(data)  # a container's engine has mounted just this file
    sync(path.parent)
    return True
