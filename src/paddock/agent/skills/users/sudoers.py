"""One file of sudo rules a user: checked by visudo before it has its name.

Effects: idempotent; the file is as it was or as it is asked to be.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from paddock.agent.skills import drafts, tools
from paddock.core.errors import Refused

DIRECTORY = Path("/etc/sudoers.d")
_SUDOERS = Path("/etc/sudoers")
_INCLUDES = re.compile(r"^[@#]includedir\s+(/etc/)?sudoers\.d\s*$", re.MULTILINE)

# User_Spec ::= User_List Host_List '=' Cmnd_Spec_List: a comma before the hosts would name one more user. A host is a
# name, an alias, an address, a netgroup or a pattern, or one of them in quotes, and can be negated.
_HOSTS = re.compile(r'(?:!\s*)*[A-Za-z0-9_+*?\["][^=]*=')


def file_of(name: str) -> str:
    """No dot and no tilde in it: sudo would pass it over. Nobody else's file is named so."""
    return f"paddock-{name}"


def text_of(name: str, rules: Sequence[str]) -> bytes:
    """The whole file. Refused for a rule that could speak of other users: one that is more than a line, or whose
    beginning goes on with the list of users.
    """
    for rule in rules:
        if not rule.strip() or not rule.isprintable() or rule.rstrip().endswith("\\"):
            raise Refused(f"sudo {rule!r}: is not one line of printable text")
        if not _HOSTS.match(rule.strip()):
            raise Refused(f"sudo {rule!r}: does not begin with the hosts that it holds on", hint="ALL=(ALL) ALL")
    return "".join(f"{name} {rule.strip()}\n" for rule in rules).encode()


@contextmanager
def checked(name: str, rules: Sequence[str]) -> Iterator["Draft"]:
    """A draft of the user's file that visudo takes; installed if it is said so. Refused for rules that it does not."""
    tools.find("visudo", package="sudo")
    data = text_of(name, rules)
    if not _INCLUDES.search(_SUDOERS.read_text("utf-8", "replace")):
        raise Refused(f"{_SUDOERS}: does not include {DIRECTORY}", hint=f"@includedir {DIRECTORY}")
    with _entered() as directory, drafts.draft(directory, file_of(name), data, mode=0o440) as made:
        ran = tools.attempt("visudo", "-cf", str(DIRECTORY / made))
        if ran.code != 0:
            raise Refused(f"sudo: visudo does not take the rule: {ran.last_words}")
        yield Draft(directory, made, file_of(name), data)


@contextmanager
def _entered() -> Iterator[int]:
    with drafts.entered(DIRECTORY) as directory:
        found = os.fstat(directory)
        if found.st_uid != 0 or found.st_mode & 0o022:
            raise Refused(f"{DIRECTORY}: others than root may write to it")
        yield directory


class Draft:
    """Rules that are checked, and not yet in force."""

    def __init__(self, directory: int, made: str, name: str, data: bytes) -> None:
        self._directory = directory
        self._made = made
        self._name = name
        self._data = data

    def install(self) -> bool:
        """Whether anything was to be changed."""
        if drafts.read(self._directory, self._name) == self._data:
            return False
        drafts.install(self._directory, self._made, self._name)
        return True


def exists(name: str) -> bool:
    """Whether there are rules of ours for this user."""
    return (DIRECTORY / file_of(name)).exists()


def remove(name: str) -> bool:
    """Take the user's file away, and nothing else; whether there was one."""
    try:
        (DIRECTORY / file_of(name)).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
