"""What is being put on a device, remembered from before it begins until it is done.

Effects: idempotent; a record is durable before the device is touched.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from paddock.agent.skills import drafts
from paddock.agent.skills.skill import Place


@dataclass(frozen=True, kw_only=True)
class Record:
    """A file system or a LUKS header that is being made on `identity`, and will have this UUID."""

    identity: str
    kind: str
    label: str
    uuid: str


def save(place: Place, record: Record) -> None:
    """Remember it."""
    home = _home(place)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with drafts.entered(home) as directory:
        drafts.replace(directory, _name(record.identity), json.dumps(asdict(record)).encode(), mode=0o600)


def load(place: Place, identity: str) -> Record | None:
    """What was begun on this device and never seen done."""
    with suppress(OSError, ValueError, TypeError):
        return Record(**json.loads((_home(place) / _name(identity)).read_bytes()))
    return None


def forget(place: Place, identity: str) -> None:
    """It is done."""
    (_home(place) / _name(identity)).unlink(missing_ok=True)


def _home(place: Place) -> Path:
    return place.state / "disk"


def _name(identity: str) -> str:
    return sha256(identity.encode()).hexdigest()[:32]
