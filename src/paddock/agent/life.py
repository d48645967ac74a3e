"""What the agent's own life is like, for those of its parts that may end or replace it.

Effects: none.
"""

import asyncio
from collections.abc import Callable

from paddock.wire.hello import Hello


def _none() -> int:
    return 0


class Life:
    """One process from birth to end. Shared by the agent, its worker, and the skills that act on the agent itself."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        """Set by whoever wants it to end: it finishes what it is at, then leaves."""
        self.welcomed = asyncio.Event()
        """The server took a hello of this process."""
        self.busy = ""
        """Why nothing new is taken; empty while something is."""
        self.successor: tuple[str, ...] = ()
        """The command line that this process becomes once it has ended; empty: it only ends."""
        self.works: Callable[[], int] = _none
        """How many commands run inside of this process, and would be lost with it."""
        self.hello: Callable[[], Hello] | None = None
        """What it would say now to begin a session; None for one that shows no token."""

    def become(self, words: tuple[str, ...]) -> None:
        """End, and go on as another program in the same process."""
        self.successor = words
        self.ended.set()
