"""Users and groups by name or number, as params name them.

Effects: none.
"""

import os

from paddock.core.errors import Refused


def uid(named: str) -> int:
    """A user's number; -1 for nobody named. Refused for one that does not exist, and for others than root."""
    if not named:
        return -1
    import pwd

    try:
        found = int(named) if named.isdecimal() else pwd.getpwnam(named).pw_uid
    except KeyError:
        raise Refused(f"user {named}: unknown") from None
    if os.geteuid() not in (0, found):
        raise Refused(f"user {named}: only root gives files to somebody else")
    return _checked(found, f"user {named}")


def gid(named: str) -> int:
    """A group's number; -1 for none named. Refused for one that does not exist, or that is not one's own."""
    if not named:
        return -1
    import grp

    try:
        found = int(named) if named.isdecimal() else grp.getgrnam(named).gr_gid
    except KeyError:
        raise Refused(f"group {named}: unknown") from None
    if os.geteuid() != 0 and found not in {os.getegid(), *os.getgroups()}:
        raise Refused(f"group {named}: only root gives files to a group that is not its own")
    return _checked(found, f"group {named}")


def _checked(number: int, what: str) -> int:
    # The kernel takes 2^32 - 1 for "leave it".
    if number >= (1 << 32) - 1:
        raise Refused(f"{what}: is no number of one")
    return number
