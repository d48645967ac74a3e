"""The one table of methods: params, effect, who may ask; checks and docs come from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from paddock.core.access import Role
from paddock.core.errors import Refused
from paddock.wire import fields
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock.wire.messages import LARGEST_INTEGER

__all__ = ["METHODS", "BadParams", "Effect", "Kind", "Method", "Param", "Toward", "UnknownMethod", "check", "describe"]


class Effect(StrEnum):
    """What a command does to the world, and so what becomes of it after a crash."""

    READ = "read"
    """Changes nothing and is not journaled."""
    ENSURE = "ensure"
    """States an end: after `interrupted` it is issued again under a new id."""
    ONCE = "once"
    """Never issued again by us."""


class Toward(StrEnum):
    """Which side carries it out."""

    AGENT = "agent"
    SERVER = "server"
    BOTH = "both"


class Kind(StrEnum):
    """What a param holds."""

    TEXT = "text"
    NAME = "name"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    BYTES = "bytes"
    PATH = "path"
    MOMENT = "moment"
    OBJECT = "object"
    LIST = "list"
    MAP = "map"
    ANY = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class Param:
    """One field of the params.

    `least` and `most` bound a number's value, a text's length in bytes, and the count of a list or map; `of` is what a
    list or map holds; `pattern` must match all of a text, or each key of a map; `default` is filled in when absent.
    """

    name: str
    kind: Kind
    doc: str
    of: Kind | None = None
    required: bool = False
    unit: str = ""
    least: float | None = None
    most: float | None = None
    pattern: str | None = None
    default: JSON = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One row of the table. `one_of` names params of which exactly one is given."""

    name: str
    caption: str
    toward: Toward
    effect: Effect
    role: Role
    params: tuple[Param, ...] = ()
    one_of: tuple[str, ...] = ()
    result: str = "{}"
    task: bool = False
    """Accepted first, ended by task_status."""
    fenced: bool = False
    """Acts on an environment: environment and fence are required. Elsewhere they come together or not at all."""
    ends_boot: bool = False
    """Complete when the agent says hello with a new boot_id."""


class UnknownMethod(Refused):
    """The table has no such method toward this side."""

    def __init__(self, method: str) -> None:
        super().__init__(f"{method}: is not a method of this side")
        self.method = method


MINUTE, DAY = 60, 86400
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PUT_LIMIT = 512 * KIB
"""Bytes of data in one file.put and in one answer of file.get."""

_ENVIRONMENT = Param(name="environment", kind=Kind.NAME, doc="the environment that is acted on")
_FENCE = Param(name="fence", kind=Kind.INTEGER, doc="the environment's fence; a lower one than seen is stale")
_LIMIT = Param(
    name="limit",
    kind=Kind.NUMBER,
    unit="s",
    least=0.1,
    most=30 * DAY,
    doc="ends it, counted by the agent from acceptance",
)
_START_WITHIN = Param(
    name="start_within",
    kind=Kind.NUMBER,
    unit="s",
    least=0,
    most=30 * DAY,
    doc="not started by then it is expired, counted by the agent from acceptance",
)
_TASK_ID = Param(name="task_id", kind=Kind.NAME, doc="the task's id, the command's own if absent")
COMMON = (_ENVIRONMENT, _FENCE, _LIMIT, _START_WITHIN)
"""Params of every method."""

_PATH = Param(
    name="path",
    kind=Kind.PATH,
    required=True,
    doc="the file; a relative one lies below the machine's directory, and a machine without isolation cannot leave it",
)
_MACHINE = Param(name="machine", kind=Kind.NAME, required=True, doc="the machine's name in its environment")
_TASK = Param(name="task_id", kind=Kind.NAME, required=True, doc="the task")
_AGENT = Param(name="agent", kind=Kind.NAME, doc="the agent's name; absent from a relayed agent")
_SECRET = Param(name="token", kind=Kind.NAME, doc="the agent's token; absent from a relayed agent")
_MESSAGE = Param(name="msg", kind=Kind.TEXT, required=True, most=64 * KIB, doc="for a person")
_TIME = Param(name="time", kind=Kind.MOMENT, required=True, doc="when, by the agent's clock")
_DETAILS = Param(name="fields", kind=Kind.OBJECT, doc="more about it")
_FACTS = Param(name="facts", kind=Kind.OBJECT, required=True, doc="{hostname, cloud, arch, os, addresses[]}")

