"""What only the kernel can be told: entropy, time, name, cards; or paper, for a directory.

Effects: idempotent, but for the clock, which is set to what is true now.
"""

import fcntl
import os
import socket
import struct
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from paddock.agent.parking import cards
from paddock.agent.skills import tools
from paddock.core.errors import Broken, PaddockError

_RNDADDENTROPY = 0x40085203
_RNDRESEEDCRNG = 0x5207
_RELOADS_WITHIN = 10.0
_RESTARTS_WITHIN = 120.0
_GROUPS = Path("/sys/fs/cgroup")


class Kernel(Protocol):
    """Of the machine that is woken. Real: Real; Paper where `rootfs` is a directory: it notes what it is told."""

    def seed(self, entropy: bytes) -> None:
        """Nothing random is drawn from what it was before, by anybody, once this returned."""

    def set_clock(self, moment: datetime) -> None:
        """It is that time now."""

    def set_name(self, hostname: str) -> None:
        """The machine is called so."""

    def sync(self) -> None:
        """All that was written stays."""

    def reload(self) -> None:
        """Whoever sees to the networks reads anew what is to be: else it takes addresses away that it does not know."""

    def rescan(self) -> None:
        """Look for cards that came without a word: those of a fork. Takes its time."""

    def join(self, card: int, address: str) -> None:
        """A card, by its index, is up and has this address; empty: none."""

    def restart(self, services: tuple[str, ...]) -> None:
        """They begin anew, in one go. Broken, with its words, where one does not start."""

    def hold(self) -> None:
        """Nobody but this process runs, as far as that can be had: nobody draws what another fork draws, too."""

    def let_go(self) -> None:
        """Everybody runs again. Also where nobody was held."""


class Real:
    """This machine's own."""

    def seed(self, entropy: bytes) -> None:
        """See Kernel. Needs CAP_SYS_ADMIN."""
        handle = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
        try:
            # A buffer that can be changed may be longer than the 1 KiB that Python copies.
            pool = bytearray(struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
            fcntl.ioctl(handle, _RNDADDENTROPY, pool)
            fcntl.ioctl(handle, _RNDRESEEDCRNG)
        finally:
            os.close(handle)

    def set_clock(self, moment: datetime) -> None:
        """See Kernel. Needs CAP_SYS_TIME."""
        time.clock_settime(time.CLOCK_REALTIME, moment.timestamp())

    def set_name(self, hostname: str) -> None:
        """See Kernel."""
        socket.sethostname(hostname)

    def sync(self) -> None:
        """See Kernel."""
        os.sync()

    def reload(self) -> None:
        """See Kernel."""
        if Path("/run/systemd/netif").is_dir():
            with suppress(PaddockError):  # where it does not run, nobody takes anything away
                tools.attempt("networkctl", "reload", limit=_RELOADS_WITHIN)

    def rescan(self) -> None:
        """See Kernel."""
        Path("/sys/bus/pci/rescan").write_text("1", "ascii")

    def join(self, card: int, address: str) -> None:
        """See Kernel."""
        cards.join(card, address)

    def restart(self, services: tuple[str, ...]) -> None:
        """See Kernel."""
        done = tools.attempt("systemctl", "restart", *services, limit=_RESTARTS_WITHIN)
        if done.code != 0:
            raise Broken(f"restart {' '.join(services)}: {done.last_words}")

    def hold(self) -> None:
        """See Kernel: services stand still, and where something else can run, this process comes first."""
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        self._freeze("1")

    def let_go(self) -> None:
        """See Kernel."""
        self._freeze("0")
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def _freeze(self, word: str) -> None:
        with suppress(OSError):
            own = str(_GROUPS) + Path("/proc/self/cgroup").read_text("ascii").rpartition("::")[2].strip()
            for pattern in ("system.slice/*/cgroup.freeze", "user.slice/cgroup.freeze"):
                for switch in _GROUPS.glob(pattern):
                    if not own.startswith(str(switch.parent)):
                        with suppress(OSError):
                            switch.write_text(word, "ascii")


class Paper:
    """Notes, a line each, in a file below the machine's directory: it shares its kernel with others."""

    def __init__(self, rootfs: Path) -> None:
        self.told = rootfs / "run/paddock/told"

    def seed(self, entropy: bytes) -> None:
        """See Kernel."""
        self._note(f"seed {len(entropy)}")

    def set_clock(self, moment: datetime) -> None:
        """See Kernel."""
        self._note(f"clock {moment.isoformat()}")

    def set_name(self, hostname: str) -> None:
        """See Kernel."""
        self._note(f"name {hostname}")

    def sync(self) -> None:
        """See Kernel."""
        self._note("sync")

    def reload(self) -> None:
        """See Kernel."""
        self._note("reload")

    def rescan(self) -> None:
        """See Kernel."""
        self._note("rescan")

    def join(self, card: int, address: str) -> None:
        """See Kernel."""
        self._note(f"join {card} {address or 'none'}")

    def restart(self, services: tuple[str, ...]) -> None:
        """See Kernel."""
        self._note(f"restart {' '.join(services)}")

    def hold(self) -> None:
        """See Kernel."""
        self._note("hold")

    def let_go(self) -> None:
        """See Kernel."""
        self._note("let go")

    def _note(self, line: str) -> None:
        self.told.parent.mkdir(parents=True, exist_ok=True)
        with self.told.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


def of(rootfs: Path) -> Kernel:
    """The kernel of the machine whose files are there."""
    return Real() if rootfs == Path("/") else Paper(rootfs)
