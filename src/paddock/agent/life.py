"""What the agent's own life is like, for those of its parts that may end or replace it.

Effects: none; becoming another program keeps the process, its working directory and its environment.
"""

import asyncio
import os
from collections.abc import Callable, Mapping

from paddock.core.host import Stored
from paddock.core.machine import Size
from paddock.hands.keeper import boot_id
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
        self.hello: Callable[[], Hello | None] = lambda: None
        """What it would say now to begin a session; None while it has not been welcome, or shows no token."""
        self.environment = dict(os.environ)
        """As it was at birth: some of it is taken out, so that tasks do not find it."""
        self.wake_id = ""
        """Of a machine that was woken: forks of one template are the same boot to their kernels, and to nobody else."""
        self.settled = asyncio.Event()
        """The machine is whole. Cleared for as long as a woken one still gets its cards and services."""
        self.settled.set()
        self.addresses: tuple[str, ...] | None = None
        """Those that its host gave it, where one did; its cards may not have them yet. None: whoever asks looks."""
        self.variables: Mapping[str, str] = {}
        """What its host gives every task of the machine: how it gets outside."""
        self.capacity: Callable[[], Size | None] = lambda: None
        """What machines may have of this host; set by the skill that makes them from images."""
        self.stored: Callable[[], Stored | None] = lambda: None
        """What images and templates take of its disk, as it was counted last; set by the same."""
        self._boot = boot_id()
        self._at_welcome: list[Callable[[], None]] = []

    def boot_id(self) -> str:
        """Names the machine's boot, for others: the kernel's own, joined with the wake if there was one."""
        return f"{self._boot}+{self.wake_id}" if self.wake_id else self._boot

    def at_welcome(self, act: Callable[[], None]) -> None:
        """Do this once, when the server has taken the first hello of this process."""
        self._at_welcome.append(act)

    def welcome(self) -> None:
        """The server took a hello."""
        acts, self._at_welcome = self._at_welcome, []
        for act in acts:
            act()
        self.welcomed.set()

    def become(self, words: tuple[str, ...]) -> None:
        """End, and go on as another program in the same process."""
        self.successor = words
        self.ended.set()

    def stay(self) -> None:
        """It was asked to end, by who means just that: no successor."""
        self.successor = ()

    def succeed(self) -> None:
        """Become the successor, if there is one, now; whatever still runs here is gone, as if killed."""
        if self.successor:
            os.execve(self.successor[0], self.successor, self.environment)
