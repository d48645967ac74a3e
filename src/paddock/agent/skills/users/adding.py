"""Makes an account be as described: made, changed where it differs, or left alone.

Effects: idempotent; all that can be refused is refused before the first step, and after a kill the same description
finds what is done and does the rest.
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills import tools
from paddock.agent.skills.skill import Call
from paddock.agent.skills.users import accounts, keys, sudoers
from paddock.agent.skills.users.accounts import Account
from paddock.core.errors import Broken, Refused
from paddock.wire.framing import JSON

_NO_HOMES = frozenset(
    Path(path)
    for path in """/ /bin /boot /dev /etc /home /lib /lib64 /media /mnt /opt /proc /run /sbin /srv /sys /tmp /usr /var
    /var/lib /var/log /var/tmp""".split()
)
_MOST_UID = (1 << 32) - 2


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """The description; None is whatever it is, or for a new account what this system gives."""

    name: str
    uid: int | None
    group: str | None
    groups: tuple[str, ...] | None
    home: str | None
    shell: str | None
    comment: str | None
    makes_home: bool
    keys: tuple[str, ...] | None
    keys_exact: bool
    sudo: tuple[str, ...] | None


def add(call: Call) -> Outcome:
    """The account as described, and what was changed for it."""
    accounts.require_root(call.method)
    wanted = _read(call)
    account = accounts.find(wanted.name)
    accounts.check_touchable(wanted.name, account, force=call.params.get("force") is True)
    _check(wanted, account)
    tools.find("usermod" if account else "useradd", package="passwd")
    with ExitStack() as held:
        # Checked by visudo before the account exists: a rule that is not taken leaves no user without it.
        rules = held.enter_context(sudoers.checked(wanted.name, wanted.sudo)) if wanted.sudo else None
        changed = _make(wanted) if account is None else _change(wanted, account)
        account = accounts.find(wanted.name)
        if account is None:
            raise Broken(f"{wanted.name}: is not there after useradd")
        if wanted.keys is not None and keys.write(account, wanted.keys, exact=wanted.keys_exact):
            changed.append("keys")
        if rules.install() if rules else wanted.sudo == () and sudoers.remove(wanted.name):
            changed.append("sudo")
    return Outcome(result={**described(account), "changed": list[JSON](changed)})


def described(account: Account) -> Mapping[str, JSON]:
    """An account as results tell it."""
    return {
        "name": account.name,
        "uid": account.uid,
        "gid": account.gid,
        "comment": account.comment,
        "home": account.home,
        "shell": account.shell,
        "groups": list[JSON](account.groups),
        "sudo": sudoers.exists(account.name),
        "keys": keys.count(account),
    }


def _read(call: Call) -> _Wanted:
    name = call.text("name")
    accounts.check_name(name)
    uid = call.params.get("uid")
    return _Wanted(
        name=name,
        uid=uid if isinstance(uid, int) else None,
        group=call.text("group") or None,
        groups=tuple(sorted(set(call.texts("groups")))) if call.params.get("groups") is not None else None,
        home=call.text("home") or None,
        shell=call.text("shell") or None,
        comment=call.text("comment") if call.params.get("comment") is not None else None,
        makes_home=call.params.get("create_home") is not False,
        keys=tuple(keys.check(call.texts("keys"))) if call.params.get("keys") is not None else None,
        keys_exact=call.params.get("keys_exact") is True,
        sudo=call.texts("sudo") if call.params.get("sudo") is not None else None,
    )


# ---- what is refused -------------------------------------------------------------------------------------------------


def _check(wanted: _Wanted, account: Account | None) -> None:
    _check_uid(wanted, account)
    for group in (*(wanted.groups or ()), *([wanted.group] if wanted.group else [])):
        if accounts.find_group(group) is None:
            raise Refused(f"group {group}: does not exist on this machine")
    if account is None and wanted.group is None:
        _check_own_group(wanted.name)
    if wanted.shell is not None:
        _check_field("shell", wanted.shell)
        if not (os.path.isabs(wanted.shell) and os.path.isfile(wanted.shell) and os.access(wanted.shell, os.X_OK)):
            raise Refused(f"shell {wanted.shell}: is no program of this machine")
    if wanted.comment is not None:
        _check_field("comment", wanted.comment)
    if wanted.home is not None:
        _check_home(wanted, account)
    if wanted.keys and not wanted.makes_home and account is None:
        raise Refused(f"{wanted.name}: keys need a home", hint="create_home: true")


def _check_uid(wanted: _Wanted, account: Account | None) -> None:
    if wanted.uid is None:
        return
    if account is not None and account.uid != wanted.uid:
        raise Refused(f"{wanted.name}: has uid {account.uid}, and files under it; it cannot become {wanted.uid}")
    if not accounts.least_uid() <= wanted.uid <= _MOST_UID and account is None:
        raise Refused(f"uid {wanted.uid}: is not within {accounts.least_uid()} to {_MOST_UID}")
    other = next((one for one in accounts.all_accounts() if one.uid == wanted.uid and one.name != wanted.name), None)
    if other is not None:
        raise Refused(f"uid {wanted.uid}: belongs to {other.name}")


def _check_own_group(name: str) -> None:
    """A group of the user's name is taken as its own, but never a group of the system: it would lend its rights."""
    group = accounts.find_group(name)
    if group is not None and group.gid < accounts.least_uid():
        raise Refused(f"{name}: is a group of the system (gid {group.gid})", hint="name another group")


