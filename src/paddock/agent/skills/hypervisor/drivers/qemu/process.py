"""QEMU as a process that outlives the agent: started, found again, ended for certain.

Effects: journaled. The machine's record says that a start begins before it does, who was started, and that it was
done: whoever comes after a kill knows whether to look for a process, and what of it is half a start.

The record needs no sync: a power cut of the host ends the processes that it speaks of.
"""

import asyncio
import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor.drivers.qemu import words
from paddock.agent.skills.hypervisor.drivers.qemu.command import PROGRAM
from paddock.core.errors import Broken, Missing
from paddock.hands import faults, trees
from paddock.hands.keeper import boot_id
from paddock.hands.lines import reachable
from paddock.hands.trees import Identity

RECORD = "qemu.json"
LOG = "qemu.log"
MONITOR, CHANNEL, CONSOLE = "qmp", "channel", "console"
_LISTENING = (MONITOR, CHANNEL, CONSOLE)
_WAITING = 16
"""Clients that may wait for QEMU to take them; it speaks with one at a time."""
_LAST_THREAD = timedelta(seconds=20)
"""Until a process that was killed has given back its memory."""
_REMOVED = " (deleted)"
"""What the kernel says behind the path of a directory that is not there any more."""
_NAMES = uuid.UUID("8f0c3a52-6d5e-4f0e-9a37-3f2f4f4f0a11")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a machine's directory says of its QEMU. One that is `starting` may have been started, or not.

    `uuid` is the machine's as long as its directory lives: an agent inside that finds another one is a copy.
    """

    uuid: str
    boot: str = ""
    pid: int = 0
    started: int = 0
    stage: str = "starting"
    """starting | started | up | off"""

    @property
    def process(self) -> Identity | None:
        return Identity(pid=self.pid, started=self.started) if self.pid and self.boot == boot_id() else None


class Processes:
    """All that this agent started or found. One machine's methods are called one at a time."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def find(self, directory: Path, name: str) -> Identity | None:
        """The machine's process, if it lives. Cheap where the record is whole; else all processes are looked at."""
        known = read(directory)
        if known is None or known.stage == "off":
            return None
        if known.stage == "starting":
            return next(iter(of_machine(directory, name)), None)
        return known.process if known.process is not None and is_machine(known.process, directory, name) else None

    def is_up(self, directory: Path, name: str) -> bool:
        """Whether it runs, and its start was no half one."""
        known = read(directory)
        return known is not None and known.stage == "up" and self.find(directory, name) is not None

    def start(self, directory: Path, name: str, argv: Sequence[str], listening: "Listening", env: Mapping[str, str],
              *, files: Sequence[int], uuid: str) -> Identity:  # fmt: skip
        """Run it in a session of its own. Broken if there is no such program. It is not up yet: `done` says so."""
        self.reap()
        write(directory, Record(uuid=uuid))
        faults.at("hypervisor.qemu_starting")
        with (directory / LOG).open("wb") as log:
            try:
                child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=directory,
                    env={**tools.ENVIRONMENT, **env},
                    pass_fds=[*listening.handles, *files],
                    start_new_session=True,
                )
            except OSError as exc:
                raise Broken(f"{name}: {PROGRAM} cannot be run: {exc.strerror}") from exc
        self._children.append(child)
        faults.at("hypervisor.qemu_started")
        found = trees.identify(child.pid) or Identity(pid=child.pid, started=0)
        write(directory, Record(uuid=uuid, boot=boot_id(), pid=found.pid, started=found.started, stage="started"))
        faults.at("hypervisor.qemu_noted")
        return found

    def done(self, directory: Path) -> None:
        """It is up."""
        known = read(directory)
        if known is not None:
            write(directory, replace(known, stage="up"))
        faults.at("hypervisor.qemu_up")

    async def end(self, directory: Path, name: str) -> None:
        """Nobody of this name runs in this directory. Idempotent. Broken if it cannot be proven."""
        known = read(directory)

        def everyone() -> list[Identity]:
            return of_machine(directory, name)

        # A power cut: what it should have been told, it was told before.
        ended = [*everyone(), *await trees.end(everyone, grace=timedelta())]
        await self._all_gone(name, [*ended, *([known.process] if known is not None and known.process else [])])
        faults.at("hypervisor.qemu_ended")
        for entry in _LISTENING:
            with suppress(FileNotFoundError):
                (directory / entry).unlink()
        if known is not None:
            write(directory, Record(uuid=known.uuid, stage="off"))
        faults.at("hypervisor.qemu_off")

    async def left(self, directory: Path, name: str) -> None:
        """Until the process that was the machine has let go of its disks, if it is ending now."""
        known = read(directory)
        if known is not None and known.process is not None:
            await self._all_gone(name, [known.process])

    async def _all_gone(self, name: str, identities: Sequence[Identity]) -> None:
        try:
            async with asyncio.timeout(_LAST_THREAD.total_seconds()):
                for identity in dict.fromkeys(identities):
                    await gone(identity)
        except TimeoutError as exc:
            raise Broken(f"{name}: its process was killed and does not let go") from exc
        self.reap()

    def forget(self, directory: Path) -> None:
        """The machine of this directory was never started. Idempotent."""
        with suppress(FileNotFoundError):
            (directory / RECORD).unlink()

    def last_words(self, directory: Path) -> words.LastWords:
        """What it said before it ended."""
        return words.translate(_read(directory / LOG))

    def reap(self) -> None:
        """So that a dead child is no zombie."""
        self._children = [child for child in self._children if child.poll() is None]


