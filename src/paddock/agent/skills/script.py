"""Runs a script or a command as a process tree of its own.

Effects: journaled; the ledger knows the keeper before its gate opens.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills.becoming import Account, account
from paddock.agent.skills.skill import Call, Deed, Place, Program, output_of
from paddock.core.errors import Refused
from paddock.hands.exit import Exit, Reason
from paddock.hands.order import Limits, Order
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock.wire.messages import Code

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORIES = {"PADDOCK_WORKSPACE": ".", "PADDOCK_SOURCES": "sources", "PADDOCK_RESULTS": "results"}
"""The server does not know where a machine's directory lies: what it says of these is relative to it."""

_IN_GROUP = ("memory", "pids", "cpus")


def methods(place: Place) -> Mapping[str, Deed]:
    """script.run."""
    return {
        "script.run": Program(
            prepare=lambda call: prepare(place, call), conclude=conclude, keep=("background", "memory")
        )
    }


def prepare(place: Place, call: Call) -> Order:
    """The order of a script.run; its text lies in the task's directory. Refused, before anything is made, if it
    cannot start as asked.
    """
    who = account(call.text("user"))
    command = _command(call)
    limits = _limits(call)
    cwd = _start(place, call, who)
    call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    cwd.mkdir(parents=True, exist_ok=True)
    script = None if call.texts("argv") else _write_script(call, who)
    is_by_name = script is not None and (who is None or not who.is_other)
    return Order(
        task=call.task,
        directory=call.directory,
        argv=(*command, str(script)) if is_by_name else command,
        env=variables(place, call.table("env"), who),
        cwd=cwd,
        stdin=call.text("stdin").encode(),
        limit=call.limit,
        grace=call.seconds("grace", 10),
        umask=call.number("umask", 0o022),
        user=call.text("user") or None,
        # Another user cannot enter our state directory.
        script=None if is_by_name else script,
        output_limit=call.number("output_limit", 1 << 30),
        background=call.params.get("background") is True,
        cgroup=place.group_of(call.task),
        limits=limits,
    )


def _start(place: Place, call: Call, who: Account | None) -> Path:
    """The directory in which it starts: where none is named, one that its user can enter."""
    named = call.text("cwd", ".")
    cwd = place.resolve(named)
    barrier = who.barrier(cwd) if who is not None else None
    if who is None or barrier is None:
        return cwd
    if named != "." or place.machine:
        raise Refused(f"cwd {named}: user {who.name} cannot enter {barrier}")
    home = Path(who.home or "/")
    return home if home.is_dir() and who.barrier(home) is None else Path("/")


def _limits(call: Call) -> Limits:
    """What it may use. Refused for more of a process's own limits than this user may give."""
    each = {name: value for name, value in call.mapping("limits").items() if isinstance(value, int)}
    if each and os.geteuid() != 0:
        import resource

        for name, value in each.items():
            hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))[1]
            if hard != resource.RLIM_INFINITY and value > hard:
                raise Refused(f"limits.{name}: {value} is over this agent's own {hard}, and only root can raise that")
    memory, pids, cpus = (call.params.get(name) for name in _IN_GROUP)
    return Limits(
        memory=memory if isinstance(memory, int) else None,
        pids=pids if isinstance(pids, int) else None,
        cpus=float(cpus) if isinstance(cpus, int | float) else None,
        each=each,
    )


def variables(place: Place, given: Mapping[str, str], who: Account | None = None) -> dict[str, str]:
    """The whole environment of a task: plain ones of ours, the machine's, what was given, what nobody may change."""
    whose = dict(who.variables()) if who is not None else {"HOME": os.environ.get("HOME", str(place.work))}
    if place.machine:
        whose["HOME"] = str(place.work)
    is_shut_out = who is not None and who.barrier(place.temporary) is not None
    env = {
        "PATH": os.environ.get("PATH", _PATH),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        **place.life.variables,
        **whose,
        "TMPDIR": "/tmp" if is_shut_out else str(place.temporary),
        **_DIRECTORIES,
        **given,
    }
    if place.machine:
        env |= {"PADDOCK_ENVIRONMENT": place.environment, "PADDOCK_MACHINE": place.machine}
        if place.address:
            env["PADDOCK_ADDRESS"] = place.address
    for name in _DIRECTORIES:
        env[name] = str(place.resolve(env[name]))
    if place.machine or "PADDOCK_RESULTS" in given:
        Path(env["PADDOCK_RESULTS"]).mkdir(parents=True, exist_ok=True)
    return env


def conclude(call: Call, ended: Exit) -> Outcome:
    """What the keeper's record means. A tree that its memory limit killed says so in its result."""
    streams = output_of(call, ended)
    result: dict[str, JSON] = {"dropped": ended.dropped}
    if ended.exit is not None:
        result["exit"] = ended.exit
    elif ended.signal is not None:
        result["signal"] = ended.signal
    if call.params.get("memory") is not None or ended.oom_kills:
        result["oom_kills"] = ended.oom_kills
    if not ended.ran or ended.reason is Reason.BROKEN:
        return Outcome(code=Code.FAILED, msg=ended.message or "it never ran", streams=streams)
    match ended.reason:
        case Reason.LIMIT:
            return Outcome(code=Code.TIMED_OUT, msg=f"{call.task}: its limit ended it", streams=streams)
        case Reason.CANCELLED if call.params.get("background") is not True:
            return Outcome(code=Code.CANCELLED, msg=f"{call.task}: was cancelled", streams=streams)
    return Outcome(result=result, streams=streams)


def _command(call: Call) -> tuple[str, ...]:
    """What is started; a script's file comes after it."""
    if argv := call.texts("argv"):
        if not argv[0]:
            raise BadParams("params.argv[0]", "names no program")
        return argv
    if not (interpreter := call.text("interpreter", "/bin/sh -e").split()):
        raise BadParams("params.interpreter", "names no program")
    return tuple(interpreter)


def _write_script(call: Call, who: Account | None) -> Path:
    """The script as a file that its user can read; nobody else can."""
    path = call.directory / "script"
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(call.text("run").encode())
        if who is not None and who.is_other:
            os.fchown(file.fileno(), who.uid, -1)
    return path
