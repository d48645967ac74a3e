"""paddock agent stop: tells the agent of this machine to leave, and waits until it has.

Effects: idempotent; tasks go on under their keepers.
"""

import argparse
import os
import signal
import time

from paddock.agent.commands import place
from paddock.agent.commands.grammar import Commands, command, count, say
from paddock.core.errors import Broken, Missing, Refused

_LOOK_EVERY = 0.02


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


def _stop(chosen: argparse.Namespace) -> None:
    from paddock.agent import identity
    from paddock.hands import trees

    state = place.state(chosen)
    found = identity.signed_in(state)
    if found is None:
        raise Missing(f"{state}: no agent runs on it")
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
    deadline = time.monotonic() + chosen.within
    while trees.is_alive(found):
        if time.monotonic() > deadline:
            raise Broken(f"process {found.pid}: still there after {chosen.within} s", hint="paddock agent status")
        time.sleep(_LOOK_EVERY)
    say(f"process {found.pid} is gone")
