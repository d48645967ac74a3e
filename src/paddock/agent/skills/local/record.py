"""What a host remembers of one of its machines, in a file beside the machine's directories.

Effects: idempotent; the file appears whole or not at all and is durable when `save` returns.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from paddock.agent import durable
from paddock.core.errors import Broken

FILE = "machine.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """`fence` is the highest under which it was built or cleaned; `cgroup` is empty where groups cannot be made."""

    environment: str
    machine: str
    fence: int
    address: str
    cgroup: str = ""


def load(directory: Path) -> Record | None:
    """The record; None if there is none. Broken if it is not one of ours."""
    try:
        return Record(**json.loads((directory / FILE).read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as exc:
        raise Broken(f"{directory / FILE}: no machine's record: {exc}") from exc


def save(directory: Path, record: Record) -> None:
    """Temporary name, sync, rename, sync."""
    durable.write(directory / FILE, asdict(record))


def address(number: int, *, salt: int) -> str:
    """A loopback address for the `number`th machine of a host; `salt` keeps two hosts on one computer apart."""
    number, last = divmod(number, 254)
    salted, third = divmod(number, 256)
    return f"127.{1 + (salt + salted) % 254}.{third}.{last + 1}"
