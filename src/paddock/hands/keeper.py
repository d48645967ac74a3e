"""The small process that holds one task's process tree and outlives the agent.

Effects: journaled. The record `keeper` names the process before anybody may open the gate; the gate opens only by a
word of whoever asked for it; the record `exit` is written when the whole tree is gone, and only then is the end told.

Words on `control`, one a line. To the keeper: `go` (from whoever asked for it only), `cancel <grace seconds>`. From it:
`held <pid> <started>`, `open`, `more` (new output; at once, then at most one in 10 ms), `left` (the main process of a
background task ended, the rest goes on), `done`, or, when it could not even be held, `broken <why>`, `full <why>` if
the disk had no room for its records, or `refused <why>` if a limit would not hold.
"""

import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from paddock.core.errors import Broken, PaddockError, Refused
from paddock.hands import exit as exits
from paddock.hands import faults, groups, trees
from paddock.hands.child import OPEN, close_all_but, wait_and_exec
from paddock.hands.control import CONTROL, Control
from paddock.hands.exit import Exit, Reason
from paddock.hands.order import Order
from paddock.hands.pump import Pump

RECORD = "keeper"
_CHUNK = 256 * 1024
_MORE_EVERY = 0.01
_LOOK_EVERY = 0.02  # while a tree is being killed
_SLEEP_AT_MOST = 10.0  # poll's clock stands still while the machine sleeps, the limit's does not
_AGAIN = 0.5  # until a record that a full disk did not take is written again
_TOLD_WITHIN = 1.0  # in which a machine that goes down has told all of its processes
_KILLING_AT_MOST = 30.0  # after the first KILL; what still lives then is stuck in the kernel or is not ours to kill


