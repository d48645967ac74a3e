"""The warm process: everything loaded, it forks one keeper for each order.

Effects: none of its own; what a fork does is the keeper's. It ends with the socket of the agent that started it;
its keepers, in sessions of their own, do not.
"""

import gc
import os
import signal
import socket
import sys
from array import array
from contextlib import suppress

from paddock.hands import groups, keeper, trees

GROUPING = "--grouping"
"""Among the arguments: tasks get control groups, where they can be had."""

_FILES = 3  # with each order: the channel to its maker, the order, the stdin


def main() -> None:
    """Serve the socket whose descriptor is the last argument."""
    orders = socket.socket(fileno=int(sys.argv[-1]))
    trees.call_myself("paddock-warm")
    os.chdir("/")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: a keeper's end is read from its record
    gc.disable()
    gc.collect()
    if GROUPING in sys.argv:
        keeper.stand_on(groups.settle())
    gc.freeze()  # so that no fork copies pages only because a collection touched them
    while (files := _receive(orders)) is not None:
        _fork(files)


def _receive(orders: socket.socket) -> list[int] | None:
    """The descriptors of the next order; None at the end."""
    message, ancillary, _, _ = orders.recvmsg(1, socket.CMSG_SPACE(_FILES * array("i").itemsize))
    if not message:
        return None
    files = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    return files.tolist()


def _fork(files: list[int]) -> None:
    if len(files) == _FILES:
        channel, order, stdin = files
        try:
            pid = os.fork()
        except OSError as exc:
            with suppress(OSError), socket.socket(fileno=os.dup(channel)) as link:
                link.sendall(f"broken fork: {exc.strerror}\n".encode())
        else:
            if pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                keeper.run(channel=channel, order=order, stdin=stdin)
    for file in files:
        os.close(file)


if __name__ == "__main__":
    main()
