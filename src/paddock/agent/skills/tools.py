"""The system's own programs: plain arguments, no shell, and an end for certain.

Effects: those of the program; the caller says what becomes of them.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from paddock.core.errors import Broken, Missing

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAST_WORDS = 500
ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/"}
"""What such a program finds in its surroundings."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a program ended: its exit code (negative: the signal), and what it said."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """Its last message, on one line, for a person."""
        lines = [line.strip() for line in (self.err or self.out).splitlines() if line.strip()]
        return " · ".join(lines)[-_LAST_WORDS:] or f"exit {self.code}"


def find(program: str, *, package: str = "") -> str:
    """Where a program is. Missing, naming the Debian package that brings it."""
    found = shutil.which(program, path=_PATH)
    if found is None:
        raise Missing(f"{program}: is not installed", hint=f"install {package}" if package else "")
    return found


def attempt(*argv: str, stdin: bytes = b"", limit: float = 60.0, files: Sequence[int] = ()) -> Ran:
    """Run it to its end. Broken if that takes longer than the limit in seconds: then all of it is killed."""
    with subprocess.Popen(
        [find(argv[0]), *argv[1:]],
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
        pass_fds=files,
    ) as child:
        try:
            out, err = child.communicate(stdin or None, timeout=limit)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            raise Broken(f"{argv[0]}: did not end within {limit:.0f} s and was killed") from None
    return Ran(code=child.returncode, out=out.decode("utf-8", "replace"), err=err.decode("utf-8", "replace"))


def run(*argv: str, stdin: bytes = b"", limit: float = 60.0, files: Sequence[int] = ()) -> str:
    """What it prints. Broken, with its last words, if it fails."""
    ran = attempt(*argv, stdin=stdin, limit=limit, files=files)
    if ran.code != 0:
        raise Broken(f"{argv[0]}: {ran.last_words}")
    return ran.out