def boot_id() -> str:
    """Names the present boot of this machine: a pid of another boot means nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


_ground: groups.Ground | None = None


def stand_on(ground: groups.Ground | None) -> None:
    """Where tasks that are told no group get theirs; said once, before the first fork."""
    global _ground
    _ground = ground


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Keeper:
    """One task's tree, from the fork of its main process to its exit record."""

    def __init__(self, order: Order, *, channel: socket.socket, stdin: int) -> None:
        self._order = order
        self._stdin = stdin
        self._poll = select.poll()
        self._control = Control(channel, self._poll)
        self._reason: Reason | None = None
        self._message = ""
        self._is_open = False
        self._started: float | None = None
        self._status: int | None = None  # what waitpid said of the main process
        self._is_childless = False
        self._is_stopped = False
        self._was_terminated = False
        self._lingered = 0
        self._has_left = False
        self._limit_at: float | None = None
        self._kill_at: float | None = None
        self._look_at: float | None = None
        self._give_up_at: float | None = None
        self._more_at: float | None = None
        self._last_more = 0.0

    def hold(self) -> None:
        """Fork the child, wait for the gate, hold the tree, record its end."""
        directory = self._order.directory
        self._pump = Pump(directory, limit=self._order.output_limit)  # refuses a directory that has been used
        exits.reserve(directory)
        self._make_group()
        self._watch_signals()
        self._fork_child()
        self._control.listen(directory)
        self._write_record()
        faults.at("keeper.held")
        self._control.tell(self._held())
        try:
            while not self._is_over():
                self._turn()
        except Exception as exc:  # a fault of our own must not leave the tree unheld or the task without an end
            self._break(f"keeper: {_explain(exc)}")
        self._drain()
        self._heed_shutdown()
        self._pump.close()
        faults.at("keeper.ended")
        self._write_exit()
        faults.at("keeper.recorded")
        self._control.tell("done")

    # Before the gate

    def _watch_signals(self) -> None:
        self._wakeup, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        self._poll.register(self._wakeup, select.POLLIN)

    def _make_group(self) -> None:
        group = self._order.cgroup or (_ground.group_of(self._order.directory) if _ground is not None else None)
        limits = self._order.limits
        if group is not None:
            groups.make(group, limits, why=_ground.why if _ground is not None else "")
        elif limits.in_group:
            raise Refused(f"{limits.in_group[0]}: cannot be limited, here is no control group of version 2 to write to")
        self._order = replace(self._order, cgroup=group)

    def _fork_child(self) -> None:
        gate, self._gate = os.pipe2(os.O_CLOEXEC)
        self._report, report = os.pipe2(os.O_CLOEXEC)
        self._output, output = os.pipe2(os.O_CLOEXEC)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._main = os.fork()
        if self._main == 0:
            wait_and_exec(self._order, gate=gate, report=report, stdin=self._stdin, output=output)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for handle in (gate, report, output, self._stdin):
            os.close(handle)
        for handle in (self._report, self._output):
            os.set_blocking(handle, False)
            self._poll.register(handle, select.POLLIN)
        self._told = bytearray()
        with suppress(OSError):  # when memory is short, the task goes before the one that would tell of it
            Path("/proc/self/oom_score_adj").write_text("-500")

    def _write_record(self) -> None:
        """Whole or not at all, but not synced: after a power cut its pids would mean nothing."""
        own = trees.identify(os.getpid())
        if own is None:
            raise AssertionError("a running process has a start time")
        self._own = own
        record = {
            "task": self._order.task,
            "pid": own.pid,
            "started": own.started,
            "boot_id": boot_id(),
            "cgroup": None if self._order.cgroup is None else str(self._order.cgroup),
        }
        draft = self._order.directory / f"{RECORD}.new"
        draft.write_text(json.dumps(record), "utf-8")
        os.link(draft, self._order.directory / RECORD)  # unlike rename, refuses to replace another keeper's
        draft.unlink()

    # One turn of the loop

    def _is_over(self) -> bool:
        """The tree is gone: nobody below us, nobody in the group."""
        if self._status is None or not self._is_childless:
            return False
        return self._order.cgroup is None or not trees.Cgroup(path=self._order.cgroup).procs()

    def _turn(self) -> None:
        # What ends the wait: a word or its end on a connection, a new connection, output, the child's report,
        # SIGCHLD or SIGTERM (through the wakeup pipe), or the nearest of limit, kill, look, give up, more.
        for handle, _ in self._poll.poll(self._patience()):
            if handle == self._output:
                self._read_output()
            elif handle == self._wakeup:
                with suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            elif handle == self._report:
                self._read_report()
            else:
                self._hear(handle)
        self._reap()
        self._keep_time()

    def _patience(self) -> float | None:
        """Milliseconds for poll."""
        now = _now()
        moments = (self._limit_at, self._kill_at, self._look_at, self._give_up_at, self._more_at)
        wanted = [moment - now for moment in moments if moment is not None]
        return max(0.0, min([*wanted, _SLEEP_AT_MOST])) * 1000 if wanted else None

    def _keep_time(self) -> None:
        now = _now()
        if self._more_at is not None and now >= self._more_at:
            self._tell_more(now)
        if self._limit_at is not None and now >= self._limit_at:
            self._limit_at = None
            self._end(Reason.LIMIT, self._order.grace.total_seconds())
        if self._reason is not None and not self._was_terminated:
            self._was_terminated = True
            self._terminate()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._look_at = now
            self._give_up_at = now + _KILLING_AT_MOST
        if self._look_at is not None and now >= self._look_at:
            self._kill()
            self._look_at = now + _LOOK_EVERY
        if self._give_up_at is not None and now >= self._give_up_at:
            raise Broken("some of the tree would not die")

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    self._is_childless = False
                    break
                if pid == self._main:
                    self._status = status
        except ChildProcessError:
            self._is_childless = True
        if self._status is not None and self._reason is None:
            self._after_main()

    def _after_main(self) -> None:
        """The main process ended by itself."""
        if not self._is_open:
            self._message = "its process was killed at the gate"
            self._end(Reason.BROKEN, 0.0)
        elif self._is_childless or not self._order.background:
            self._end(Reason.EXITED, self._order.grace.total_seconds())
        elif not self._has_left:
            self._has_left = True
            self._lingered = len(self._everyone())
            self._control.tell("left")

    # The tree's end

    def _end(self, reason: Reason, grace: float) -> None:
        """End the tree: the first reason stays, the shorter grace wins. It only notes: a signal handler calls it."""
        if self._reason is None:
            self._reason = reason
        kill_at = _now() + (grace if self._is_open else 0.0)
        if self._look_at is None and (self._kill_at is None or kill_at < self._kill_at):
            self._kill_at = kill_at

    def _stop(self) -> None:
        self._is_stopped = True
        self._end(Reason.STOPPED, self._order.grace.total_seconds())

    def _heed_shutdown(self) -> None:
        """A machine that goes down tells everybody TERM, in no order: who died of it may have been told before us."""
        until = _now() + _TOLD_WITHIN
        while self._died_of_term() and not self._is_stopped and (left := until - _now()) > 0:
            if select.select([self._wakeup], [], [], left)[0]:
                os.read(self._wakeup, 4096)
        if self._died_of_term() and self._is_stopped:
            self._reason = Reason.STOPPED

    def _died_of_term(self) -> bool:
        """The main process, by itself; a shell says so of what it waited for."""
        if self._reason is not Reason.EXITED or self._status is None:
            return False
        return os.waitstatus_to_exitcode(self._status) in (-signal.SIGTERM, 128 + signal.SIGTERM)

    def _everyone(self) -> list[trees.Identity]:
        found = trees.descendants(os.getpid())
        if self._order.cgroup is not None:
            found += [one for one in trees.Cgroup(path=self._order.cgroup).procs() if one not in found]
        return found

    def _terminate(self) -> None:
        if self._is_childless and self._order.cgroup is None:
            return
        everyone = self._everyone()
        if self._reason is Reason.EXITED:
            self._lingered = len(everyone)
        trees.terminate(everyone)

    def _kill(self) -> None:
        if self._order.cgroup is not None:
            trees.Cgroup(path=self._order.cgroup).kill()
        trees.kill(self._everyone)

    def _break(self, message: str) -> None:
        """Our own failure: the tree is killed as well as can be, and the record says what is left."""
        giving_up = _now() + _KILLING_AT_MOST / 6
        self._reap_quietly()
        while not self._is_over() and _now() < giving_up:
            self._kill()
            time.sleep(_LOOK_EVERY)
            self._reap_quietly()
        self._reason = Reason.BROKEN
        left = ", ".join(trees.name(one) for one in self._everyone())
        self._message = f"{message}; still there: {left}" if left else message

    def _reap_quietly(self) -> None:
        self._reason = self._reason or Reason.BROKEN
        self._reap()

    def _write_exit(self) -> None:
        ran = self._is_open and not self._read_report()
        if self._is_open and not ran:
            self._reason, self._message = Reason.BROKEN, self._told.decode("utf-8", "replace")
        code = os.waitstatus_to_exitcode(self._status) if ran and self._status is not None else None
        oom_kills = 0
        if self._order.cgroup is not None:
            oom_kills = groups.oom_kills(self._order.cgroup)
            trees.Cgroup(path=self._order.cgroup).remove()
        if self._reason is None:
            raise AssertionError("a tree that is gone has a reason")
        self._record(
            Exit(
                ran=ran,
                reason=self._reason,
                exit=code if code is not None and code >= 0 else None,
                signal=-code if code is not None and code < 0 else None,
                message=self._message,
                started=datetime.fromtimestamp(self._started, UTC) if ran and self._started is not None else None,
                ended=datetime.now(UTC),
                output=self._pump.written,
                dropped=self._pump.dropped,
                lingered=self._lingered,
                oom_kills=oom_kills,
            ),
        )

    def _record(self, ended: Exit) -> None:
        """A disk that is full now will not be for ever: until then whoever asks finds a keeper that answers."""
        for handle in (self._output, self._report):
            with suppress(KeyError, ValueError):
                self._poll.unregister(handle)
        while True:
            try:
                exits.record(self._order.directory, ended)
                break
            except OSError as exc:
                if exc.errno not in exits.FULL:
                    raise
            for handle, _ in self._poll.poll(_AGAIN * 1000):
                if handle == self._wakeup:
                    with suppress(BlockingIOError):
                        os.read(self._wakeup, 4096)
                else:
                    self._hear(handle)
        with suppress(FileNotFoundError):
            os.unlink(self._order.directory / CONTROL)

    # Output

    def _read_output(self) -> bool:
        try:
            data = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._poll.unregister(self._output)
            return False
        self._pump.take(data)
        if self._more_at is None:
            now = _now()
            if now >= self._last_more + _MORE_EVERY:
                self._tell_more(now)
            else:
                self._more_at = self._last_more + _MORE_EVERY
        return True

    def _tell_more(self, now: float) -> None:
        self._last_more = now
        self._more_at = None
        self._control.tell("more")

    def _drain(self) -> None:
        """The writers are gone, what they left in the pipe is not. Who got the pipe by other ways is not waited for."""
        with suppress(KeyError):
            while self._read_output():
                pass
        if self._more_at is not None:
            self._tell_more(_now())

    def _read_report(self) -> bytes:
        """Why exec did not happen, as far as the child has said; nothing if it happened."""
        if self._report >= 0:
            with suppress(BlockingIOError):
                while data := os.read(self._report, 4096):
                    self._told += data
                self._poll.unregister(self._report)
                os.close(self._report)
                self._report = -1
        return bytes(self._told)

    # Words

    def _held(self) -> str:
        return f"held {self._own.pid} {self._own.started}"

    def _hear(self, handle: int) -> None:
        said = ["open"] * self._is_open + ["left"] * self._has_left
        for words, is_maker in self._control.hear(handle, greeting=[self._held(), *said, "more"]):
            match words:
                case ["go"] if is_maker:
                    self._open_gate()
                case ["cancel", grace]:
                    with suppress(ValueError):
                        self._end(Reason.CANCELLED, max(0.0, float(grace)))
                case _:
                    pass  # a later agent may say more than we know
        if not self._control.has_maker and not self._is_open:
            self._end(Reason.GATE, 0.0)

    def _open_gate(self) -> None:
        if self._is_open or self._reason is not None:
            return
        faults.at("keeper.gate_opening")
        self._is_open = True
        self._started = time.time()
        if self._order.limit is not None:
            self._limit_at = _now() + self._order.limit.total_seconds()
        with suppress(BrokenPipeError):  # somebody killed the child at the gate: its status will say so
            os.write(self._gate, OPEN)
        os.close(self._gate)
        faults.at("keeper.gate_opened")
        self._control.tell("open")


