"""What a host remembers of one of its virtual machines, in a file beside its disks.

Effects: idempotent; the file appears whole or not at all and is durable when `save` returns.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from paddock.agent import durable
from paddock.core.errors import Broken

FILE = "machine.json"


class Stage(StrEnum):
    """How far a machine is; after a crash, what becomes of it."""

    MAKING = "making"
    """Half of it may be there: it is removed."""
    AWAKE = "awake"
    """It has its identity: it is adopted."""
    GOING = "going"
    """It is removed."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """`name` is the uniform one; `fence` that under which it was built; `spec` what it was built from, as on the wire.

    `layer` and `template` are what its disks were cloned from: they stay as long as it does.
    """

    environment: str
    machine: str
    fence: int
    name: str
    stage: Stage
    spec: dict[str, object]
    layer: str = ""
    template: str = ""
    saved: str = ""
    start: str = ""
    why: str = ""
    """Why it was booted though a fork was asked for."""
    host_key: str = ""
    """Its public ssh host key."""
    login: str = ""
    """The public half of the key with which its environment's machines log in to each other."""
    address: str = ""
    is_off: bool = False
    """Whether somebody switched it off: it is not started again when it is adopted."""


def load(directory: Path) -> Record | None:
    """The record; None if there is none. Broken if it is not one of ours."""
    value = durable.read(directory / FILE)
    if value is None:
        return None
    try:
        assert isinstance(value, dict)
        known = Record(**value)
        return Record(**{**asdict(known), "stage": Stage(known.stage)})
    except (AssertionError, ValueError, TypeError) as exc:
        raise Broken(f"{directory / FILE}: no machine's record: {exc}") from exc


def save(directory: Path, record: Record) -> None:
    """Temporary name, sync, rename, sync."""
    durable.write(directory / FILE, asdict(record))
