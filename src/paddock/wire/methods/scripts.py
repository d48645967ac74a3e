"""Methods of the skill `script`."""

from paddock.core.access import Role
from paddock.wire.methods.table import GIB, GRACE, KIB, MIB, Effect, Kind, Method, Param, Toward

METHODS = (
    Method(
        name="script.run",
        caption="Run a script or a command as a process tree of its own.",
        toward=Toward.AGENT,
        effect=Effect.ONCE,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="run", kind=Kind.TEXT, most=512 * KIB, doc="the script's text"),
            Param(
                name="argv",
                kind=Kind.LIST,
                of=Kind.TEXT,
                least=1,
                most=4096,
                doc="a command and its arguments; no shell reads them",
            ),
            Param(
                name="interpreter",
                kind=Kind.TEXT,
                least=1,
                most=1024,
                default="/bin/sh -e",
                doc="program and arguments, split at spaces, that get the script's file name as the last argument",
            ),
            Param(
                name="env",
                kind=Kind.MAP,
                of=Kind.TEXT,
                most=4096,
                pattern="[A-Za-z_][A-Za-z0-9_]*",
                doc="variables, values as they are",
            ),
            Param(
                name="cwd", kind=Kind.PATH, default=".", doc="working directory, relative to the machine's directory"
            ),
            Param(name="stdin", kind=Kind.TEXT, most=512 * KIB, doc="what it reads; empty if absent"),
            Param(
                name="umask", kind=Kind.INTEGER, least=0, most=0o777, default=0o022, doc="as a number, not octal text"
            ),
            Param(
                name="user",
                kind=Kind.NAME,
                doc="whose it is, with that user's HOME, USER, LOGNAME and SHELL; the agent's own if absent",
            ),
            GRACE,
            Param(
                name="output_limit",
                kind=Kind.INTEGER,
                unit="bytes",
                least=0,
                most=1024 * GIB,
                default=GIB,
                doc="of all streams; what is over it is dropped and counted in the result",
            ),
            Param(
                name="memory",
                kind=Kind.INTEGER,
                unit="bytes",
                least=MIB,
                doc="of its whole tree, swap included; over it, all of it is killed and the result says oom_kills",
            ),
            Param(name="pids", kind=Kind.INTEGER, least=1, most=4_194_304, doc="processes and threads of its tree"),
            Param(
                name="cpus",
                kind=Kind.NUMBER,
                unit="processors",
                least=0.01,
                most=4096,
                doc="processor time its tree gets: 1.5 of them",
            ),
            Param(
                name="limits",
                kind=Kind.MAP,
                of=Kind.INTEGER,
                pattern="as|core|cpu|data|fsize|memlock|nofile|nproc|stack",
                doc="of each process alone, as setrlimit has them, in bytes, seconds or pieces; nproc counts per user",
            ),
            Param(
                name="background",
                kind=Kind.BOOLEAN,
                default=False,
                doc="outlives its step; ended by task.cancel, which is then no failure",
            ),
        ),
        one_of=("run", "argv"),
        result="{exit} or {signal}, {dropped}: bytes over output_limit, {oom_kills} if memory was limited",
    ),
)
