"""Applies a playbook, a manifest or a recipe to this machine, and tells whether it changed.

Effects: journaled; what is fetched is verified before anything of it runs.
"""

import hashlib
import os
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from pathlib import Path

from paddock.agent import fetching
from paddock.agent.entry import Outcome
from paddock.agent.skills import programs
from paddock.agent.skills.config.ansible import ANSIBLE
from paddock.agent.skills.config.chef import CHEF
from paddock.agent.skills.config.puppet import PUPPET
from paddock.agent.skills.config.tool import Recipe, State, Tool
from paddock.agent.skills.script import conclude as conclude_script
from paddock.agent.skills.script import variables
from paddock.agent.skills.skill import Call, Deed, Place, Program
from paddock.core.errors import Refused
from paddock.hands.exit import Exit
from paddock.hands.order import Order
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock.wire.messages import Code

TOOLS = {tool.name: tool for tool in (ANSIBLE, PUPPET, CHEF)}
_LARGEST = 64 << 20
"""Bytes of a file that is fetched."""
_FETCH_LIMIT = timedelta(minutes=5)


def methods(place: Place) -> Mapping[str, Deed]:
    """config.apply."""
    return {
        "config.apply": Program(
            prepare=lambda call: prepare(place, call), conclude=conclude, keep=("tool", "check", "url")
        )
    }


def prepare(place: Place, call: Call) -> Order | Awaitable[Order]:
    """The tool's task. What cannot be taken is refused before anything is fetched, and all before anything runs."""
    tool = TOOLS[call.text("tool")]
    given = call.params.get("variables")
    recipe = Recipe(
        file=call.directory / tool.file,
        directory=call.directory,
        variables=given if isinstance(given, Mapping) else {},
        check=call.params.get("check") is True,
    )
    if name := tool.refuse(recipe.variables):
        raise BadParams(f"params.variables[{name!r}]", f"{tool.name} takes texts, numbers and booleans only")
    program = programs.find(*tool.programs)
    if not program:
        raise Refused(f"{tool.programs[0]}: is not installed on this machine; {tool.origin} brings it")
    if not call.text("url"):
        return _order(place, call, tool, program, recipe)
    if why := fetching.objection(call.text("url")):
        raise BadParams("params.url", why)
    if not call.text("sha256"):
        raise BadParams("params.sha256", "is missing: what is fetched is verified before it runs")
    return _fetched(place, call, tool, program, recipe)


async def _fetched(place: Place, call: Call, tool: Tool, program: str, recipe: Recipe) -> Order:
    wanted = fetching.Wanted(url=call.text("url"), sha256=call.text("sha256"), most=_LARGEST, resolve=place.resolve)
    recipe.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    await fetching.fetch(wanted, recipe.file, limit=min(call.limit or _FETCH_LIMIT, _FETCH_LIMIT))
    return _order(place, call, tool, program, recipe)


def _order(place: Place, call: Call, tool: Tool, program: str, recipe: Recipe) -> Order:
    recipe.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not call.text("url"):
        _write_content(call, recipe)
    for name, text in tool.files(recipe).items():
        _write(recipe.directory / name, text.encode())
    return Order(
        task=call.task,
        directory=call.directory,
        argv=(program, *tool.command(recipe)),
        env={**variables(place, {}), "PATH": programs.path(), "LC_ALL": "C.UTF-8", **tool.env(recipe)},
        cwd=recipe.directory,
        limit=call.limit,
        cgroup=place.group_of(call.task),
    )


def _write_content(call: Call, recipe: Recipe) -> None:
    data = call.text("content").encode()
    found = hashlib.sha256(data).hexdigest()
    if call.text("sha256", found) != found:
        raise Refused(f"content: its sha256 is {found}, not {call.text('sha256')}")
    _write(recipe.file, data)


def _write(path: Path, data: bytes) -> None:
    """Recipes and variables hold secrets: the file is its owner's alone from the beginning."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def conclude(call: Call, ended: Exit) -> Outcome:
    """What the tool's code and record say; one that ran to its end is complete, whatever it came to."""
    outcome = conclude_script(call, ended)
    if outcome.code is not None:
        return outcome
    tool, check = TOOLS[call.text("tool")], call.params.get("check") is True
    if ended.exit is None:
        msg = f"{tool.name}: ended with signal {ended.signal}, see its output"
        return Outcome(code=Code.FAILED, msg=msg, streams=outcome.streams)
    recipe = Recipe(file=call.directory / tool.file, directory=call.directory, check=check)
    verdict = tool.judge(recipe, ended.exit)
    # Codes differ from tool to tool, and one of puppet's that is not 0 is a good one: here 0 is good and else is not.
    shown = (ended.exit or 1) if verdict.state is State.FAILED else 0
    result: dict[str, JSON] = {"tool": tool.name, "state": str(verdict.state), "exit": shown, "check": check}
    return Outcome(result={**result, **verdict.counts}, streams=outcome.streams)
