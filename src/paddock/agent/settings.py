"""What an agent is told at its start: its state, its server, what it may do."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from paddock.core.errors import Broken, Refused

HOST_SKILLS = ("script", "file", "sources", "system", "package", "config", "user", "disk", "log", "local")
MACHINE_SKILLS = ("script", "file", "sources", "system", "tunnel")

_ALIVE = "paddock agent status --state DIR names its process"


class WrongUse(Refused):
    """What the agent was told at its start cannot be meant: another command line has to be written."""


@dataclass(frozen=True, kw_only=True)
class Hypervisor:
    """How virtual machines are made on a host: the section of that name in agent.conf. Sizes in bytes, 0: found out."""

    storage: Path | None = None
    disks: str = "auto"
    networks: str = "rootless"
    bridges: tuple[str, ...] = ()
    accel: str = "auto"
    memory: int = 0
    vcpus: int = 0
    disk: int = 0
    metadata: str = ""
    user_data: Path | None = None
    authorized_keys: Path | None = None

    @classmethod
    def read(cls, told: Mapping[str, str]) -> Self:
        """From the section's keys and values. Refused, naming the key, where a value cannot be meant."""
        from paddock.agent.keys import KEYS, octets, path

        rows = {key.name: key for key in KEYS if key.section == "hypervisor"}
        unknown = sorted(set(told) - set(rows))
        if unknown:
            raise WrongUse(f"hypervisor: {unknown[0]} is no key of it", hint=", ".join(rows))
        given = {name: rows[name].checked(value) for name, value in told.items() if value}
        files = {name: Path(given[name]) for name in given if rows[name].check is path}
        return cls(
            storage=files.get("storage"),
            disks=given.get("disks", cls.disks),
            networks=given.get("networks", cls.networks),
            bridges=tuple(given.get("bridges", "").replace(",", " ").split()),
            accel=given.get("accel", cls.accel),
            memory=octets(given["memory"]) if "memory" in given else 0,
            vcpus=int(given.get("vcpus", "0")),
            disk=octets(given["disk"]) if "disk" in given else 0,
            metadata=given.get("metadata", ""),
            user_data=files.get("user-data"),
            authorized_keys=files.get("authorized-keys"),
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """An agent dials one of `servers`, in turn, or speaks on `line`. Exactly one of both is set.

    A line is `unix:PATH`, which is served, for a machine's agent; `tcp://HOST:PORT` and `tls://HOST:PORT`, which are
    dialled; `virtio:DEVICE`, the guest's end of a serial line; or `stdio:`.
    `certificate`, or the `fingerprint` of one, is then the only one that is trusted. `proxy` None: as the environment
    says. `connect_limit` is for connecting with all that belongs to it, `hello_limit` for the answer to the first
    words, `retry_limit` the longest wait between two attempts. `work` is the directory in which tasks start.
    `retention` is how long acknowledged commands are remembered, `rotation` how old a token may get, `grace` how long a
    task may take to end by itself when its fence is over.
    So many tasks have processes at once, the others wait for their turn; so many may be open at
    most: hello names them all, in one message.
    `cloud` is what the machine runs in if somebody knows, `metadata_url` where its metadata are served if not at the
    clouds' usual address; `rootfs` is where the machine's own /sys, /etc, /run and /var are. With `same_machine` this
    is the machine that the state is from, whatever its hardware says.
    With `parked` it is nobody until its host says on the line who it is, and no longer than that.
    Without `insecure` no token leaves this machine in clear.
    With `bubblewrap` machines see their own files alone, where that can be had: neither `state` nor what is `hidden`.
    """

    state: Path
    work: Path
    servers: tuple[str, ...] = ()
    line: str = ""
    code: str = ""
    authorities: Path | None = None
    certificate: Path | None = None
    fingerprint: str = ""
    proxy: str | None = None
    insecure: bool = False
    connect_limit: timedelta = timedelta(seconds=15)
    hello_limit: timedelta = timedelta(seconds=60)
    retry_limit: timedelta = timedelta(seconds=60)
    cloud: str = ""
    metadata_url: str = ""
    rootfs: Path = Path("/")
    same_machine: bool = False
    parked: bool = False
    environment: str = ""
    machine: str = ""
    address: str = ""
    cgroup: Path | None = None
    bubblewrap: bool = True
    hidden: tuple[Path, ...] = ()
    skills: tuple[str, ...] = HOST_SKILLS
    retention: timedelta = timedelta(days=2)
    rotation: timedelta = timedelta(days=30)
    grace: timedelta = timedelta(seconds=5)
    reserve: int = 16 << 20
    """Bytes that are kept free for what was accepted: with less on the state's disk nothing new is taken."""
    tasks_at_once: int = 256
    tasks_at_most: int = 4000
    log_level: str = "info"
    hypervisor: Hypervisor = Hypervisor()

    @property
    def is_dialling(self) -> bool:
        """Whether it dials somebody; else it is spoken to, by whoever carries this machine."""
        return not self.line or self.line.startswith(("tcp:", "tls:"))

    @property
    def is_local(self) -> bool:
        """Whether it is the agent of a machine that is a directory: it shares its hardware with others."""
        return self.line.startswith("unix:")

    @property
    def ledger(self) -> Path:
        """The journal's file."""
        return self.state / "ledger"

    @property
    def tasks(self) -> Path:
        """Each task's directory is below it."""
        return self.state / "tasks"

    @property
    def temporary(self) -> Path:
        """What tasks get as TMPDIR; beside their work, so that an empty work directory is empty."""
        return self.work.parent / "tmp" if self.machine else self.state / "tmp"


@contextmanager
def opening(settings: Settings) -> Iterator[None]:
    """What goes wrong while the state is opened is told as Refused: no later attempt of ours mends it."""
    hint = "--state DIR: a directory that this user may write, on a disk with room"
    try:
        yield
    except Broken as exc:
        raise Refused(exc.message, hint=exc.hint or hint) from exc
    except (FileExistsError, NotADirectoryError) as exc:
        raise Refused(f"{exc.filename or settings.state}: not a directory", hint=hint) from exc
    except OSError as exc:
        raise Refused(f"{exc.filename or settings.state}: {exc.strerror or exc}", hint=hint) from exc


def prepare(settings: Settings) -> None:
    """Make the state directory, for its owner alone. Refused if others could read it and that cannot be changed."""
    for directory in (settings.state, settings.tasks, settings.temporary):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.work.mkdir(mode=0o755, parents=True, exist_ok=True)
    if settings.state.stat().st_mode & 0o077:
        try:
            settings.state.chmod(0o700)
        except OSError as exc:
            raise Refused(f"{settings.state}: open to others, and {exc.strerror}") from exc


@contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Be the only agent on this state. Refused while another one is."""
    handle = os.open(settings.state / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{settings.state}: another agent runs on it", hint=_ALIVE) from None
        except OSError as exc:
            raise Broken(f"{settings.state}: {exc.strerror}") from exc
        yield
    finally:
        os.close(handle)
