"""The main process of a task, from its fork to its exec: it waits at the gate."""

import errno
import os
import pwd
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from paddock.core.errors import Broken
from paddock.hands.order import HELD_IN, Limits, Order
from paddock.hands.trees import Cgroup

OPEN = b"o"  # the one byte that opens the gate; end of file there means that nobody will


def wait_and_exec(order: Order, *, gate: int, report: int, stdin: int, output: int) -> NoReturn:
    """Never returns. What goes wrong between the gate and exec is written to `report`, which exec closes."""
    try:
        _arrange(stdin, output, gate, report)
        _join_group(order)
        if os.read(gate, 1) != OPEN:
            os._exit(0)
        _become(order)
    except BaseException as exc:
        with suppress(OSError):
            os.write(report, _explain(exc).encode("utf-8", "backslashreplace"))
    finally:
        os._exit(127)


def _arrange(stdin: int, output: int, gate: int, report: int) -> None:
    """Own session, plain signals, three streams, nothing else of the keeper's left open."""
    os.setsid()
    signal.set_wakeup_fd(-1)  # the pipe behind it is the keeper's
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):  # KILL and STOP, and those that libc keeps for itself
            signal.signal(number, signal.SIG_DFL)
    os.dup2(stdin, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    close_all_but(0, 1, 2, gate, report)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def close_all_but(*kept: int) -> None:
    """Close every other file descriptor."""
    for handle in [int(entry) for entry in os.listdir("/proc/self/fd")]:
        if handle not in kept:
            with suppress(OSError):  # the one that listed the directory is gone already
                os.close(handle)


def _join_group(order: Order) -> None:
    """Before the gate: the kernel takes 4 to 16 ms for it, in which the agent writes its ledger."""
    if order.cgroup is not None:
        try:
            Cgroup(path=order.cgroup).add(0)
        except OSError as exc:
            if order.limits.in_group:
                raise Broken(f"{order.limits.in_group[0]}: cannot be limited, {order.cgroup}: {exc.strerror}") from exc
            # Without limits a group is a help, not a condition.


def _become(order: Order) -> None:
    os.umask(order.umask)
    _limit(order.limits)
    argv = order.argv if order.script is None else (*order.argv, _opened(order.script))
    if order.user is not None:
        _change_user(order.user)
    try:
        os.chdir(order.cwd)
    except OSError as exc:
        raise Broken(f"working directory {order.cwd}: {exc.strerror}") from exc
    # Task ids of two agents on one computer may be the same, their directories are not: the second mark tells whose.
    env = {**order.env, "PADDOCK_TASK": order.task, HELD_IN: str(order.directory)}
    program = argv[0]
    try:
        os.execvpe(program, argv, env)
    except OSError as exc:
        if exc.errno == errno.ENOENT and "/" in program and os.path.exists(program):
            raise Broken(f"{program}: its interpreter does not exist") from exc
        raise Broken(f"{program}: {exc.strerror}") from exc


def _opened(script: Path) -> str:
    """The name by which whoever has the descriptor opens the file, wherever that lies."""
    try:
        handle = os.open(script, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as exc:
        raise Broken(f"{script}: {exc.strerror}") from exc
    os.set_inheritable(handle, True)  # noqa: FBT003
    return f"/dev/fd/{handle}"


def _limit(limits: Limits) -> None:
    for name, value in limits.each.items():
        kind: int = getattr(resource, f"RLIMIT_{name.upper()}")
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError) as exc:
            raise Broken(f"limits.{name}: {value}: {exc}") from exc


def _change_user(user: str) -> None:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Broken(f"user {user}: unknown") from None
    if os.geteuid() != 0:
        if entry.pw_uid != os.geteuid():
            raise Broken(f"user {user}: only root can become somebody else")
        return
    for stream in (0, 1):  # so that /dev/stdin and /dev/stdout can be opened by name
        with suppress(OSError):
            os.fchown(stream, entry.pw_uid, -1)
    os.setgroups(os.getgrouplist(user, entry.pw_gid))
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def _explain(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, Broken) else f"{type(exc).__name__}: {exc}"
