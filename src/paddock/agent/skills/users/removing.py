"""Removes an account: its processes, its files, its home if asked, and itself at last.

Effects: idempotent; the account goes last, so that after a kill the same command finds it and does the rest.
"""

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills import tools
from paddock.agent.skills.skill import Call
from paddock.agent.skills.users import accounts, sudoers
from paddock.agent.skills.users.accounts import Account
from paddock.core.errors import Broken, Refused
from paddock.hands import trees
from paddock.hands.trees import Identity
from paddock.wire.framing import JSON

_BOUND = 10.0  # seconds after the KILL
_LOOK_EVERY = 0.02
_QUIET_LOOKS = 2
_OF_A_NAME = ("/var/spool/cron/crontabs", "/var/spool/cron", "/var/lib/systemd/linger", "/var/mail")
"""Where files are named exactly as users: a later user of the same name would get them."""


def remove(call: Call) -> Outcome:
    """The account is gone; what was done for it. One that was not there changes nothing."""
    accounts.require_root(call.method)
    name = call.text("name")
    accounts.check_name(name)
    account = accounts.find(name)
    accounts.check_touchable(name, account, force=call.params.get("force") is True)
    takes_home = call.params.get("home") is True
    changed: list[str] = []
    ended = 0
    if account is not None:
        _check(account, takes_home=takes_home)
        tools.find("userdel", package="passwd")
        # No new login while the old ones end.
        tools.run("usermod", "--expiredate", "1", "--", name)
        ended = _end_processes(account.uid, grace=call.seconds("grace", 10))
    if sudoers.remove(name):
        changed.append("sudo")
    if account is not None:
        changed += _remove_files(account, takes_home=takes_home)
        tools.run("userdel", "--", name)
        if accounts.find(name) is not None:
            raise Broken(f"{name}: is still there after userdel")
        changed.append("account")
    return Outcome(result={"name": name, "changed": list[JSON](changed), "ended": ended})


# ---- what is refused -------------------------------------------------------------------------------------------------


def _check(account: Account, *, takes_home: bool) -> None:
    if account.uid == 0 or account.uid == os.geteuid():
        raise Refused(f"{account.name}: has uid {account.uid}, which the machine and this agent live by")
    others = [one.name for one in accounts.all_accounts() if one.uid == account.uid and one.name != account.name]
    if others:
        raise Refused(f"{account.name}: shares uid {account.uid} with {', '.join(others)}, whose processes would end")
    if takes_home and os.path.lexists(account.home):
        _check_home(account)


def _check_home(account: Account) -> None:
    home = Path(account.home)
    if not home.is_absolute() or len(home.parts) < 3 or Path(os.path.normpath(home)) != home:
        raise Refused(f"home {home}: is no directory of a user's own")
    found = home.lstat()
    if home.is_symlink() or not home.is_dir() or found.st_uid != account.uid:
        raise Refused(f"home {home}: is a link, or belongs to uid {found.st_uid}, not to {account.name}")
    for other in accounts.all_accounts():
        theirs = Path(other.home)
        if other.name != account.name and (theirs == home or home in theirs.parents):
            raise Refused(f"home {home}: is the home of {other.name} too, or holds it")
    below = [place for place in _mount_points() if place == home or home in place.parents]
    if below:
        raise Refused(f"home {home}: {below[0]} is mounted there", hint="disk.unmount it first")


def _mount_points() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    return [Path(line.split()[4].encode("latin-1", "replace").decode("unicode_escape")) for line in lines]


# ---- what is done ----------------------------------------------------------------------------------------------------


def _end_processes(uid: int, *, grace: timedelta) -> int:
    """End whoever runs under exactly this uid: TERM, grace, KILL, until nobody is found. Broken if some stay."""
    ended: set[Identity] = set()
    killing = time.monotonic() + grace.total_seconds()
    quiet = 0
    while quiet < _QUIET_LOOKS:
        left = _processes(uid)
        quiet = 0 if left else quiet + 1
        now = time.monotonic()
        if left and now > killing + _BOUND:
            raise Broken(f"uid {uid}: would not end: {', '.join(trees.name(one) for one in left)}")
        if left and now >= killing:
            trees.kill(lambda: _processes(uid))
        else:
            trees.terminate(one for one in left if one not in ended)
        ended.update(left)
        if left:
            time.sleep(_LOOK_EVERY)
    return len(ended)


def _processes(uid: int) -> list[Identity]:
    """Whoever has this uid as its real, effective or saved one."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                status = Path(f"/proc/{entry}/status").read_text("utf-8", "replace")
            except OSError:
                continue
            line = next(line for line in status.splitlines() if line.startswith("Uid:"))
            identity = trees.identify(int(entry))
            if identity is not None and uid in map(int, line.split()[1:]):
                found.append(identity)
    return found


def _remove_files(account: Account, *, takes_home: bool) -> list[str]:
    changed = []
    for directory in _OF_A_NAME if takes_home else _OF_A_NAME[:-1]:
        file = Path(directory) / account.name
        if file.is_file() and not file.is_symlink():
            file.unlink()
            changed.append(str(file))
    if takes_home and os.path.lexists(account.home):
        _check_home(account)  # again: its processes have gone meanwhile, and may have done something before
        shutil.rmtree(account.home)
        changed.append("home")
    return changed
