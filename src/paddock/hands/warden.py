"""The small process that holds the tree of `lease run`, and ends it for certain.

Effects: none that outlive it. It stands in the caller's session and process group, so that the terminal works as if it
were not there: Ctrl-C and Ctrl-Z reach the command by themselves. It ignores them and lets its caller decide; when the
caller dies, it ends the tree. The caller is a subreaper too, so that the tree finds a parent if this process dies.

It knows until when the lease lasts and ends the tree then, unless it is told of a renewal: the caller may be frozen, or
the machine may have slept, and what was lent goes to somebody else all the same.

Words on the channel, one a line. To the warden: `until MOMENT` (the lease was renewed; seconds on CLOCK_BOOTTIME),
`lost` (end the whole tree now: TERM, then KILL), `signal N` (for the command alone), `kill GRACE` (KILL after so many
seconds). From it: `started PID`, then `ended JSON` when nobody is left.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NoReturn

from paddock.hands import trees

_LOOK_EVERY = 0.02
_GIVE_UP_AFTER = 15.0
"""Seconds of KILL after which what still lives is stuck in the kernel or is not ours to kill."""
_LOOK_AT_THE_CLOCK = 0.2
"""Seconds; poll's own clock stands still while the machine sleeps, and the lease's does not."""
_KEPT_OUT = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP)
"""SIGTSTP too: Ctrl-Z stops caller and command, and the lease goes on to its end."""
_OF_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these from its start; the command must not."""


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Warden:
    """One command's tree, from its fork to the end of the last of it."""

    def __init__(self, channel: socket.socket, argv: list[str], *, grace: float, until: float, spare: float) -> None:
        self._channel = channel
        self._grace = grace  # seconds for what the command leaves behind, and for all of it when the caller dies
        self._until = until  # moment at which the tree has to be told to end
        self._spare = spare  # seconds from TERM to KILL then
        self._argv = argv
        self._poll = select.poll()
        self._said = b""
        self._status: int | None = None
        self._is_childless = False
        self._is_over = False
        self._trouble = b""
        self._kill_at: float | None = None
        self._give_up_at: float | None = None

    def hold(self) -> None:
        if _now() >= self._until:
            # We came too late ourselves; nothing was started, and nothing is.
            self._is_over = True
            self._tell(f"ended {json.dumps(self._end_of_it([]))}")
            return
        self._wakeup, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        plain = [number for number in _KEPT_OUT if signal.getsignal(number) is not signal.SIG_IGN]
        for number in plain:
            signal.signal(number, signal.SIG_IGN)
        self._main = self._start(plain)
        _let_go_of_streams()
        self._tell(f"started {self._main}")
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)
        left: list[trees.Identity] = []
        while not (self._status is not None and self._is_childless):
            self._turn()
            if self._give_up_at is not None and _now() >= self._give_up_at:
                left = trees.descendants(os.getpid())
                break
        self._tell(f"ended {json.dumps(self._end_of_it(left))}")

    def _start(self, plain: list[signal.Signals]) -> int:
        """Fork the command, with the signals as the caller got them."""
        report, theirs = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._become(plain, theirs)
        os.close(theirs)
        while part := os.read(report, 4096):
            self._trouble += part
        os.close(report)
        return pid

    def _become(self, plain: list[signal.Signals], report: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            for number in (*plain, *_OF_PYTHON, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.execvp(self._argv[0], self._argv)
        except OSError as exc:
            with suppress(OSError):
                os.write(report, json.dumps([exc.errno, f"{self._argv[0]}: {exc.strerror}"]).encode())
        finally:
            os._exit(127)

    def _turn(self) -> None:
        # What ends the wait: a word of the caller or its end, SIGCHLD, the moment to kill or to look again.
        for handle, _ in self._poll.poll(self._patience()):
            if handle == self._wakeup:
                with suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            else:
                self._hear()
        self._reap()
        now = _now()
        if now >= self._until:
            self._be_over()
        if self._kill_at is not None and now >= self._kill_at:
            self._give_up_at = self._give_up_at or now + _GIVE_UP_AFTER
            trees.kill(lambda: trees.descendants(os.getpid()))

    def _patience(self) -> float:
        if self._give_up_at is not None:
            return _LOOK_EVERY * 1000
        moments = [_now() + _LOOK_AT_THE_CLOCK]
        if not self._is_over:
            moments.append(self._until)
        if self._kill_at is not None:
            moments.append(self._kill_at)
        return max(0.0, min(moments) - _now()) * 1000

    def _hear(self) -> None:
        try:
            data = self._channel.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(self._channel)
            self._end(self._grace)
            return
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            match line.decode("ascii", "replace").split():
                case ["signal", number]:
                    if self._status is None:
                        with suppress(ProcessLookupError, PermissionError):
                            os.kill(self._main, int(number))
                            os.kill(self._main, signal.SIGCONT)
                case ["until", moment]:
                    self._until = float(moment)
                case ["lost"]:
                    self._be_over()
                case ["kill", grace]:
                    self._kill_at = min(self._kill_at or float("inf"), _now() + float(grace))

    def _be_over(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._end(self._spare)

    def _end(self, grace: float) -> None:
        """TERM for everybody, KILL after the grace; the shorter grace wins."""
        trees.terminate(trees.descendants(os.getpid()))
        self._kill_at = min(self._kill_at or float("inf"), _now() + grace)

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    self._is_childless = False
                    break
                if pid == self._main:
                    self._status = status
                    self._end(self._grace)
        except ChildProcessError:
            self._is_childless = True

    def _end_of_it(self, left: list[trees.Identity]) -> dict[str, object]:
        told: dict[str, object] = {"left": [trees.name(one) for one in left], "is_over": self._is_over}
        if self._trouble:
            number, message = json.loads(self._trouble)
            return {**told, "code": 127 if number == errno.ENOENT else 126, "message": message}
        code = 0 if self._status is None else os.waitstatus_to_exitcode(self._status)
        return {**told, "code": 128 - code if code < 0 else code, "message": ""}

    def _tell(self, word: str) -> None:
        with suppress(OSError):  # a caller that is gone has nothing to hear
            self._channel.sendall(word.encode() + b"\n")


def _let_go_of_streams() -> None:
    """The command has them; whoever reads its output must see their end when it ends."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)


def main() -> None:
    """Hold the command that follows where this package lies, the channel's descriptor, grace, until and spare."""
    handle, grace, until, spare, *argv = sys.argv[2:]
    channel = socket.socket(fileno=int(handle))
    channel.set_inheritable(False)
    trees.become_subreaper()
    trees.call_myself("paddock-warden")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    Warden(channel, argv, grace=float(grace), until=float(until), spare=float(spare)).hold()
