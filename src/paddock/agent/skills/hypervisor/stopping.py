"""Long work in a thread, and programs that it runs, which end soon when it is cancelled.

Effects: those of the work.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from paddock.agent.skills import tools
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken

T = TypeVar("T")
_LAST_WORDS = 500


class Stop:
    """Told from the loop, heard in the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = threading.Event()
        self._heard: Callable[[], None] | None = None

    def set(self) -> None:
        """The work is to end. Again is no harm."""
        with self._lock:
            self._told.set()
            if self._heard is not None:
                self._heard()

    def check(self) -> None:
        """Broken if the work is to end. Nobody reads it: who waited was cancelled."""
        if self._told.is_set():
            raise Broken("this work: was stopped")

    def wait(self, seconds: float) -> None:
        """Do nothing for a while. Broken at once if the work is to end."""
        self._told.wait(seconds)
        self.check()

    def attend(self, heard: Callable[[], None] | None) -> None:
        """Call this when told to end, at once if that was already; None: nothing any more."""
        with self._lock:
            self._heard = heard
            if self._told.is_set() and heard is not None:
                heard()

    def run(self, *argv: str, package: str = "") -> None:
        """A program, to its end. Broken, with its last words, if it fails. It dies with this agent."""
        program = tools.find(argv[0], package=package)
        words = (tools.find("setpriv"), "--pdeathsig", "KILL", "--", program, *argv[1:])
        with _started(words) as child:
            self.attend(lambda: _kill(child))
            said = child.stdout.read() if child.stdout else b""
            child.wait()
            self.attend(None)
        self.check()
        if child.returncode != 0:
            told = " · ".join(said.decode("utf-8", "replace").split("\n")).strip(" ·")[-_LAST_WORDS:]
            raise Broken(f"{argv[0]}: {told or f'exit {child.returncode}'}")


def _started(words: Sequence[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=tools.ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


async def stoppable(act: Callable[[Stop], T]) -> T:
    """In a thread. Cancelled, it is told to stop, and this waits until it has: nothing acts later."""
    stop = Stop()
    job = asyncio.ensure_future(in_thread(lambda: act(stop)))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({job})
        if not job.cancelled():
            job.exception()  # looked at: what was stopped may fail as it likes
        raise