_BOTH = (
    Method(
        name="ping",
        caption="The params come back: the other side is alive.",
        toward=Toward.BOTH,
        effect=Effect.READ,
        role=Role.AGENT,
        result="the params",
    ),
)

_TO_SERVER = (
    Method(
        name="hello",
        caption="An agent begins a session.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.ANYONE,
        params=(
            _AGENT,
            _SECRET,
            Param(name="software", kind=Kind.NAME, required=True, doc="name and version of the agent"),
            Param(name="boot_id", kind=Kind.NAME, required=True, doc="new after each boot of its machine"),
            Param(name="ledger", kind=Kind.NAME, required=True, doc="names its journal"),
            Param(name="skills", kind=Kind.LIST, of=Kind.NAME, most=1000, doc="what it can do"),
            _FACTS,
            Param(name="fences", kind=Kind.MAP, of=Kind.INTEGER, doc="highest fence seen per environment"),
            Param(name="epoch", kind=Kind.INTEGER, doc="highest epoch seen"),
            Param(name="seq", kind=Kind.INTEGER, doc="highest seq seen"),
            Param(name="tasks", kind=Kind.LIST, of=Kind.OBJECT, doc="{task_id, state} of every task not forgotten"),
        ),
        result="{session, heartbeat, epoch, server_time, fences, forget[], deliver[{task_id, stream, offset}]}",
    ),
    Method(
        name="enrol",
        caption="A new agent gets its identity for a code that a person gave it.",
        toward=Toward.SERVER,
        effect=Effect.ONCE,
        role=Role.ANYONE,
        params=(Param(name="code", kind=Kind.NAME, required=True, doc="the enrolment code"), _FACTS),
        result="{agent, token}",
    ),
    Method(
        name="token",
        caption="An agent changes its token; both are valid until the new one has said hello.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(Param(name="new", kind=Kind.NAME, required=True, least=20, doc="the new token"),),
    ),
    Method(
        name="relay",
        caption="A host's agent vouches for the machine that speaks on this connection from now on.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.ANYONE,
        params=(
            Param(name="agent", kind=Kind.NAME, required=True, doc="the host's agent"),
            Param(name="token", kind=Kind.NAME, required=True, doc="its token"),
            _MACHINE,
        ),
        fenced=True,
    ),
    Method(
        name="alert",
        caption="Something a person should know; repeated until it is answered.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(_MESSAGE, _TIME, _DETAILS),
    ),
    Method(
        name="log",
        caption="A line of the agent's own log; limited in rate, in order, spooled while offline.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            Param(
                name="level",
                kind=Kind.TEXT,
                required=True,
                pattern="debug|info|warning|error",
                doc="debug, info, warning or error",
            ),
            _MESSAGE,
            _TIME,
            _DETAILS,
        ),
    ),
    Method(
        name="task_status",
        caption="How a task is; the last one is repeated until it is answered.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            _TASK,
            Param(
                name="state",
                kind=Kind.TEXT,
                required=True,
                pattern="running|complete|error",
                doc="running, complete or error",
            ),
            Param(name="percent", kind=Kind.NUMBER, unit="%", least=0, most=100, doc="how much is done"),
            Param(name="eta", kind=Kind.NUMBER, unit="s", least=0, doc="until it is done"),
            Param(name="code", kind=Kind.TEXT, doc="of an error: why, a code of a failed command"),
            Param(name="msg", kind=Kind.TEXT, doc="for a person"),
            Param(name="result", kind=Kind.OBJECT, doc="of a complete task: the method's result"),
            Param(name="outputs", kind=Kind.MAP, of=Kind.INTEGER, unit="bytes", doc="final length of each stream"),
        ),
    ),
    Method(
        name="output",
        caption="A piece of a task's output; everything else overtakes it.",
        toward=Toward.SERVER,
        effect=Effect.ENSURE,
        role=Role.AGENT,
        params=(
            _TASK,
            Param(name="stream", kind=Kind.PATH, required=True, doc="out, err, or the path of a collected file"),
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", required=True, doc="where data begins in the stream"),
            Param(name="data", kind=Kind.BYTES, required=True, most=64 * KIB, doc="the piece"),
            Param(name="times", kind=Kind.LIST, of=Kind.ANY, doc="[offset, moment]: when it was written"),
        ),
        result="{offset}: everything below it is safe on the server",
    ),
)

