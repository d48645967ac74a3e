"""A directory of small files that a machine finds as a drive.

Effects: idempotent; it is there whole or not at all. Not synced: what a power cut of the host leaves of a machine's
disks is not worth anything either.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from paddock.hands import faults


def plant(place: Path, files: Mapping[str, bytes]) -> None:
    """It is there. One that is stays as it is: its machine may run, and reads it when it likes."""
    if place.is_dir():
        return
    draft = place.with_name(f"{place.name}.new")
    with suppress(FileNotFoundError):
        shutil.rmtree(draft)  # of a kill
    draft.mkdir(mode=0o700)
    for name, content in files.items():
        handle = os.open(draft / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    faults.at("hypervisor.planting")
    draft.rename(place)
    faults.at("hypervisor.planted")
