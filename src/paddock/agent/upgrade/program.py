"""The file that an installed agent is, and how another version of it takes its place.

Effects: idempotent; the file under the service's name is always a whole one, the old or the new.
"""

import hashlib
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from paddock.agent.durable import sync

TRIAL = "PADDOCK_TRIAL"
"""The variable that is set where a program is only tried; on its standard input is what it needs, as JSON."""
_VERSIONS = "versions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """`path` is what the service starts, with the interpreter before it if it is no program by itself."""

    path: Path
    interpreter: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether this user may replace it, and keep versions of it."""
        return os.access(self.path.parent, os.W_OK) and os.access(self._versions.parent, os.W_OK)

    def stored(self, sha256: str) -> Path:
        """Where a version of it lies; its directory is made."""
        self._versions.mkdir(mode=0o755, exist_ok=True)
        return self._versions / f"{sha256}{self.path.suffix}"

    @property
    def _versions(self) -> Path:
        # Beside its directory, as that is beside the one where a bundle unpacks itself: each is unpacked once.
        return self.path.parent.parent / _VERSIONS

    def words(self, path: Path | None = None) -> tuple[str, ...]:
        """How to start it, or a version of it."""
        return (*self.interpreter, str(path or self.path))

    def keep(self) -> str:
        """Store what the service starts now; gives its digest."""
        sha256 = digest(self.path)
        stored = self.stored(sha256)
        if not stored.exists() or digest(stored) != sha256:
            _copy(self.path, stored)
        return sha256

    def put(self, sha256: str) -> None:
        """Have the service start this stored version from now on. Raises OSError, then nothing has changed."""
        _copy(self.stored(sha256), self.path)

    def forget(self, *, but: tuple[str, ...]) -> None:
        """Remove the other versions, and what is left of those that never came whole."""
        kept = {self.stored(sha256) for sha256 in but}
        for path in self.stored("").parent.iterdir():
            if path not in kept:
                with suppress(OSError):
                    path.unlink()


def running() -> Program | None:
    """The file that this process was started from; None where Paddock is installed as a package."""
    path = Path(os.path.abspath(sys.argv[0]))  # not resolved: the service names this path
    if getattr(sys, "frozen", False):
        # Not the executable: that is what the file unpacked, and no service names it.
        return Program(path=path, interpreter=())
    if path.suffix == ".pyz" and path.is_file():
        return Program(path=path, interpreter=(sys.executable,))
    return None


def digest(path: Path) -> str:
    """The SHA-256 of a file; nothing where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _copy(source: Path, target: Path) -> None:
    draft = target.with_name(f".{target.name}.new")
    shutil.copyfile(source, draft)
    draft.chmod(0o755)
    handle = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    draft.rename(target)
    sync(target.parent)
