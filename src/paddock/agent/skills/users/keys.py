"""A user's authorized_keys, set or added to, through no link that the user may have laid.

Effects: idempotent; the file is replaced whole, and only if it is not as it is asked to be.
"""

import base64
import binascii
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from paddock.agent.skills import drafts
from paddock.agent.skills.users.accounts import Account
from paddock.core.errors import Refused

_KINDS = re.compile(
    r"(?:^|\s)((?:ssh-(?:rsa|ed25519)|ecdsa-sha2-nistp(?:256|384|521)"
    r"|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com))\s+([A-Za-z0-9+/]+={0,2})(?=\s|$)"
)
_FILE = "authorized_keys"


def check(keys: Sequence[str]) -> list[str]:
    """The keys as lines. Refused for what is not one public key on one line."""
    return [_checked(key.strip()) for key in keys]


def _checked(key: str) -> str:
    shown = f"{key[:24]}..." if len(key) > 24 else key
    if "PRIVATE KEY" in key:
        raise Refused("keys: a private key was given, and is known to the server now: make a new one")
    found = _KINDS.search(key)
    if found is None or not key.isprintable() or key.startswith("#"):
        raise Refused(f"keys {shown!r}: is not one public key on one line")
    kind, blob = found.groups()
    try:
        data = base64.b64decode(blob, validate=True)
    except binascii.Error:
        data = b""
    # A key begins with its own kind, as the kind's length and its text.
    if data[: 4 + len(kind)] != len(kind).to_bytes(4, "big") + kind.encode():
        raise Refused(f"keys {shown!r}: is cut or not what it says")
    return key


def write(account: Account, keys: Sequence[str], *, exact: bool) -> bool:
    """Make the file hold these keys, alone or beside those that it has; whether anything was to be changed."""
    home = Path(os.path.realpath(Path(account.home).parent)) / Path(account.home).name
    with drafts.entered(home) as inside:
        _check_owner(inside, account, str(home))
        if not keys and not _has_directory(inside):
            return False
        directory = _enter(inside, account)
        try:
            return _write(directory, account, keys, exact=exact)
        finally:
            os.close(directory)


def _write(directory: int, account: Account, keys: Sequence[str], *, exact: bool) -> bool:
    before = drafts.read(directory, _FILE, alone=True)
    lines = [] if exact or before is None else before.decode("utf-8", "surrogateescape").splitlines()
    lines += [key for key in dict.fromkeys(keys) if key not in lines]
    after = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    if before is not None and after == before and _is_right(directory, account):
        return False
    if before is None and not after:
        return False
    drafts.replace(directory, _FILE, after, mode=0o600, owner=(account.uid, account.gid))
    return True


def _is_right(directory: int, account: Account) -> bool:
    found = os.stat(_FILE, dir_fd=directory, follow_symlinks=False)
    return found.st_uid == account.uid and stat.S_IMODE(found.st_mode) == 0o600


def _has_directory(home: int) -> bool:
    try:
        os.stat(".ssh", dir_fd=home, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _enter(home: int, account: Account) -> int:
    """A descriptor of .ssh, made if it is not there. Refused for a link and for somebody else's."""
    made = False
    try:
        os.mkdir(".ssh", 0o700, dir_fd=home)
        made = True
    except FileExistsError:
        pass
    try:
        handle = os.open(".ssh", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
    except OSError as exc:
        raise Refused(f"{account.home}/.ssh: is a link or no directory") from exc
    try:
        if made:
            os.fchown(handle, account.uid, account.gid)
        _check_owner(handle, account, f"{account.home}/.ssh")
        if stat.S_IMODE(os.fstat(handle).st_mode) & 0o022:
            os.fchmod(handle, 0o700)  # sshd does not believe a file in a directory that others may write
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_owner(handle: int, account: Account, named: str) -> None:
    owner = os.fstat(handle).st_uid
    if owner not in (account.uid, 0):
        raise Refused(f"{named}: belongs to uid {owner}, not to {account.name}")


def count(account: Account) -> int | None:
    """How many keys may log in; None where that cannot be told."""
    try:
        with drafts.entered(Path(account.home)) as inside:
            handle = os.open(".ssh", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
        try:
            data = drafts.read(handle, _FILE)
        finally:
            os.close(handle)
    except FileNotFoundError:
        return 0
    except (OSError, Refused):
        return None
    lines = (data or b"").splitlines()
    return sum(1 for line in lines if line.strip() and not line.lstrip().startswith(b"#"))
