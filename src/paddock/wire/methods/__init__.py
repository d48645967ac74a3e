"""The one table of methods: params, effect, who may ask; checks and docs come from it.

A skill that is installed beside Paddock brings rows of its own: who has more than the table says which (`among`).
"""

from collections.abc import Mapping

from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock.wire.methods import (
    agents,
    configs,
    disks,
    files,
    images,
    logs,
    machines,
    packages,
    scripts,
    sessions,
    sources,
    systems,
    tunnels,
    users,
)
from paddock.wire.methods.table import (
    COMMON,
    Effect,
    Kind,
    Method,
    Param,
    Toward,
    UnknownMethod,
    check_params,
    params_of,
    refuse_unknown,
)

__all__ = [
    "COMMON",
    "METHODS",
    "BadParams",
    "Effect",
    "Kind",
    "Method",
    "Param",
    "Toward",
    "UnknownMethod",
    "check",
    "check_params",
    "describe",
    "find",
    "params_of",
    "refuse_unknown",
]

METHODS: Mapping[str, Method] = {
    method.name: method
    for room in (
        sessions,
        agents,
        systems,
        scripts,
        files,
        sources,
        packages,
        configs,
        users,
        disks,
        logs,
        tunnels,
        machines,
        images,
    )
    for method in room.METHODS
}


def find(method: str, *, toward: Toward = Toward.BOTH, among: Mapping[str, Method] = METHODS) -> Method:
    """The row of a method. With a side given, only what that side carries out. Raises UnknownMethod."""
    found = among.get(method)
    if found is None or (toward is not Toward.BOTH and found.toward not in (toward, Toward.BOTH)):
        raise UnknownMethod(method)
    return found


def check(
    method: str,
    params: Mapping[str, JSON],
    *,
    toward: Toward = Toward.BOTH,
    among: Mapping[str, Method] = METHODS,
    is_strict: bool = False,
) -> dict[str, JSON]:
    """The params that the table knows, defaults filled in; bytes stay base64. Raises BadParams or UnknownMethod.

    Other params are dropped, as a later version may have sent them; strictly, they are refused.
    """
    return check_params(find(method, toward=toward, among=among), params, is_strict=is_strict)


def describe(among: Mapping[str, Method] | None = None) -> list[dict[str, str]]:
    """The table for the documentation: a row a method, then a row a param (`method` is empty there)."""
    rows = []
    for method in (METHODS if among is None else among).values():
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
