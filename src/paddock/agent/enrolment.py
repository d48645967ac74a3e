"""The enrolment code on its way to the server, in a file that is gone once it was used.

Effects: idempotent; a code that is found after it was used is removed at the next start.
"""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from paddock.agent import identity
from paddock.core.errors import Refused

FILE = "code"
"""Name of the file in the state directory."""
VARIABLE = "PADDOCK_AGENT_CODE"
_LONGEST = 4096


def read(source: str) -> str:
    """A code from a file, or from standard input if that is `-`. Refused if there is none in it."""
    try:
        if source == "-":
            text = sys.stdin.read(_LONGEST)
        else:
            with open(source, encoding="utf-8") as opened:
                text = opened.read(_LONGEST)
    except UnicodeDecodeError as exc:
        raise Refused(f"{source}: holds no code") from exc
    except OSError as exc:
        raise Refused(f"{source}: {exc.strerror}") from exc
    return check(text.strip(), source="standard input" if source == "-" else source)


def check(code: str, *, source: str) -> str:
    """A code as it can be sent. Refused if it cannot be one."""
    if not code or not code.isascii() or not code.isprintable() or " " in code:
        raise Refused(f"{source}: holds no code", hint="paddock host add NAME makes one")
    return code


def waiting(state: Path) -> str:
    """The code that waits in the state directory; empty if none does, or while there is an identity.

    That one may be a copy's: whether the code is of use or is forgotten is decided by the agent, once it knows.
    """
    path = state / FILE
    if not path.exists() or identity.load(state) is not None:
        return ""
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(0o600)
    return read(str(path))


def forget(state: Path) -> None:
    """It was used, or is of no use: nobody reads it again."""
    with suppress(FileNotFoundError):
        os.unlink(state / FILE)
