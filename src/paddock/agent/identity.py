"""Who the agent is: name and token, in files that only its owner reads.

Effects: idempotent; the file appears whole or not at all.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paddock.agent import durable
from paddock.core.errors import Broken
from paddock.hands import faults, trees
from paddock.hands.keeper import boot_id

FILE = "identity"
_PROCESS = "process"


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """`new_token` is the one that is being changed to; both are tried until the new one has said hello."""

    agent: str
    token: str = field(repr=False)
    new_token: str = field(default="", repr=False)


def load(state: Path) -> Identity | None:
    """The identity; None before enrolment. Broken if the file is not one of ours."""
    path = state / FILE
    try:
        fields = json.loads(path.read_text("utf-8"))
        return Identity(agent=fields["agent"], token=fields["token"], new_token=fields.get("new_token", ""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise Broken(f"{path}: no identity: {type(exc).__name__}") from exc


def save(state: Path, identity: Identity) -> None:
    """Make it durable: temporary name, sync, rename, sync."""
    draft = state / f"{FILE}.new"
    handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(asdict(identity), file)
        file.flush()
        os.fsync(file.fileno())
    faults.at("agent.identity_saving")
    draft.rename(state / FILE)
    durable.sync(state)
    faults.at("agent.identity_saved")


def age(state: Path, now: datetime) -> timedelta:
    """How old the identity is."""
    return now - datetime.fromtimestamp((state / FILE).stat().st_mtime, UTC)


def sign_in(state: Path) -> None:
    """Say which process lives on this state; for whoever started it and lost it. Needs the state's lock."""
    own = trees.identify(os.getpid())
    if own is None:
        raise AssertionError("a running process has a start time")
    draft = state / f"{_PROCESS}.new"
    draft.write_text(json.dumps({"pid": own.pid, "started": own.started, "boot_id": boot_id()}), "ascii")
    draft.rename(state / _PROCESS)


def signed_in(state: Path) -> trees.Identity | None:
    """The process that lives on this state; None if there is none."""
    try:
        fields = json.loads((state / _PROCESS).read_text("ascii"))
        found = trees.Identity(pid=fields["pid"], started=fields["started"])
        return found if fields["boot_id"] == boot_id() and trees.is_alive(found) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
