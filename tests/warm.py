"""Programs started out of a warm process: it has loaded what they load, and forks one for each start.

What `python -m paddock serve` and its like load costs a second of processor time, each time. A warm process has loaded
it once, and nothing more: it has opened no file, begun no thread and made no event loop. What it forks is a process of
its own, a child of whoever asked, that runs `__main__` as `python -m` does and ends as Python ends. Two things remain
another's: /proc shows the warm process's command line and environment, and strings hash as they do there. A test whose
subject is the start itself, or what a start looks like from outside, uses `subprocess`.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]
SOURCE = str(ROOT / "src")

_AGENT = (
    *("paddock.agent.commands.run", "paddock.agent.commands.configure", "paddock.agent.commands.bundle"),
    *("paddock.agent.commands.enrol", "paddock.agent.commands.ledger", "paddock.agent.commands.methods"),
    *("paddock.agent.commands.status", "paddock.agent.commands.stop", "paddock.agent.agent", "paddock.agent.events"),
    *("paddock.agent.cloud.probing", "paddock.agent.skills.local.machines", "paddock.hands.websocket"),
)
LOADED = {
    "paddock": (
        *("paddock.cli.root", "paddock.cli.serve", "paddock.cli.painting", "paddock.journal", "paddock.server"),
        # What it loads on its way to be ready.
        *("paddock.adapters.stores.sql.sqlite", "pydantic.dataclasses", "pydantic.v1", "fastapi.telemetry._runtime"),
    ),
    "paddock.agent": _AGENT,
    "tests.story.paper": (*_AGENT, "paddock.agent.skills.hypervisor.house"),
}
"""The programs that a warm process can start, and what each has loaded by the time that it works."""

OWN = ("PADDOCK_", "XDG_", "PYTEST_", "PYTHONPATH=")
"""Variables that each start may have as it likes: of these only crash points and the path are read while loading."""

_FOUND = dict(os.environ)
_ANSWERS_WITHIN = 60.0
_ADOPTED_WITHIN = 20.0


def start(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    log: IO[bytes],
    is_mute: bool = False,
    start_new_session: bool = False,
) -> "Process":
    """Start a program that writes to `log`: forked where that is the same, else really. `is_mute`: nothing on stdin."""
    with open(os.devnull, "rb") if is_mute else os.fdopen(os.dup(0), "rb") as stdin:
        if not is_same(words, env):
            return subprocess.Popen(
                words, stdin=stdin, stdout=log, stderr=log, env=env, start_new_session=start_new_session
            )
        order = {
            "words": list(words),
            "env": dict(env),
            "cwd": os.getcwd(),
            "parent": os.getpid(),
            "leads": start_new_session,
        }
        with _asking:
            return Forked(_warm(words[2]).fork(order, stdin, log), words)


def is_same(words: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a fork does what a start does: in a test, of a program that we load, among the variables of its loading.

    Whoever measures, and is no test, gets real ones.
    """
    if "PYTEST_VERSION" not in os.environ or list(words[:2]) != [sys.executable, "-m"] or words[2] not in LOADED:
        return False
    return env.get("PYTHONPATH", "").split(":")[0] == SOURCE and _kept(env) == _kept(_FOUND)


def _kept(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not f"{name}=".startswith(OWN)}


def processes() -> set[int]:
    """The warm processes of this one: they are nobody's server or agent."""
    return {warm.pid for (owner, _), warm in _warms.items() if owner == os.getpid()}


