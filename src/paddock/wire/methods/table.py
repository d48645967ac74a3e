"""What a row of the table of methods is, and how params are checked against one."""

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
    less: tuple[tuple[str, str], ...] = ()
    """Pairs of numbers of which the first is less than the second."""
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

PATH = Param(
    name="path",
    kind=Kind.PATH,
    required=True,
    doc="the file; a relative one lies below the machine's directory, and a machine without isolation cannot leave it",
)
STORED = "stored{images, templates, counter, number}"
"""What a host's agent says of its disk, in its facts and with the end of what changes it; see core.host.Stored."""
MACHINE = Param(name="machine", kind=Kind.NAME, required=True, doc="the machine's name in its environment")
TASK = Param(name="task_id", kind=Kind.NAME, required=True, doc="the task")
GRACE = Param(
    name="grace", kind=Kind.NUMBER, unit="s", least=0, most=10 * MINUTE, default=10, doc="between TERM and KILL"
)


def params_of(method: Method) -> tuple[Param, ...]:
    """All params of a method, the common ones included."""
    own = {param.name for param in method.params}
    common = COMMON + ((_TASK_ID,) if method.task else ())
    return method.params + tuple(param for param in common if param.name not in own)


def check_params(method: Method, params: Mapping[str, JSON], *, is_strict: bool = False) -> dict[str, JSON]:
    """The params that a row knows, defaults filled in; bytes stay base64. Raises BadParams.

    Others are dropped; strictly, they are refused: a misspelt `dry_run` must not do it in earnest.
    """
    if method.name == "ping":
        return dict(params)
    if is_strict:
        refuse_unknown(method, params)
    checked: dict[str, JSON] = {}
    for param in params_of(method):
        value = params.get(param.name)
        if value is not None:
            _check_value(param, value, f"params.{param.name}")
            checked[param.name] = value
        elif param.required:
            raise BadParams(f"params.{param.name}", "is missing")
        elif param.default is not None:
            checked[param.name] = param.default
    _check_together(method, params)
    _check_order(method, checked)
    return checked


def refuse_unknown(method: Method, params: Mapping[str, JSON]) -> None:
    """Raises BadParams for the first param that the row does not have, with the one that may have been meant."""
    known = [param.name for param in params_of(method)]
    for name, value in params.items():
        if value is not None and name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1)
            meant = f' (did you mean "{near[0]}"?)' if near else ""
            raise BadParams(f"params.{name}", f"{method.name} has no such param{meant}")


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


def _check_order(method: Method, checked: Mapping[str, JSON]) -> None:
    for name, greater in method.less:
        one, other = checked.get(name), checked.get(greater)
        if isinstance(one, int | float) and isinstance(other, int | float) and one >= other:
            raise BadParams(f"params.{greater}", f"{other:g} is not more than {name} {one:g}")


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
