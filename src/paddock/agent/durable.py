"""Small files of JSON that are there whole or not at all, whatever dies meanwhile.

Effects: idempotent; temporary name, sync, rename, sync.
"""

import json
import logging
import os
from contextlib import suppress
from pathlib import Path

from paddock.wire.framing import JSON

_log = logging.getLogger(__name__)


def write(path: Path, value: JSON) -> None:
    """Make it hold this value, for its owner alone; its directory is made at need. After an OSError it is as it was."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(value, file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync(path.parent)


def read(path: Path) -> JSON:
    """Its value; None if there is none. One that is no JSON is set aside and told: nothing is guessed from its rest."""
    try:
        value: JSON = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        _log.error("a file of ours cannot be read", extra={"path": str(path), "why": str(exc)})
        with suppress(OSError):
            path.rename(path.with_name(f"{path.name}.corrupt"))
        return None
    return value


def remove(path: Path) -> None:
    """Make it not exist. Again is no harm."""
    with suppress(FileNotFoundError):
        path.unlink()
        sync(path.parent)


def sync(path: Path) -> None:
    """What a file holds, or what was made, renamed or removed in a directory, stays so after a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
