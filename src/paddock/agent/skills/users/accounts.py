"""Accounts of this machine, as its own files name them, and which of them may be touched.

Effects: none.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Refused

NAME = r"[a-z_][a-z0-9_-]{0,31}"
_RESERVED = frozenset(
    """root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc nobody nogroup adm wheel
    sudo admin operator halt shutdown ftp sshd dbus messagebus polkitd systemd chrony tss""".split()
)
_PASSWD, _GROUP, _DEFINITIONS = Path("/etc/passwd"), Path("/etc/group"), Path("/etc/login.defs")


@dataclass(frozen=True, kw_only=True)
class Account:
    """One line of /etc/passwd, and the groups that name it beside its own."""

    name: str
    uid: int
    gid: int
    comment: str
    home: str
    shell: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """One line of /etc/group."""

    name: str
    gid: int
    members: tuple[str, ...]


def all_accounts() -> list[Account]:
    """The local ones, in the order of the file; a line that is none is passed over."""
    known = all_groups()
    found = []
    for fields in _lines(_PASSWD, 7):
        name, _, uid, gid, comment, home, shell = fields
        groups = tuple(sorted(group.name for group in known if name in group.members))
        found.append(
            Account(name=name, uid=int(uid), gid=int(gid), comment=comment, home=home, shell=shell, groups=groups)
        )
    return found


def find(name: str) -> Account | None:
    """The local account of exactly this name."""
    return next((one for one in all_accounts() if one.name == name), None)


def all_groups() -> list[Group]:
    """The local ones."""
    return [
        Group(name=name, gid=int(gid), members=tuple(member for member in members.split(",") if member))
        for name, _, gid, members in _lines(_GROUP, 4)
    ]


def find_group(name: str) -> Group | None:
    """The local group of exactly this name."""
    return next((one for one in all_groups() if one.name == name), None)


def least_uid() -> int:
    """Below it are the system's own accounts."""
    try:
        text = _DEFINITIONS.read_text("utf-8", "replace")
    except FileNotFoundError:
        return 1000
    found = re.search(r"^UID_MIN\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 1000


def check_name(name: str) -> None:
    """Refused for what is no name of a user: what is asked of others would be done to somebody else."""
    if not re.fullmatch(NAME, name):
        raise Refused(f"name {name!r}: is none of a user; lower case, digits, _ and -, at most 32")


def check_touchable(name: str, account: Account | None, *, force: bool) -> None:
    """Refused for the system's own accounts, and for those that live in another place than this machine's files."""
    if account is None and _is_elsewhere(name):
        raise Refused(f"{name}: is no account of this machine's own files, but of a directory service")
    if force:
        return
    if name in _RESERVED or name.startswith("systemd-"):
        raise Refused(f"{name}: is a name of the system", hint="force: true, if it is meant")
    if account is not None and (account.uid < least_uid() or account.uid == 65534):
        raise Refused(f"{name}: is an account of the system (uid {account.uid})", hint="force: true, if it is meant")


def _is_elsewhere(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def require_root(method: str) -> None:
    """Refused for an agent that is not root."""
    if os.geteuid() != 0:
        raise Refused(f"{method}: needs an agent that is root")


def _lines(path: Path, count: int) -> Iterator[list[str]]:
    for line in path.read_text("utf-8", "surrogateescape").splitlines():
        fields = line.split(":")
        if len(fields) == count and fields[0][:1] not in ("", "#", "+", "-"):
            yield fields