def _check_home(wanted: _Wanted, account: Account | None) -> None:
    home = wanted.home or ""
    _check_field("home", home)
    if not os.path.isabs(home) or os.path.normpath(home) != home or Path(home) in _NO_HOMES:
        raise Refused(f"home {home}: is no directory for a user")
    if not os.path.lexists(home):
        return
    found = os.lstat(home)
    mine = {account.uid} if account else set()
    if not Path(home).is_dir() or Path(home).is_symlink() or found.st_uid not in mine:
        raise Refused(f"home {home}: is there already, and belongs to uid {found.st_uid}")


def _check_field(what: str, text: str) -> None:
    if ":" in text or not text.isprintable() or text.startswith("-"):
        raise Refused(f"{what} {text!r}: holds what a line of /etc/passwd cannot")


# ---- what is done ----------------------------------------------------------------------------------------------------


def _make(wanted: _Wanted) -> list[str]:
    argv = ["useradd", "--create-home" if wanted.makes_home else "--no-create-home"]
    argv += _options(wanted.uid is not None, "--uid", str(wanted.uid))
    own = wanted.group or (wanted.name if accounts.find_group(wanted.name) else None)
    argv += ["--gid", own] if own else ["--user-group"]
    argv += _options(wanted.groups, "--groups", ",".join(wanted.groups or ()))
    argv += _options(wanted.home, "--home-dir", wanted.home)
    argv += _options(wanted.shell, "--shell", wanted.shell)
    argv += _options(wanted.comment, "--comment", wanted.comment)
    tools.run(*argv, "--", wanted.name)
    return ["account"]


def _options(is_given: object, *words: str | None) -> list[str]:
    return [word for word in words if word is not None] if is_given else []


def _change(wanted: _Wanted, account: Account) -> list[str]:
    changed: list[str] = []
    argv: list[str] = []
    for what, option, now, then in (
        ("shell", "--shell", account.shell, wanted.shell),
        ("comment", "--comment", account.comment, wanted.comment),
        ("home", "--home", account.home, wanted.home),
        ("groups", "--groups", ",".join(account.groups), None if wanted.groups is None else ",".join(wanted.groups)),
        ("group", "--gid", _group_name(account.gid), wanted.group),
    ):
        if then is not None and then != now:
            changed.append(what)
            argv += [option, then]
    if argv:
        tools.run("usermod", *argv, "--", account.name)
    home = wanted.home or account.home
    if wanted.makes_home and Path(home) not in _NO_HOMES and not os.path.lexists(home):
        _make_home(account, home)
        changed.append("directory")
    return changed


def _group_name(gid: int) -> str:
    return next((group.name for group in accounts.all_groups() if group.gid == gid), str(gid))


def _make_home(account: Account, home: str) -> None:
    """What useradd had no time for, or a home that moved: empty, for its user alone."""
    os.mkdir(home, 0o700)
    os.chown(home, account.uid, account.gid, follow_symlinks=False)
