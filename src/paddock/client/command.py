"""Runs a command for as long as a lease is ours, and knows when its tree is gone.

Effects: none that outlive it. The lease is the caller's: nothing here gives it back.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from paddock.client.sync import Held
from paddock.core.errors import Broken
from paddock.hands import trees

_ROOT = Path(__file__).parents[2]
_WARDEN = "import sys; sys.path.insert(0, sys.argv[1]); from paddock.hands import warden; warden.main()"
_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LOST = signal.Signals(signal.SIGRTMIN)
_LOOK = 1.0
_BY_A_PROCESS = 0
"""Greater codes of a signal are the kernel's own, the terminal's among them."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended. `code` as a shell says it; `left`: who of its tree still lives, nobody if all went well."""

    code: int
    message: str = ""
    left: Sequence[str] = field(default_factory=tuple)
    interrupted: bool = False
    is_held: bool = True
    """Whether the tree was held to its end; False: the process that held it died, and the tree was ended by us."""


class Command:
    """One command under one lease; use once, on the main thread."""

    def __init__(self, argv: Sequence[str], *, environment: Mapping[str, str], grace: float) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self._grace = grace
        self._heard = b""
        self._ended: Ended | None = None
        self._was_interrupted = False
        self._is_ending = False
        self._is_lost = False
        self.has_started = False
        """Whether there may be a tree: from here on, only `run` knows when it is gone."""

    def tell_lost(self) -> None:
        """For another thread: wake the wait, the lease is lost."""
        os.kill(os.getpid(), _LOST)

    def run(self, held: Held, *, say: Callable[[str], None] = lambda text: None) -> Ended:
        """Run it until its tree is gone. Ends it when the lease is lost or a signal asks for it.

        This process becomes a subreaper, for good, and takes its signals by waiting for them meanwhile.
        """
        trees.become_subreaper()
        signals = {*_HEARD, signal.SIGCHLD, _LOST}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            with self._started() as warden:
                self._watch(held, warden, signals, say)
                warden.wait()
            return self._conclude()
        finally:
            signal.signal(_LOST, signal.SIG_IGN)  # word of a loss may still come, and would end us
            # What came meanwhile was meant for the command.
            while signal.sigtimedwait(signals, 0) is not None:
                pass
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _started(self) -> "subprocess.Popen[bytes]":
        self.has_started = True
        self._channel, theirs = socket.socketpair()
        with theirs:
            try:
                return subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        _WARDEN,
                        str(_ROOT),
                        str(theirs.fileno()),
                        f"{self._grace:.3f}",
                        *self._argv,
                    ],
                    pass_fds=[theirs.fileno()],
                    env=self._environment,
                )
            except OSError as exc:
                raise Broken(f"warden: {exc.strerror}") from exc

    def _watch(
        self, held: Held, warden: "subprocess.Popen[bytes]", signals: set[signal.Signals], say: Callable[[str], None]
    ) -> None:
        while warden.poll() is None and self._ended is None:
            # Waits for: a signal to this process, the end of the warden, word of a lost lease; looks at the clock.
            came = signal.sigtimedwait(signals, _LOOK)
            if came is not None and came.si_signo in _HEARD:
                self._pass_on(signal.Signals(came.si_signo), is_terminal=came.si_code > _BY_A_PROCESS, say=say)
            if held.loss is not None and not self._is_lost:
                self._is_lost = True
                say(f"{held.loss.message}: ending {self._argv[0]}")
                # What is left of the ttl, and no more: then the environment is somebody else's.
                self._say(f"end {min(self._grace, held.grace) / 2:.3f}")
            self._listen()

    def _pass_on(self, number: signal.Signals, *, is_terminal: bool, say: Callable[[str], None]) -> None:
        if is_terminal and _reads_keys():
            return  # a program that reads single keys heard Ctrl-C as one of them, and knows what it means by it
        if not is_terminal:
            # The terminal tells its whole foreground group; anybody else told only us.
            self._say(f"signal {int(number)}")
        self._was_interrupted = True
        if not self._is_ending:
            self._is_ending = True
            say(f"{number.name}: waiting {self._grace:g} s for {self._argv[0]} to end")
        self._say(f"kill {self._grace:.3f}")

    def _say(self, word: str) -> None:
        with suppress(OSError):
            self._channel.sendall(word.encode() + b"\n")

    def _listen(self, *, limit: float = 0.0) -> None:
        """Take what the warden said. `limit`: seconds to wait for its end."""
        until = time.monotonic() + limit
        while self._ended is None:
            ready, _, _ = select.select([self._channel], [], [], max(0.0, until - time.monotonic()))
            data = self._channel.recv(65536) if ready else b""
            if not data:
                return
            *lines, self._heard = (self._heard + data).split(b"\n")
            for line in lines:
                word, _, rest = line.partition(b" ")
                if word == b"ended":
                    told = json.loads(rest)
                    self._ended = Ended(code=told["code"], message=told["message"], left=tuple(told["left"]))

    def _conclude(self) -> Ended:
        with self._channel, suppress(OSError):
            self._listen(limit=1.0)
        left = self._end_orphans()
        if self._ended is None:
            return Ended(code=137, message="the process that held the command was killed", left=left, is_held=False)
        return Ended(
            code=self._ended.code,
            message=self._ended.message,
            left=tuple(dict.fromkeys((*self._ended.left, *left))),
            interrupted=self._was_interrupted,
        )

    def _end_orphans(self) -> tuple[str, ...]:
        """Whoever of the tree came to us because the warden is gone; nobody, if it did its work."""
        giving_up = time.monotonic() + 10.0
        while True:
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            found = trees.descendants(os.getpid())
            if not found or time.monotonic() > giving_up:
                return tuple(trees.name(one) for one in found)
            trees.kill(lambda: trees.descendants(os.getpid()))
            time.sleep(0.02)


def _reads_keys() -> bool:
    """Whether the terminal gives single keys to whoever reads: an editor, a prompt with history."""
    try:
        mode = termios.tcgetattr(0)[3]
    except (termios.error, OSError):
        return False
    return not mode & termios.ICANON
