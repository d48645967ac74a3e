"""Empties directories that somebody may have closed; links are removed, not followed.

Effects: idempotent.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from paddock.core.errors import Broken


def is_empty(directory: Path, *, spared: frozenset[Path] = frozenset()) -> bool:
    """Whether nothing lies in it but what is spared, wherever below."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path = Path(entry.path)
            if path not in spared or (entry.is_dir(follow_symlinks=False) and not is_empty(path, spared=spared)):
                return False
    return True


def empty(directory: Path, *, mode: int, spared: frozenset[Path] = frozenset()) -> None:
    """As it was when it was made. The directory itself stays, for it may be mounted elsewhere. Broken if it cannot be.

    What is spared stays too, with its contents gone.
    """
    for name in os.listxattr(directory):
        with suppress(OSError):  # one of the system's own
            os.removexattr(directory, name)
    _own(directory)
    directory.chmod(mode)
    for path in [Path(entry.path) for entry in os.scandir(directory)]:
        if path not in spared or path.is_symlink():
            remove_tree(path)
        elif path.is_dir():
            empty(path, mode=0o755, spared=spared)


def remove_tree(directory: Path) -> None:
    """Remove a tree, or a file. Broken if it stays."""
    try:
        if directory.is_symlink() or not directory.is_dir():
            directory.unlink(missing_ok=True)
            return
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        for top, names, _ in os.walk(directory):
            os.chmod(top, 0o700)
            for name in names:
                with suppress(OSError):
                    if not os.path.islink(os.path.join(top, name)):
                        os.chmod(os.path.join(top, name), 0o700)
        shutil.rmtree(directory)
    except OSError as exc:
        raise Broken(f"{exc.filename}: {exc.strerror}") from exc


def _own(directory: Path) -> None:
    found = directory.stat()
    if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
        with suppress(OSError):
            os.chown(directory, os.geteuid(), os.getegid())