class Listening:
    """The sockets of a machine, bound and listening before QEMU runs: nobody has to look whether they are there."""

    def __init__(self, directory: Path) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._directory = directory

    def __enter__(self) -> "Listening":
        with ExitStack() as undo:
            undo.callback(self.close)
            for name in _LISTENING:
                self._sockets[name] = listening(self._directory / name)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> int:
        return self._sockets[name].fileno()

    @property
    def handles(self) -> list[int]:
        return [one.fileno() for one in self._sockets.values()]

    def close(self) -> None:
        """Ours; QEMU has its own. From here on only it keeps whoever dials waiting."""
        for one in self._sockets.values():
            one.close()


def listening(path: Path) -> socket.socket:
    """A socket that listens there, in the place of one that was there."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        os.fchmod(made.fileno(), 0o600)  # the file gets it: it never stands open to others
        with reachable(path) as address:
            made.bind(address)
        made.listen(_WAITING)
    except BaseException:
        made.close()
        raise
    return made


def identity_of(directory: Path, name: str) -> str:
    """The UUID of the machine in this directory: what its record says, else one made of its name."""
    known = read(directory)
    return known.uuid if known is not None else str(uuid.uuid5(_NAMES, name))


def read(directory: Path) -> Record | None:
    """The record; None if nothing was ever started here. Broken where it is not one of ours."""
    path = directory / RECORD
    try:
        return Record(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise Broken(f"{path}: is no record of a machine: {exc}") from exc


def write(directory: Path, record: Record) -> None:
    """The old one or the new one, whatever dies meanwhile."""
    draft = directory / f"{RECORD}.new"
    draft.write_text(json.dumps(asdict(record)), "utf-8")
    draft.rename(directory / RECORD)


# ---- what runs on the host -------------------------------------------------------------------------------------------


def of_machine(directory: Path, name: str) -> list[Identity]:
    """Every QEMU of our user that is called exactly so and runs in this directory: a name alone is nobody's."""
    return [found for found in named(name) if _runs_in(found, directory)]


def named(name: str) -> list[Identity]:
    """Every QEMU of our user that is called exactly so."""
    return [found for found, called in everyone() if called == name]


def everyone() -> Iterator[tuple[Identity, str]]:
    """Every QEMU of our user with its name."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with suppress(OSError):
            if os.stat(f"/proc/{entry}").st_uid != os.getuid():
                continue
            called = name_of(int(entry))
            # Asked after its words were read: they are those of this process, or of nobody.
            found = trees.identify(int(entry)) if called else None
            if found is not None:
                yield found, called


def is_machine(identity: Identity, directory: Path, name: str) -> bool:
    """Whether this process is the QEMU of that name and directory, and not another one on its pid."""
    with suppress(OSError):
        return name_of(identity.pid) == name and _runs_in(identity, directory) and trees.is_alive(identity)
    return False


def name_of(pid: int) -> str:
    """What a QEMU is called; empty for anything else."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        said = file.read().decode("utf-8", "surrogateescape").split("\0")
    if said[0].rpartition("/")[2] != PROGRAM or "-name" not in said:
        return ""
    return said[said.index("-name") + 1] if said.index("-name") + 1 < len(said) else ""


def _runs_in(identity: Identity, directory: Path) -> bool:
    with suppress(Missing):
        return directory_of(identity) == directory.resolve()
    return False


def directory_of(identity: Identity) -> Path:
    """Where it runs, though that directory may have been removed. Missing if it runs no more."""
    try:
        return Path(os.readlink(f"/proc/{identity.pid}/cwd").removesuffix(_REMOVED))
    except OSError as exc:
        raise Missing(f"{identity.pid}: runs no more") from exc


async def gone(identity: Identity) -> None:
    """Until this process, child or not, has ended with all its threads.

    One whose first thread has ended looks dead, while others of it still hold its files and their locks.
    """
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        if _started(identity.pid) == identity.started:
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _started(pid: int) -> int:
    """When a process, dead or not, was started; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            said = file.read()
    except OSError:
        return 0
    return int(said[said.rindex(b")") + 2 :].split()[19])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
