"""Whom a task becomes: a user's home, shell and groups, and where that user can go.

Effects: none.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paddock.core.errors import Refused


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user of this computer. `is_other`: not the one that the agent is."""

    name: str
    uid: int
    groups: frozenset[int]
    home: str
    shell: str
    is_other: bool

    def variables(self) -> Mapping[str, str]:
        """What a login would set."""
        return {"HOME": self.home or "/", "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell or "/bin/sh"}

    def barrier(self, path: Path) -> Path | None:
        """The first directory on the way to `path`, itself included, that this user may not enter; None for a free way.

        What does not exist yet bars nobody.
        """
        if self.uid == 0:
            return None
        for directory in (*reversed(path.parents), path):
            try:
                found = directory.stat()
            except OSError:
                return None
            if not self._may_search(found):
                return directory
        return None

    def _may_search(self, found: os.stat_result) -> bool:
        if found.st_uid == self.uid:
            return bool(found.st_mode & stat.S_IXUSR)
        if found.st_gid in self.groups:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)


def account(named: str) -> Account | None:
    """The user of this name; None for none named. Refused for one that does not exist, and for others than root."""
    if not named:
        return None
    import pwd

    try:
        entry = pwd.getpwnam(named)
    except KeyError:
        raise Refused(f"user {named}: unknown") from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise Refused(f"user {named}: only root can become somebody else")
    return Account(
        name=entry.pw_name,
        uid=entry.pw_uid,
        groups=frozenset(os.getgrouplist(named, entry.pw_gid)),
        home=entry.pw_dir,
        shell=entry.pw_shell,
        is_other=entry.pw_uid != os.geteuid(),
    )
