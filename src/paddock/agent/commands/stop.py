"""paddock agent stop: tells the agent of this machine to leave, and waits until it has.

Effects: idempotent; tasks go on under their keepers.
"""

import argparse
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.agent.commands import place
from paddock.agent.commands.grammar import Commands, command, count, say
from paddock.core.errors import Broken, Missing, Refused

if TYPE_CHECKING:
    from paddock.hands.trees import Identity

_LOOK_EVERY = 0.02
_SYSTEMD_WITHIN = 30.0


def add(commands: Commands) -> None:
    """Declare it."""
    stop = command(
        commands,
        "stop",
        "tell it to leave and wait until it has; its tasks go on. Exits 4 if none runs",
        example="paddock agent stop",
    )
    place.add(stop)
    stop.add_argument("--within", type=count, default=15, metavar="SECONDS", help="how long to wait (default: 15)")
    stop.set_defaults(act=_stop)


def unit_of(pid: int) -> str:
    """The systemd service whose main process this is; empty if there is none."""
    with suppress(OSError):
        for unit in services(Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace")):
            # What somebody started by hand below a service of another kind is not that service.
            if _says("show", "-P", "MainPID", unit) == str(pid):
                return unit
    return ""


def services(cgroup: str) -> list[str]:
    """The services in the path of a control group."""
    return [part for part in cgroup.strip().split("/") if part.endswith(".service")]


def _says(*words: str) -> str:
    try:
        return subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, check=False, timeout=_SYSTEMD_WITHIN
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _systemctl(unit: str, found: "Identity") -> None:
    done = subprocess.run(["systemctl", "stop", unit], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"systemctl stop {unit}: {' '.join(done.stderr.split())[:300]}", hint="sudo")
    _await_end(found, 1)
    say(f"{unit} is stopped until the next boot, or: systemctl start {unit}")


def _stop(chosen: argparse.Namespace) -> None:
    from paddock.agent import identity
    from paddock.hands import trees

    state = place.state(chosen)
    found = identity.signed_in(state)
    if found is None:
        raise Missing(f"{state}: no agent runs on it")
    unit = unit_of(found.pid)
    if unit:
        # Systemd would start it again: that is what it is told to do when the agent ends.
        return _systemctl(unit, found)
    # By a descriptor: a number could be somebody else's by now.
    try:
        handle = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return say(f"process {found.pid} is gone")
    try:
        if trees.is_alive(found):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as exc:
        raise Refused(f"process {found.pid}: it is not ours to stop", hint="sudo") from exc
    finally:
        os.close(handle)
    _await_end(found, chosen.within)


def _await_end(found: "Identity", within: int) -> None:
    from paddock.hands import trees

    deadline = time.monotonic() + within
    while trees.is_alive(found):
        if time.monotonic() > deadline:
            raise Broken(f"process {found.pid}: still there after {within} s", hint="paddock agent status")
        time.sleep(_LOOK_EVERY)
    say(f"process {found.pid} is gone")