_FROM_ANYONE = (
    Method(
        name="status",
        caption="How the agent is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{uptime, version, boot_id, tasks, load, disk}",
    ),
    Method(
        name="system.facts",
        caption="What the agent's machine is.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        result="{hostname, cloud, arch, os, addresses[], cpus, memory, disk}, sizes in bytes",
    ),
    Method(
        name="task.cancel",
        caption="End a task: TERM to its whole tree, grace, KILL, verified gone.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        params=(
            _TASK,
            Param(
                name="grace",
                kind=Kind.NUMBER,
                unit="s",
                least=0,
                most=10 * MINUTE,
                default=10,
                doc="between TERM and KILL",
            ),
        ),
        result="{state}: of the task, which says its own end by task_status",
    ),
)

_SCRIPT = (
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
            Param(name="user", kind=Kind.NAME, doc="whose it is; the agent's own if absent"),
            Param(
                name="grace",
                kind=Kind.NUMBER,
                unit="s",
                least=0,
                most=10 * MINUTE,
                default=10,
                doc="between TERM and KILL",
            ),
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
                name="background",
                kind=Kind.BOOLEAN,
                default=False,
                doc="outlives its step; ended by task.cancel, which is then no failure",
            ),
        ),
        one_of=("run", "argv"),
        result="{exit} or {signal}, {dropped}: bytes over output_limit",
    ),
)

_FILES = (
    Method(
        name="file.put",
        caption="Make a file hold these bytes: temporary name, fsync, rename.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        params=(
            _PATH,
            Param(name="data", kind=Kind.BYTES, required=True, most=PUT_LIMIT, doc="the bytes"),
            Param(
                name="mode", kind=Kind.INTEGER, least=0, most=0o7777, default=0o644, doc="as a number, not octal text"
            ),
            Param(
                name="offset",
                kind=Kind.INTEGER,
                unit="bytes",
                default=0,
                doc="keep so much of the file that is there and put data after it; 0 replaces the file",
            ),
            Param(
                name="sha256", kind=Kind.TEXT, pattern="[0-9a-f]{64}", doc="of the whole file afterwards, or refused"
            ),
        ),
        result="{size, sha256}",
    ),
    Method(
        name="file.get",
        caption="Read a piece of a file.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(
            _PATH,
            Param(name="offset", kind=Kind.INTEGER, unit="bytes", default=0, doc="where to begin"),
            Param(
                name="length",
                kind=Kind.INTEGER,
                unit="bytes",
                least=1,
                most=PUT_LIMIT,
                default=PUT_LIMIT,
                doc="at most so many",
            ),
        ),
        result="{data, size}: base64, and the size of the file",
    ),
    Method(
        name="file.collect",
        caption="Send the files below a directory that match, each as an output stream named by its path.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="root", kind=Kind.PATH, required=True, doc="the directory; symbolic links are not followed"),
            Param(
                name="globs",
                kind=Kind.LIST,
                of=Kind.TEXT,
                required=True,
                least=1,
                most=1000,
                doc="patterns relative to root; `**` for any depth",
            ),
            Param(
                name="file_limit",
                kind=Kind.INTEGER,
                unit="bytes",
                default=100 * MIB,
                doc="a larger file is cut there and refused",
            ),
            Param(name="total_limit", kind=Kind.INTEGER, unit="bytes", default=GIB, doc="files after it are refused"),
            Param(
                name="names_limit", kind=Kind.INTEGER, most=100_000, default=10_000, doc="files after it are refused"
            ),
        ),
        result="{files: [{path, size}], refused: [{path, why}]}",
    ),
)

