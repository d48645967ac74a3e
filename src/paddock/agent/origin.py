"""Which machine a state directory is from: a copy of its disk is told from the machine.

Effects: idempotent; what a copy brought along is moved aside by renames, the identity first, the record last: killed
in between it is a copy still, and the next start goes on.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from paddock.agent import durable
from paddock.agent.cloud import hints
from paddock.core.errors import Broken
from paddock.hands import faults

FILE = "origin"
ASIDE = "copied"
_STAYS = frozenset({"lock", "code", "process", FILE, f"{FILE}.new", ASIDE, "shut-out", "standing", "same-machine"})
"""What of a state directory is not the copied machine's, but this start's."""
_FIRST = ("identity", "identity.new", "ledger-wal", "ledger-shm", "ledger")
_NOBODY = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
    }
)
"""Product UUIDs that vendors left in more than one machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Empty fields are not known, and nothing is compared with them.

    `code` is the digest of the enrolment code that was used last: a copy does not show it again.
    """

    product_uuid: str = ""
    machine_id: str = ""
    code: str = ""


def look(rootfs: Path) -> Origin:
    """This machine. In a container nothing is known: its firmware is its host's, and it is made anew at will."""
    if hints.is_container(rootfs):
        return Origin()
    return Origin(
        product_uuid=product_uuid(hints.read(rootfs / "sys/class/dmi/id/product_uuid")),
        machine_id=machine_id(hints.read(rootfs / "etc/machine-id")),
    )


def product_uuid(text: str) -> str:
    """A UUID that is one machine's; empty for one that many have, or that is none."""
    if not text:
        return ""
    import uuid  # only where the firmware says one

    try:
        found = str(uuid.UUID(text.strip()))
    except ValueError:
        return ""
    return "" if found in _NOBODY or len(set(found.replace("-", ""))) == 1 else found


def machine_id(text: str) -> str:
    """A machine-id; empty for one that is not made yet."""
    found = text.strip().lower()
    return found if len(found) == 32 and set(found) <= set("0123456789abcdef") and set(found) != {"0"} else ""


def difference(recorded: Origin, found: Origin) -> str:
    """Why a state of `recorded` is not of the machine that was found; empty if it may be."""
    one, other = recorded.product_uuid, found.product_uuid
    # Firmwares disagree about the order of the first eight bytes, and change their mind with an update.
    if one and other and other not in (one, _swapped(one)):
        return f"its product UUID was {one} and is {other}"
    if recorded.machine_id and found.machine_id and recorded.machine_id != found.machine_id:
        return f"its machine-id was {recorded.machine_id} and is {found.machine_id}"
    return ""


def load(state: Path) -> Origin | None:
    """What was recorded; None if nothing was. Broken if the file is not one of ours: nobody guesses."""
    path = state / FILE
    try:
        fields = json.loads(path.read_text("utf-8"))
        return Origin(**{name: str(fields.get(name, "")) for name in Origin.__slots__})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as exc:
        hint = f"where this is no copy of another machine: remove {path}"
        raise Broken(f"{path}: no origin: {type(exc).__name__}", hint=hint) from exc


def record(state: Path, origin: Origin) -> None:
    """Make it durable."""
    durable.write(state / FILE, asdict(origin))
    faults.at("origin.saved")


def complete(recorded: Origin | None, found: Origin) -> Origin:
    """What is known of a machine that is the same: what could not be seen this time stays as it was."""
    if recorded is None:
        return found
    return replace(
        recorded,
        product_uuid=found.product_uuid or recorded.product_uuid,
        machine_id=found.machine_id or recorded.machine_id,
    )


def digest(code: str) -> str:
    """A code as it is remembered."""
    return hashlib.sha256(code.encode()).hexdigest()


def set_aside(state: Path) -> Path:
    """Move what the copied machine left: identity, ledger, tasks, all else. Where it is now. Again it goes on."""
    aside = state / ASIDE
    aside.mkdir(mode=0o700, exist_ok=True)
    names = sorted(path.name for path in state.iterdir() if path.name not in _STAYS)
    for name in (*(first for first in _FIRST if first in names), *(name for name in names if name not in _FIRST)):
        _free(aside, name)
        (state / name).rename(aside / name)
        faults.at("origin.moved")
    durable.sync(aside)
    durable.sync(state)
    return aside


def _free(aside: Path, name: str) -> None:
    """An older copy's file of the same name makes room, and is kept."""
    if not (aside / name).exists():
        return
    number = next(number for number in range(1, 1 << 20) if not (aside / f"{name}.{number}").exists())
    (aside / name).rename(aside / f"{name}.{number}")


def _swapped(text: str) -> str:
    import uuid

    return str(uuid.UUID(bytes=uuid.UUID(text).bytes_le))
