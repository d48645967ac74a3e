"""A program of others in a network namespace, started and found under a name of ours.

Effects: none but those of the program.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from paddock.agent.cables.orders import Orders
from paddock.agent.cables.signing import sign_in
from paddock.core.errors import Broken, Refused

_CLONE_NEWNET = 0x40000000


def enter(namespace: Path) -> None:
    """From now on the calling process is in this network namespace. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, _CLONE_NEWNET) != 0:
            raise Broken(f"{namespace}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(handle)


def main() -> None:
    """Become the command of the orders whose directory and name are the last two arguments."""
    directory, name = Path(sys.argv[-2]), sys.argv[-1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = Orders(directory / f"{name}.orders").peek()
    try:
        lock = sign_in(directory, name)
    except Refused:
        return  # the other one serves it
    enter(Path(told["namespace"]))
    os.set_inheritable(lock, True)  # noqa: FBT003
    os.execvp(told["command"][0], told["command"])
