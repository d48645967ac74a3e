"""What an operator configured, as core values that know the line they came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum

from paddock.core.environment import Pool
from paddock.core.image import Image
from paddock.core.job import NOOP, Job
from paddock.core.machine import Overcommit
from paddock.core.report import Vote


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How long ended things are kept; rows in flight are never touched."""

    runs: timedelta = timedelta(days=30)
    events: timedelta = timedelta(days=90)


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server's own settings that the engine and the pages read."""

    public_url: str = "http://127.0.0.1:8080"
    listen: str = "127.0.0.1:8080"
    state: str = ""
    keep: Keep = Keep()
    host_grace: timedelta = timedelta(minutes=5)
    """How long a host's or a machine's agent may stay away before what it carried is broken."""
    heartbeat: timedelta = timedelta(seconds=15)
    """Silence of an agent's connection after which either side asks whether the other one is still there."""
    private: bool = False
    """Whether pages and logs need a token (`access: private`)."""
    store: str = ""
    """The database's URL; empty: SQLite in the state directory."""
    certificate: str = ""
    """Path of the certificate's file where the server speaks TLS itself, else empty."""
    certificate_key: str = ""
    insecure: bool = False
    """Whether it may listen beyond loopback without TLS (a proxy speaks it, or the network is trusted)."""
    where: str = ""


class ForgeKind(StrEnum):
    GERRIT = "gerrit"
    REPLAY = "replay"


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """How to reach a Gerrit over SSH."""

    host: str
    user: str
    key: str
    """Path of the private key's file."""
    host_key: str
    """`ssh-ed25519 AAAA...`, or the path of a known_hosts file."""
    port: int = 29418


@dataclass(frozen=True, kw_only=True)
class Forge:
    """One forge: how to reach it, what on it triggers, how it is told."""

    name: str
    kind: ForgeKind
    account: str = ""
    """Our own user name there: its events never trigger."""
    account_where: str = ""
    bots: tuple[str, ...] = ()
    """Accounts of other programs: their events never trigger either."""
    bots_where: str = ""
    recheck: tuple[str, ...] = ("^recheck$",)
    """Regular expressions, searched line by line below the comment's `Patch Set N:` header."""
    vote: Vote = Vote.NONE
    label: str = "Verified"
    contact: str = ""
    ssh: Ssh | None = None
    file: str = ""
    """The recorded stream of a replay."""
    sources: str = ""
    """Where machines fetch a project from: a URL with `{project}`."""
    where: str = ""
    recheck_where: tuple[str, ...] = ()
    """Where each expression of `recheck` stands, in the same order."""


EXACTLY = Overcommit()
"""What a host has, and no more."""


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """A configured host."""

    name: str
    skills: tuple[str, ...]
    isolation: bool = False
    labels: tuple[str, ...] = ()
    memory: int = 0
    """Bytes that its machines may have in all; 0: what its agent says that there is. So with the next two."""
    vcpus: int = 0
    disk: int = 0
    overcommit: Overcommit = EXACTLY
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class ProjectJob:
    """One job of a project, and what starts it there."""

    job: str
    voting: bool = True
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Project:
    """Which jobs run for the changes of a project, on which branches, on which events."""

    name: str
    """Exact name, or a regular expression that matches the whole name where it begins with `^`."""
    jobs: tuple[ProjectJob, ...]
    branches: tuple[str, ...] = ()
    """Exact names or, beginning with `^`, regular expressions; empty: every branch."""
    on: tuple[str, ...] = ("patchset-created", "recheck")
    forge: str = ""
    """Only this forge's changes; empty: any forge's."""
    where: str = ""
    branches_where: str = ""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """All of it. The loader has checked that every name that is used is defined."""

    server: Server = Server()
    forges: Mapping[str, Forge] = field(default_factory=dict)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    images: Mapping[str, Image] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=lambda: {NOOP.name: NOOP})
    projects: Sequence[Project] = ()
    path: str = ""
