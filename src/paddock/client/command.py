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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.client.errors import LeaseLost
from paddock.client.sync import Held
from paddock.core.errors import Broken
from paddock.hands import trees

_ROOT = Path(__file__).parents[2]
_WARDEN = "import sys; sys.path.insert(0, sys.argv[1]); from paddock.hands import warden; warden.main()"
_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WAITED_FOR = {*_HEARD, signal.SIGCHLD}
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
    is_over: bool = False
    """Whether it was ended because no renewal was told in time; this process may have been frozen meanwhile."""


class Command:
    """One command under one lease; a context, used once and on the main thread.

    From entering on, this process takes its signals by waiting for them: no thread that starts within takes one.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        grace: float,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._argv = list(argv)
        self._environment = dict(environment)
        self._grace = grace
        self._tell = say
        self._saying = threading.Lock()
        self._channel: socket.socket | None = None
        self._blocked: set[int | signal.Signals] | None = None
        self._heard = b""
        self._ended: Ended | None = None
        self._was_interrupted = False
        self._is_ending = False
        self._is_lost = False
        self.has_started = False
        """Whether there may be a tree: from here on, only `run` knows when it is gone."""

    def __enter__(self) -> Self:
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hear_again()

    def tell_renewed(self, until: float) -> None:
        """For any thread: the lease is ours until then, seconds on CLOCK_BOOTTIME. At that moment the tree is ended."""
        self._say(f"until {until:.6f}")

    def tell_lost(self, loss: LeaseLost) -> None:
        """For any thread: the lease is lost, the tree has to go now."""
        if self._say("lost") and not self._is_lost:
            self._is_lost = True
            self._tell(f"{loss.message}: ending {self._argv[0]}")

    def run(self, held: Held) -> Ended:
        """Run it until its tree is gone. Ends it when the lease is lost or a signal asks for it.

        This process becomes a subreaper, for good. LeaseLost, and nothing was started, where it is lost already.
        """
        trees.become_subreaper()
        try:
            held.check()
            with self._started(held) as warden:
                if held.loss is not None:
                    self.tell_lost(held.loss)  # it may have been lost when there was nobody to tell
                self._watch(warden)
                warden.wait()
            return self._conclude()
        finally:
            if self._channel is not None:
                self._channel.close()
            if self.has_started:
                # What came meanwhile was meant for the command.
                while signal.sigtimedwait(_WAITED_FOR, 0) is not None:
                    pass
            self._hear_again()

    def _hear_again(self) -> None:
        if self._blocked is not None:
            blocked, self._blocked = self._blocked, None
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _started(self, held: Held) -> "subprocess.Popen[bytes]":
        self.has_started = True
        # First the channel, then the term: what is renewed from here on is told.
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
                        f"{held.over:.6f}",
                        # Of what is left of the ttl then, no more than half: afterwards it is somebody else's.
                        f"{min(self._grace, held.grace) / 2:.3f}",
                        *self._argv,
                    ],
                    pass_fds=[theirs.fileno()],
                    env=self._environment,
                )
            except OSError as exc:
                self.has_started = False
                raise Broken(f"warden: {exc.strerror}") from exc

    def _watch(self, warden: "subprocess.Popen[bytes]") -> None:
        while warden.poll() is None and self._ended is None:
            # Waits for: a signal to this process, the end of the warden. A lost lease is the warden's own affair.
            came = signal.sigtimedwait(_WAITED_FOR, _LOOK)
            self._listen()
            if came is not None and came.si_signo in _HEARD and self._ended is None:
                self._pass_on(signal.Signals(came.si_signo), is_terminal=came.si_code > _BY_A_PROCESS)

    def _pass_on(self, number: signal.Signals, *, is_terminal: bool) -> None:
        if is_terminal and _reads_keys():
            return  # a program that reads single keys heard Ctrl-C as one of them, and knows what it means by it
        if not is_terminal:
            # The terminal tells its whole foreground group; anybody else told only us.
            self._say(f"signal {int(number)}")
        self._was_interrupted = True
        if not self._is_ending:
            self._is_ending = True
            self._tell(f"{number.name}: waiting {self._grace:g} s for {self._argv[0]} to end")
        self._say(f"kill {self._grace:.3f}")

    def _say(self, word: str) -> bool:
        """Whether there is a warden to tell it to."""
        with self._saying, suppress(OSError):
            if self._channel is not None:
                self._channel.sendall(word.encode() + b"\n")
                return True
        return False

    def _listen(self, *, limit: float = 0.0) -> None:
        """Take what the warden said. `limit`: seconds to wait for its end."""
        assert self._channel is not None
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
                    self._ended = Ended(
                        code=told["code"],
                        message=told["message"],
                        left=tuple(told["left"]),
                        is_over=told["is_over"],
                    )

    def _conclude(self) -> Ended:
        with suppress(OSError):
            self._listen(limit=1.0)
        left = self._end_orphans()
        if self._ended is None:
            return Ended(code=137, message="the process that held the command was killed", left=left, is_held=False)
        return Ended(
            code=self._ended.code,
            message=self._ended.message,
            left=tuple(dict.fromkeys((*self._ended.left, *left))),
            interrupted=self._was_interrupted,
            is_over=self._ended.is_over,
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