_SOURCES = (
    Method(
        name="sources.checkout",
        caption="Make a directory hold a change's working tree, as the user's own git would.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.PERSON,
        task=True,
        params=(
            Param(name="url", kind=Kind.TEXT, required=True, least=1, most=4096, doc="the repository"),
            Param(name="ref", kind=Kind.NAME, required=True, doc="what to fetch, refs/changes/21/189221/1"),
            Param(
                name="revision",
                kind=Kind.TEXT,
                pattern="[0-9a-f]{40}|[0-9a-f]{64}",
                doc="the commit that ref must be, or it failed",
            ),
            Param(name="path", kind=Kind.PATH, required=True, doc="the directory, relative to the machine's directory"),
        ),
        result="{revision}: the commit that is checked out",
    ),
)

_MACHINES = (
    Method(
        name="machine.build",
        caption="Make the machine exist, with its agent connected through a relay.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(_MACHINE,),
        result="{machine, addresses[]}",
    ),
    Method(
        name="machine.clean",
        caption="End everything that ran on the machine but its agent, empty it, prove both.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(_MACHINE,),
        result="{machine, ended: count of processes}",
    ),
    Method(
        name="machine.destroy",
        caption="Make the machine not exist, its agent, processes and directory included.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        fenced=True,
        params=(_MACHINE,),
        result="{machine}",
    ),
    Method(
        name="machine.list",
        caption="The machines that this host carries.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.OPERATOR,
        result="{machines: [{environment, machine, fence, pid, state, bubblewrap}]}",
    ),
)

METHODS: Mapping[str, Method] = {
    method.name: method for method in (*_BOTH, *_TO_SERVER, *_FROM_ANYONE, *_SCRIPT, *_FILES, *_SOURCES, *_MACHINES)
}


def find(method: str, *, toward: Toward = Toward.BOTH) -> Method:
    """The row of a method. With a side given, only what that side carries out. Raises UnknownMethod."""
    found = METHODS.get(method)
    if found is None or (toward is not Toward.BOTH and found.toward not in (toward, Toward.BOTH)):
        raise UnknownMethod(method)
    return found


def params_of(method: Method) -> tuple[Param, ...]:
    """All params of a method, the common ones included."""
    own = {param.name for param in method.params}
    common = COMMON + ((_TASK_ID,) if method.task else ())
    return method.params + tuple(param for param in common if param.name not in own)


def check(method: str, params: Mapping[str, JSON], *, toward: Toward = Toward.BOTH) -> dict[str, JSON]:
    """The params that the table knows, defaults filled in; bytes stay base64. Raises BadParams or UnknownMethod."""
    found = find(method, toward=toward)
    if found.name == "ping":
        return dict(params)
    checked: dict[str, JSON] = {}
    for param in params_of(found):
        value = params.get(param.name)
        if value is not None:
            _check_value(param, value, f"params.{param.name}")
            checked[param.name] = value
        elif param.required:
            raise BadParams(f"params.{param.name}", "is missing")
        elif param.default is not None:
            checked[param.name] = param.default
    _check_together(found, params)
    return checked


def describe() -> list[dict[str, str]]:
    """The table for the documentation: a row a method, then a row a param (`method` is empty there)."""
    rows = []
    for method in METHODS.values():
        marks = [word for word in ("task", "fenced", "ends_boot") if getattr(method, word)]
        rows.append(
            {
                "method": method.name,
                "toward": str(method.toward),
                "effect": str(method.effect),
                "marks": " ".join(marks),
                "role": str(method.role),
                "caption": method.caption,
                "result": method.result,
            }
        )
        rows += [_describe(param, method) for param in method.params]
    return rows


