"""The end of an agent: identity, journal and spool go, so that no image holds them.

Effects: journaled by one file in the state directory. `asked`: the work is done, and the server does not know it yet.
`begun`: the server knows, and whoever finds this removes what is left before anything else; the file itself goes last.
"""

import logging
import shutil
from contextlib import suppress
from pathlib import Path

from paddock.agent import durable, identity
from paddock.agent.settings import Settings
from paddock.hands import faults

_log = logging.getLogger(__name__)

FILE = "retiring"
BUSY = "agent: is being retired"
_KEPT = frozenset({FILE, "lock"})  # held while we are at it


def ask(state: Path, task: str) -> None:
    """The identity goes once the server knows the end of this task."""
    durable.write(state / FILE, {"task": task, "step": "asked"})


def is_asked(state: Path, task: str = "") -> bool:
    """Whether it goes, by any task or by this one."""
    found = durable.read(state / FILE)
    return isinstance(found, dict) and (not task or found.get("task") == task)


def begin(state: Path, task: str) -> None:
    """The server knows: from here on there is no way back."""
    faults.at("retiring.beginning")
    durable.write(state / FILE, {"task": task, "step": "begun"})
    faults.at("retiring.begun")


def is_begun(state: Path) -> bool:
    """Whether what is here is what was not removed yet."""
    found = durable.read(state / FILE)
    return isinstance(found, dict) and found.get("step") == "begun"


def finish(chosen: Settings) -> None:
    """Remove all that is this agent's. Needs the state's lock; killed anywhere, the next birth goes on."""
    state = chosen.state
    durable.remove(state / identity.FILE)
    durable.remove(state / f"{identity.FILE}.new")
    faults.at("retiring.identity_gone")
    for path in sorted(state.iterdir()):
        if path.name not in _KEPT:
            _remove(path)
    # Elsewhere tasks may have been let start in a directory that is not ours to empty.
    if state.parent in chosen.work.parents and (state.parent / "etc/agent.conf").is_file() and chosen.work.is_dir():
        for path in chosen.work.iterdir():
            _remove(path)
    durable.sync(state)
    faults.at("retiring.state_gone")
    durable.remove(state / FILE)
    faults.at("retiring.done")
    _log.warning("the agent's identity and journal are gone", extra={"state": str(state)})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    with suppress(FileNotFoundError):
        path.unlink()
