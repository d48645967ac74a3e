"""Opens files without ever following a symbolic link.

Effects: none.
"""

import hashlib
import os
import re
import stat
from pathlib import Path

from paddock.core.errors import Missing, Refused

_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def name_for(id: str) -> str:
    """A file name for an id, which may hold what a file name may not; two ids never share one."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", id):
        return id
    # A tilde begins no plain name, so a hashed one cannot meet another id.
    return f"~{hashlib.sha256(id.encode()).hexdigest()[:32]}"


def enter(directory: Path, *, make: bool = False) -> int:
    """A descriptor of an absolute directory (O_PATH). Refused where a component is a link or no directory."""
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in directory.parts[1:]:
            if make:
                _make(here, part)
            below = _enter_one(here, part, directory)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def open_file(path: Path) -> int:
    """A descriptor for reading a plain file. Missing if there is none; Refused for links, pipes and the like."""
    directory = enter(path.parent)
    try:
        handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise Missing(f"{path}: does not exist") from None
    except OSError as exc:
        raise Refused(f"{path}: {_why(exc)}") from exc
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Refused(f"{path}: is no plain file")
    return handle


def _make(here: int, part: str) -> None:
    try:
        os.mkdir(part, 0o755, dir_fd=here)
    except FileExistsError:
        pass
    except OSError as exc:
        raise Refused(f"{part}: {exc.strerror}") from exc


def _enter_one(here: int, part: str, whole: Path) -> int:
    try:
        return os.open(part, _ENTER, dir_fd=here)
    except FileNotFoundError:
        raise Missing(f"{whole}: does not exist") from None
    except OSError as exc:
        raise Refused(f"{whole}: {part} {_why(exc)}") from exc


def _why(exc: OSError) -> str:
    return "is a symbolic link or no directory" if exc.errno in (20, 40) else str(exc.strerror)
