"""Installs, removes, upgrades and lists packages with the machine's own package manager.

Effects: journaled; each run states an end, and one that was ended half-way is mended by the next one.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills import programs
from paddock.agent.skills.package import home, listing, script
from paddock.agent.skills.package.names import read
from paddock.agent.skills.package.tool import Tool, Verb, Wish
from paddock.agent.skills.script import conclude as conclude_script
from paddock.agent.skills.script import variables
from paddock.agent.skills.skill import Call, Deed, Place, Program, Read
from paddock.core.errors import Broken, Refused
from paddock.hands.exit import Exit, Reason
from paddock.hands.order import Order
from paddock.wire.framing import JSON
from paddock.wire.messages import Code

_MANAGER = "manager"
_LIST_LIMIT = 60  # seconds


def methods(place: Place) -> Mapping[str, Deed]:
    """package.install, package.remove, package.upgrade, package.list."""

    def program(verb: Verb) -> Program:
        prepare: Callable[[Call], Order] = functools.partial(_prepare, place, verb)
        return Program(prepare=prepare, conclude=conclude)

    async def tell(call: Call) -> Mapping[str, JSON]:
        return await _list(place, call)

    return {
        **{f"package.{verb}": program(verb) for verb in Verb},
        "package.list": Read(answer=tell),
    }


def _prepare(place: Place, verb: Verb, call: Call) -> Order:
    """The task for one wish. Refused, or BadParams, before anything is touched."""
    root = _root(place, call)
    tool = home.tool_of(root)
    wanted = read(call.texts("names"), tool.grammar, versions=verb is Verb.INSTALL)
    if os.geteuid() != 0:
        raise Refused(f"{call.method}: packages are root's, and this agent is not")
    wish = Wish(
        verb=verb,
        wanted=wanted,
        purge=call.params.get("purge") is True,
        refresh=call.params.get("refresh") is True,
        root=root,
        directory=call.directory,
    )
    text = script.write(tool, wish, most=int(call.seconds("wait", 600).total_seconds()))
    call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (call.directory / "script").write_text(text)
    (call.directory / _MANAGER).write_text(tool.name)
    return Order(
        task=call.task,
        directory=call.directory,
        argv=("/bin/sh", str(call.directory / "script")),
        env=_environment(place, tool, wish),
        cwd=place.work,
        limit=call.limit,
        cgroup=place.group_of(call.task),
    )


def _root(place: Place, call: Call) -> str:
    given = call.text("root")
    if not given:
        return ""
    found = place.resolve(given)
    if not found.is_dir():
        raise Refused(f"{found}: not a directory")
    return "" if found == Path("/") else str(found)


def _environment(place: Place, tool: Tool, wish: Wish) -> dict[str, str]:
    env = {**variables(place, {}), **tool.env, "PATH": programs.path(), "LC_ALL": "C.UTF-8"}
    for name, text in tool.files(wish).items():
        wish.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = wish.directory / name.lower()
        file.write_text(text)
        env[name] = str(file)
    return env


def conclude(call: Call, ended: Exit) -> Outcome:
    """What is different now, if the manager ended well; busy, if it never came to its turn."""
    outcome = conclude_script(call, ended)
    manager = _text(call.directory / _MANAGER)
    if (call.directory / script.WAITING).exists() and ended.reason in (Reason.EXITED, Reason.LIMIT):
        msg = f"{manager}: others held its lock all the time, nothing was changed"
        return Outcome(code=Code.BUSY, msg=msg, streams=outcome.streams)
    before, after = call.directory / script.BEFORE, call.directory / script.AFTER
    changed = None
    if before.exists() and after.exists():
        changed = listing.changes(listing.parse(_text(before)), listing.parse(_text(after)))
    if outcome.code is not None:
        return outcome
    if ended.exit != 0 or changed is None:
        how = f"exit {ended.exit}" if ended.exit is not None else f"signal {ended.signal}"
        done = f"; {len(changed)} packages are different all the same" if changed else ""
        return Outcome(
            code=Code.FAILED, msg=f"{manager}: ended with {how}, see its output{done}", streams=outcome.streams
        )
    return Outcome(result={"manager": manager, **listing.told(changed)}, streams=outcome.streams)


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


async def _list(place: Place, call: Call) -> Mapping[str, JSON]:
    root = await asyncio.to_thread(_root, place, call)
    tool = await asyncio.to_thread(home.tool_of, root)
    asked = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        tool.listing(root),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": programs.path(), "LC_ALL": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(_LIST_LIMIT):
            printed, complaint = await asked.communicate()
    except BaseException:
        asked.kill()
        await asked.wait()
        raise
    if asked.returncode:
        raise Broken(f"{tool.name}: {complaint.decode('utf-8', 'replace').strip()[:500] or 'cannot list'}")
    found = await asyncio.to_thread(listing.parse, printed.decode("utf-8", "replace"))
    paged = listing.page(found, glob=call.text("glob"), cursor=call.text("cursor"), most=call.number("most", 2000))
    return {"manager": tool.name, **paged}