@contextmanager
def adopting() -> Iterator[None]:
    """While it lasts, whoever is orphaned below this process becomes its child."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        # Somebody may do the same around us.
        libc.prctl(_PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37


class Forked:
    """A program that runs, as `subprocess.Popen` has it."""

    def __init__(self, pid: int, words: Sequence[str]) -> None:
        self.pid = pid
        self.args = words
        self.returncode: int | None = None
        self._reaping = threading.RLock()  # until it is reaped, the pid is nobody else's

    def poll(self) -> int | None:
        with self._reaping:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        with self._reaping:
            if (code := self.poll()) is not None:
                return code
            handle = os.pidfd_open(self.pid)
        try:
            select.select([handle], [], [], timeout)
        finally:
            os.close(handle)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        with self._reaping:
            if self.poll() is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


class _Warm:
    """The warm process of one program, from whoever asks it to fork."""

    def __init__(self, program: str) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_ANSWERS_WITHIN)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", program, str(theirs.fileno())],
                # Where it stands and what it says is nobody's business: what it forks brings its own.
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**_kept(_FOUND), "PYTHONPATH": f"{SOURCE}:{ROOT}"},
            )
        self.pid = self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, order: Mapping[str, Any], stdin: IO[bytes], log: IO[bytes]) -> int:
        """The pid of a fork that carries the order out, a child of ours."""
        with open(os.memfd_create("order"), "w+b") as file, adopting():
            file.write(json.dumps(order).encode())
            file.flush()
            socket.send_fds(self._socket, [b"o"], [file.fileno(), stdin.fileno(), log.fileno()])
            said = self._socket.recv(64)
        assert said, f"the warm process has ended: {self._process.wait(5)}"
        return int(said)


_asking = threading.Lock()
_warms: dict[tuple[int, str], _Warm] = {}


def _warm(program: str) -> _Warm:
    """Ours: whoever was forked from a process that has one makes its own, whose forks become its children."""
    found = _warms.get((os.getpid(), program))
    if found is None or not found.is_alive():
        found = _warms[os.getpid(), program] = _Warm(program)
    return found


# The warm process


def _serve() -> None:
    """Fork for each order; a fork returns from here too, when its program has returned. Ends with whoever asks."""
    for module in LOADED[sys.argv[1]]:
        importlib.import_module(module)
    orders = socket.socket(fileno=int(sys.argv[2]))
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for those who work
    gc.collect()
    gc.freeze()  # so that no fork copies pages only because a collection touched them
    assert threading.active_count() == 1
    while True:
        _, files, _, _ = socket.recv_fds(orders, 1, 3)
        if not files:
            return
        made = os.fork()
        if made == 0:
            # Whose parent ends at once becomes a child of who asked.
            if os.fork() != 0:
                os._exit(0)
            signal.signal(signal.SIGINT, heard)
            _become(orders, *files)
            return
        os.waitpid(made, 0)
        for file in files:
            os.close(file)


def _become(orders: socket.socket, order: int, stdin: int, log: int) -> None:
    """Be what `python -m` would be in the surroundings that were asked for, and run it."""
    asked = json.loads(os.pread(order, os.fstat(order).st_size, 0))
    _, _, program, *rest = asked["words"]
    for number, file in enumerate((stdin, log, log)):
        os.dup2(file, number)
    _await_adoption(asked["parent"])
    if asked["leads"]:
        os.setsid()
    os.chdir(asked["cwd"])
    old = os.environ.get("PYTHONPATH", "").split(":")
    os.environ.clear()
    os.environ.update(asked["env"])
    # The directory of the warm process was the first, its PYTHONPATH the next.
    sys.path[: 1 + len(old)] = [asked["cwd"], *os.environ["PYTHONPATH"].split(":")]
    sys.orig_argv[:] = asked["words"]
    sys.argv[:] = [program, *rest]
    orders.send(str(os.getpid()).encode())
    orders.close()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if faults := sys.modules.get("paddock.hands.faults"):
        faults.arm(os.environ)
    runpy.run_module(program, run_name="__main__", alter_sys=True)


def _await_adoption(parent: int) -> None:
    end = time.monotonic() + _ADOPTED_WITHIN
    while os.getppid() != parent:
        if time.monotonic() > end:
            sys.exit(f"nobody adopts this process: its parent is {os.getppid()}, not {parent}")
        time.sleep(0.0005)


if __name__ == "__main__":
    _serve()
