"""What an agent can do: skills by name, built in or installed beside Paddock."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from paddock.agent.skills.skill import NOT_OURS, Deed, Place
from paddock.core.errors import Broken, PaddockError, Refused
from paddock.wire.methods import METHODS, Method

_log = logging.getLogger(__name__)

_OPEN_LIMIT = 30.0  # seconds that a skill of another package has to begin
GROUP = "paddock.skills"
"""The group of entry points under which other packages name their skills."""

MODULES: Mapping[str, str] = {
    "script": "paddock.agent.skills.script",
    "file": "paddock.agent.skills.files",
    "sources": "paddock.agent.skills.sources",
    "system": "paddock.agent.skills.system",
    "package": "paddock.agent.skills.package",
    "config": "paddock.agent.skills.config",
    "user": "paddock.agent.skills.users",
    "disk": "paddock.agent.skills.disks",
    "log": "paddock.agent.skills.logs",
    "tunnel": "paddock.agent.skills.tunnel",
    "local": "paddock.agent.skills.local",
    "hypervisor": "paddock.agent.skills.hypervisor",
}
"""What Paddock itself brings."""


@dataclass(frozen=True, kw_only=True)
class Skills:
    """What an agent can do: the deed of each method, and the rows of the table that these methods have."""

    deeds: Mapping[str, Deed]
    rows: Mapping[str, Method]
    names: tuple[str, ...] = ()


def installed() -> dict[str, str]:
    """Skills of other packages: name to module. What is first on the path counts, as it does for modules."""
    found: dict[str, str] = {}
    for place in sys.path:
        for name, module in _named(place or "."):
            found.setdefault(name, module)
    return {name: module for name, module in found.items() if name not in MODULES}


def _named(place: str) -> Iterator[tuple[str, str]]:
    """What packages of one place on the path name. Its files are read by hand: Python's own reader costs an agent more
    than all that it finds, at each start.
    """
    if os.path.isfile(place):
        from importlib.metadata import distributions

        for one in distributions(path=[place]):
            yield from ((point.name, point.value) for point in one.entry_points if point.group == GROUP)
        return
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(place)):
            if entry.endswith((".dist-info", ".egg-info")):
                with contextlib.suppress(OSError, ValueError):
                    yield from _read(Path(place, entry, "entry_points.txt").read_text("utf-8"))


def _read(text: str) -> Iterator[tuple[str, str]]:
    """The lines `name = module` of our group."""
    if GROUP not in text:
        return
    group = ""
    for line in text.splitlines():
        name, sign, module = line.partition("=")
        if line.startswith("["):
            group = line.strip(" []")
        elif sign and group == GROUP and not line.startswith(("#", ";")):
            yield name.strip(), module.strip()


def usual(own: Iterable[str]) -> tuple[str, ...]:
    """These skills, and those that somebody installed beside Paddock: they were installed to be had.

    One that cannot be loaded is told in the log and left out: nobody asked for it by name.
    """
    others = []
    for name, module in installed().items():
        try:
            _own_rows(name, _load(name, module))
            others.append(name)
        except Exception as exc:  # whatever a stranger's module does when it is loaded
            _log.error("a skill that is installed is left out", extra={"skill": name, "why": str(exc)})
    return (*own, *sorted(others))


_CARRIERS = ("local", "hypervisor")
"""Skills that make machines: `machine.build` can mean one of them only."""


def known(names: Iterable[str]) -> dict[str, str]:
    """Where each of these skills is. Refused for one that nobody has; other packages are only asked for need."""
    wanted = tuple(names)
    if set(_CARRIERS) <= set(wanted):
        raise Refused(f"{', '.join(_CARRIERS)}: a host makes machines in one way", hint="leave one of them out")
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
    """These skills, while the block runs. Refused for one that nobody has.

    One of another package that cannot be loaded or opened is left out: the log says so, and an alert for as long as it
    is so. Paddock's own are Broken then.
    """
    deeds: dict[str, Deed] = {}
    table = dict(METHODS)
    there = []
    async with AsyncExitStack() as stack:
        for name, module in known(names).items():
            if name in MODULES:
                deeds |= await stack.enter_async_context(_opened(place, _load(name, module)))
            else:
                try:
                    found, own = await _open_other(stack, place, name, module)
                except NOT_OURS:
                    raise
                except BaseException as exc:  # whatever a stranger's module does
                    await _leave_out(place, name, exc)
                    continue
                deeds |= found
                table |= own
                if place.alerts is not None:
                    await place.alerts.end(f"skill {name}")
            there.append(name)
        unknown = sorted(set(deeds) - set(table))
        if unknown:
            raise Broken(f"{unknown[0]}: a skill does it, and no row of the table of methods says how")
        yield Skills(names=tuple(there), deeds=deeds, rows=table)


async def _open_other(
    stack: AsyncExitStack, place: Place, name: str, module: str
) -> tuple[Mapping[str, Deed], Mapping[str, Method]]:
    """What a skill of another package does, and its rows."""
    loaded = _load(name, module)
    own = _own_rows(name, loaded)
    async with asyncio.timeout(_OPEN_LIMIT):
        deeds = await stack.enter_async_context(_forgiven(name, _opened(place, loaded)))
    if foreign := sorted(set(deeds) - set(own)):
        raise Broken(f"skill {name}: {foreign[0]} is not a method of its own", hint=f"its methods begin with {name}.")
    return deeds, own


@asynccontextmanager
async def _opened(place: Place, module: ModuleType) -> AsyncIterator[Mapping[str, Deed]]:
    if hasattr(module, "opened"):
        async with module.opened(place) as deeds:
            yield deeds
    else:
        yield module.methods(place)


@asynccontextmanager
async def _forgiven(
    name: str, opened: AbstractAsyncContextManager[Mapping[str, Deed]]
) -> AsyncIterator[Mapping[str, Deed]]:
    """How a stranger's skill takes its end is not the agent's end."""
    deeds = await opened.__aenter__()
    try:
        yield dict(deeds)
    finally:
        try:
            await opened.__aexit__(None, None, None)
        except NOT_OURS:
            raise
        except BaseException:
            _log.exception("a skill does not end well", extra={"skill": name})


async def _leave_out(place: Place, name: str, exc: BaseException) -> None:
    why = exc.message if isinstance(exc, PaddockError) else f"{type(exc).__name__}: {exc}"
    _log.error("a skill is left out", extra={"skill": name, "why": why})
    if place.alerts is not None:
        await place.alerts.begin(f"skill {name}", f"skill {name}: the agent runs without it: {why}", level="error")


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