def _describe(param: Param, method: Method) -> dict[str, str]:
    kind = f"{param.kind} of {param.of}" if param.of else str(param.kind)
    bounds = "" if param.least is None and param.most is None else f"{param.least or 0:g} to {_or_more(param.most)}"
    needed = "one of them" if param.name in method.one_of else "required" if param.required else "optional"
    default = "" if param.default is None else str(param.default)
    return {
        "method": "",
        "param": param.name,
        "kind": kind,
        "unit": param.unit,
        "bounds": bounds,
        "needed": needed,
        "default": default,
        "doc": param.doc,
    }


def _or_more(most: float | None) -> str:
    return "more" if most is None else f"{most:.0f}"


def _check_together(method: Method, params: Mapping[str, JSON]) -> None:
    has_environment = params.get("environment") is not None
    has_fence = params.get("fence") is not None
    if not has_environment and (has_fence or method.fenced):
        raise BadParams("params.environment", "is missing")
    if not has_fence and has_environment:
        raise BadParams("params.fence", "is missing")
    given = [name for name in method.one_of if params.get(name) is not None]
    if method.one_of and len(given) != 1:
        raise BadParams(f"params.{(given or method.one_of)[-1]}", f"needs exactly one of {', '.join(method.one_of)}")


def _check_value(param: Param, value: JSON, path: str) -> None:
    match param.kind:
        case Kind.LIST:
            found = fields.elements(value, path, lambda element, place: _check_plain(param, param.of, element, place))
            _check_count(param, len(found), path)
        case Kind.MAP:
            keys = fields.entries(value, path, lambda element, place: _check_plain(param, param.of, element, place))
            _check_count(param, len(keys), path)
            for key in keys:
                if param.pattern is not None and not re.fullmatch(param.pattern, key):
                    raise BadParams(f"{path}[{key!r}]", f"the key does not match {param.pattern}")
        case Kind.INTEGER:
            fields.bounded_integer(value, path, *_bounds(param, LARGEST_INTEGER))
        case Kind.NUMBER:
            fields.bounded_number(value, path, *_bounds(param, LARGEST_INTEGER))
        case Kind.TEXT:
            text = fields.text(value, path)
            _check_size(param, len(text.encode()), path)
            if param.pattern is not None and not re.fullmatch(param.pattern, text):
                raise BadParams(path, f"does not match {param.pattern}")
        case Kind.BYTES:
            _check_size(param, len(fields.octets(value, path)), path)
        case _:
            _check_plain(param, param.kind, value, path)


def _check_plain(param: Param, kind: Kind | None, value: JSON, path: str) -> None:
    match kind:
        case Kind.TEXT:
            fields.text(value, path)
        case Kind.NAME:
            _check_size(param if param.kind is Kind.NAME else None, len(fields.name(value, path)), path)
        case Kind.INTEGER:
            fields.integer(value, path)
        case Kind.BOOLEAN:
            fields.boolean(value, path)
        case Kind.PATH:
            fields.path(value, path)
        case Kind.MOMENT:
            fields.moment(value, path)
        case Kind.OBJECT:
            fields.obj(value, path)
        case Kind.ANY:
            pass
        case _:
            raise AssertionError(f"{param.name}: the table has no rule for {kind}")


def _bounds(param: Param, largest: float) -> tuple[float, float]:
    return 0 if param.least is None else param.least, largest if param.most is None else param.most


def _check_size(param: Param | None, size: int, path: str) -> None:
    if param is not None:
        _within(param, size, path, "bytes")


def _check_count(param: Param, count: int, path: str) -> None:
    _within(param, count, path, "elements")


def _within(param: Param, size: int, path: str, unit: str) -> None:
    least, most = _bounds(param, LARGEST_INTEGER)
    if not least <= size <= most:
        raise BadParams(path, f"{size} {unit}, not within {least:.0f} to {most:.0f}")
