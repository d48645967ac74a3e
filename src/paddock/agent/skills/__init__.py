"""What an agent can do: skills by name, built in or installed beside Paddock."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from paddock.agent.skills.skill import Deed, Place
from paddock.core.errors import Broken, Refused
from paddock.wire.methods import METHODS, Method

GROUP = "paddock.skills"
"""The group of entry points under which other packages name their skills."""

MODULES: Mapping[str, str] = {
    "script": "paddock.agent.skills.script",
    "file": "paddock.agent.skills.files",
    "sources": "paddock.agent.skills.sources",
    "system": "paddock.agent.skills.system",
    "package": "paddock.agent.skills.package",
    "config": "paddock.agent.skills.config",
    "local": "paddock.agent.skills.local",
}
"""What Paddock itself brings."""


@dataclass(frozen=True, kw_only=True)
class Skills:
    """What an agent can do: the deed of each method, and the rows of the table that these methods have."""

    deeds: Mapping[str, Deed]
    rows: Mapping[str, Method]


def installed() -> dict[str, str]:
    """Skills of other packages: name to module."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=GROUP) if point.name not in MODULES}


def known(names: Iterable[str]) -> dict[str, str]:
    """Where each of these skills is. Refused for one that nobody has; other packages are only asked for need."""
    wanted = tuple(names)
    found = {name: MODULES[name] for name in wanted if name in MODULES}
    if len(found) < len(set(wanted)):
        others = installed()
        for name in wanted:
            if name not in MODULES and name not in others:
                raise Refused(
                    f"{name or repr(name)}: no such skill", hint=f"there are {', '.join(sorted([*MODULES, *others]))}"
                )
        found |= {name: others[name] for name in wanted if name in others}
    return {name: found[name] for name in wanted}


def rows(names: Iterable[str]) -> dict[str, Method]:
    """The table of methods with the rows that these skills bring. Broken for a skill that cannot be loaded."""
    table = dict(METHODS)
    for name, module in known(names).items():
        if name not in MODULES:
            table |= _own_rows(name, _load(name, module))
    return table


@asynccontextmanager
async def opened(place: Place, names: Iterable[str]) -> AsyncIterator[Skills]:
    """These skills, while the block runs. Refused for one that nobody has, Broken for one that cannot be loaded."""
    deeds: dict[str, Deed] = {}
    table = dict(METHODS)
    async with AsyncExitStack() as stack:
        for name, module in known(names).items():
            loaded = _load(name, module)
            if name not in MODULES:
                table |= _own_rows(name, loaded)
            if hasattr(loaded, "opened"):
                deeds |= await stack.enter_async_context(loaded.opened(place))
            else:
                deeds |= loaded.methods(place)
        unknown = sorted(set(deeds) - set(table))
        if unknown:
            raise Broken(f"{unknown[0]}: a skill does it, and no row of the table of methods says how")
        yield Skills(deeds=deeds, rows=table)


def _load(name: str, module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as exc:
        raise Broken(f"skill {name}: {exc}", hint="mend its package, or leave it out of the skills") from exc


def _own_rows(name: str, module: ModuleType) -> dict[str, Method]:
    """Rows of another package's skill; what Paddock brings cannot be declared anew."""
    found: dict[str, Method] = {method.name: method for method in getattr(module, "METHODS", ())}
    for method in found:
        if method in METHODS or not method.startswith(f"{name}."):
            raise Broken(f"skill {name}: {method} is not a method of its own", hint=f"its methods begin with {name}.")
    return found
