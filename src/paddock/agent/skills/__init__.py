"""What an agent can do: skills by name, each bringing the methods that it carries out."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

from paddock.agent.skills.skill import Deed, Place
from paddock.core.errors import Refused

MODULES: Mapping[str, str] = {
    "script": "paddock.agent.skills.script",
    "file": "paddock.agent.skills.files",
    "sources": "paddock.agent.skills.sources",
    "system": "paddock.agent.skills.system",
}
"""Skills without a life of their own: `methods(place)` is all there is. `local` is assembled by the worker."""


def assemble(place: Place, names: Iterable[str]) -> dict[str, Deed]:
    """The methods of these skills. A skill is loaded only if it is wanted. Refused for an unknown one."""
    deeds: dict[str, Deed] = {}
    for name in names:
        if name not in MODULES:
            raise Refused(f"{name}: no such skill", hint=f"there are {', '.join(sorted(MODULES))}")
        methods: Callable[[Place], Mapping[str, Deed]] = import_module(MODULES[name]).methods
        deeds.update(methods(place))
    return deeds