def run(*, channel: int, order: int, stdin: int) -> NoReturn:
    """Become the keeper of one task: called right after the fork, with the descriptors that came with the order."""
    link = socket.socket(fileno=channel)
    try:
        os.setsid()
        trees.become_subreaper()
        trees.call_myself("paddock-keeper")
        faults.at("keeper.forked")
        wanted = Order.decode(os.pread(order, os.fstat(order).st_size, 0))
        _settle(channel, stdin)
        os.umask(0o077)
        Keeper(wanted, channel=link, stdin=stdin).hold()
    except Exception as exc:
        with suppress(OSError):
            link.settimeout(1)
            link.sendall(f"{_word(exc)} {_explain(exc)}\n".encode("utf-8", "backslashreplace"))
    finally:
        os._exit(0)


def _settle(channel: int, stdin: int) -> None:
    """Keep nothing of whoever forked us but what came with the order."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    close_all_but(0, 1, 2, channel, stdin)
    os.chdir("/")


def _word(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.errno in exits.FULL:
        return "full"
    return "refused" if isinstance(exc, Refused) else "broken"


def _explain(exc: Exception) -> str:
    if isinstance(exc, PaddockError):
        return exc.message
    if isinstance(exc, FileExistsError):
        return "its directory holds another keeper"
    if isinstance(exc, OSError) and exc.errno in exits.FULL:
        return f"no space left for its records: {exc.strerror}"
    return " ".join(f"{type(exc).__name__}: {exc}".split())
