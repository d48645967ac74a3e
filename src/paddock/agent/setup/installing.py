"""What an installed agent is made of, planned from its configuration.

Effects: none by itself; the plan is carried out by placing, which is idempotent.
"""

import os
import pwd
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.agent import enrolment, events
from paddock.agent.conf import PATH, Conf
from paddock.agent.setup import unit
from paddock.agent.setup.placing import Absent, Directory, File, Link, Owner, Thing
from paddock.core.errors import Refused

LOGGING_FILE = Path("etc/logging.yaml")
_SYSTEM = Path("etc/systemd/system")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be installed below `root`, which is / on the machine itself.

    `code` is an enrolment code, `program` what stands in bin (name and bytes), `command` how the service starts.
    """

    conf: Conf
    root: Path = Path("/")
    has_service: bool = True
    code: str = ""
    program: tuple[str, bytes] | None = None

    def at(self, path: Path) -> Path:
        """Where a path of the machine lies now."""
        return self.root / path.relative_to("/")

    @property
    def unit(self) -> Path:
        return self.at(Path("/") / _SYSTEM / unit.NAME)

    @property
    def log(self) -> Path:
        return self.conf.base / "log"

    @property
    def cache(self) -> Path:
        return self.conf.base / "cache"

    def command(self) -> list[str]:
        """How the service starts the agent."""
        config = str(self.conf.base / PATH)
        if self.program is None:
            return [sys.executable, "-m", "paddock.agent", "run", "--config", config]
        program = str(self.conf.base / "bin" / self.program[0])
        # Of an image only the usual place of its Python is known.
        python = sys.executable if self.root == Path("/") else "/usr/bin/python3"
        return [*([python, "-I"] if program.endswith(".pyz") else []), program, "run", "--config", config]


def plan(wanted: Wanted) -> Iterator[Thing]:
    """Everything, in an order in which being killed leaves the old configuration whole. It comes last but for the unit.

    Refused if the user is not known.
    """
    conf, at = wanted.conf, wanted.at
    user, admin = owner_of(conf["system.user"], wanted.root), Owner(user=os.geteuid(), group=os.getegid())
    # The agent reads what is in etc and does not change it.
    reads = Owner(user=admin.user, group=user.group)
    yield Directory(path=at(conf.base), mode=0o755, owner=admin)
    yield Directory(path=at(conf.base / "bin"), mode=0o755, owner=admin)
    yield Directory(path=at(conf.base / "etc"), mode=0o750, owner=reads)
    yield Directory(path=at(conf.state), mode=0o700, owner=user)
    yield Directory(path=at(conf.work), mode=0o755, owner=user)
    yield Directory(path=at(wanted.log), mode=0o750, owner=user)
    # A bundle unpacks itself there once, and runs from nowhere that somebody else may write.
    yield Directory(path=at(wanted.cache), mode=0o700, owner=user)
    if wanted.program is not None:
        name, content = wanted.program
        yield File(path=at(conf.base / "bin" / name), content=content, mode=0o755, owner=admin)
    yield File(
        path=at(conf.base / LOGGING_FILE),
        content=events.usual(wanted.log).encode(),
        mode=0o640,
        owner=reads,
        is_theirs=True,
    )
    service = unit.text(conf, command=wanted.command(), places=(wanted.log, wanted.cache)).encode()
    yield File(path=at(conf.base / "etc" / unit.NAME), content=service, mode=0o644, owner=admin)
    if wanted.code:
        path = at(conf.state / enrolment.FILE)
        yield File(path=path, content=f"{wanted.code}\n".encode(), mode=0o600, owner=user)
    yield File(path=at(conf.base / PATH), content=conf.ini.text.encode(), mode=0o640, owner=reads)
    if wanted.has_service:
        yield File(path=wanted.unit, content=service, mode=0o644, owner=admin)
        enabled = wanted.unit.parent / "multi-user.target.wants" / unit.NAME
        is_wanted = conf.is_set("service.on-boot")
        yield Link(path=enabled, target=f"/{_SYSTEM}/{unit.NAME}") if is_wanted else Absent(path=enabled)


def owner_of(name: str, root: Path = Path("/")) -> Owner:
    """The numbers of a user, as the machine below `root` knows it. Refused if it knows none of that name."""
    try:
        if root == Path("/"):
            known = pwd.getpwnam(name)
            return Owner(user=known.pw_uid, group=known.pw_gid)
        for line in (root / "etc/passwd").read_text("utf-8", "replace").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 3:
                return Owner(user=int(fields[2]), group=int(fields[3]))
    except (KeyError, OSError, ValueError):
        pass
    if name == "root":
        return Owner(user=0, group=0)
    raise Refused(
        f"{name}: there is no such user", hint=f"useradd --system --home-dir / --shell /usr/sbin/nologin {name}"
    )


def has_systemd(root: Path) -> bool:
    """Whether the machine is run by systemd; of an image: whether it will be."""
    if root == Path("/"):
        return Path("/run/systemd/system").is_dir()
    return (root / _SYSTEM).is_dir()
