"""Makes a machine ready to be imaged: traces go, the server is told, the agent goes.

Effects: journaled. Removing is idempotent, so a crash begins it again; what the agent is goes only after the server has
the command's end and all its output, and `agent.retiring` sees that through from there.

What the real machine needs: root, and an agent that nothing else is asked of. Then shut it down and take the image: the
agent has ended, and a new start of it finds no identity and needs a new enrolment code. OpenSSH makes no new host keys
by itself on Debian: an image without cloud-init needs `ssh-keygen -A` at its first boot.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from paddock.agent import retiring
from paddock.agent.entry import Outcome, Stream
from paddock.agent.skills.skill import Call, Deed, Place, Work, in_thread
from paddock.agent.skills.system import telling, traces
from paddock.agent.skills.system.traces import Act, Scene
from paddock.core.errors import Refused
from paddock.hands import faults
from paddock.wire.fields import BadParams
from paddock.wire.framing import JSON
from paddock.wire.hello import LOG_STREAM

_log = logging.getLogger(__name__)

AGENT = "agent"
ONLY_ASKED = ("authorized_keys",)
"""What nobody expects to lose without having said so."""
_REFUSED_AT_MOST = 200


def deeds(place: Place) -> Mapping[str, Deed]:
    """system.clean_image."""

    async def act(call: Call) -> Outcome:
        items = chosen(call.texts("items"))
        is_dry = bool(call.params.get("dry_run"))
        if not is_dry:
            _check(place, items)
            place.life.busy = retiring.BUSY
        spared = (place.state, place.work, place.temporary)
        scene = Scene(root=Path("/"), spared=spared, users=call.texts("users"), logs=own_logs(place.state))
        try:
            outcome = await in_thread(lambda: clean(call, scene, items, is_dry=is_dry))
            if AGENT in items and not is_dry:
                faults.at("cleaning.asking")
                await in_thread(lambda: retiring.ask(place.state, call.task))
                faults.at("cleaning.asked")
            else:
                place.life.busy = ""
        except BaseException:
            place.life.busy = ""
            raise
        return outcome

    async def told(task: str) -> None:
        if retiring.is_asked(place.state, task):
            await in_thread(lambda: retiring.begin(place.state, task))
            _log.warning("the machine is clean, the agent ends", extra={"task": task})
            place.life.ended.set()

    return {"system.clean_image": Work(act=act, streams=True, resume=act, told=told)}


def chosen(items: Iterable[str]) -> tuple[str, ...]:
    """The items in the order in which they go. Raises BadParams for one that there is not."""
    known = (*traces.ITEMS, AGENT)
    wanted = tuple(items)
    for index, item in enumerate(wanted):
        if item not in known:
            raise BadParams(f"params.items[{index}]", f"{item[:50]!r} is none of {', '.join(known)}")
    return tuple(item for item in known if (item in wanted if wanted else item not in ONLY_ASKED))


def _check(place: Place, items: tuple[str, ...]) -> None:
    """Refused where it would take more than this machine's own, or where somebody still needs the agent."""
    if place.machine:
        raise Refused(f"{place.machine}: is no machine of its own, its files are its host's")
    if items != (AGENT,):
        if kind := telling.container(Path("/")):
            raise Refused(f"system.clean_image: this is a container ({kind})", hint="its engine makes images of it")
        if os.geteuid() != 0:
            raise Refused("system.clean_image: needs root", hint="run the agent as root")
    if carried := len([*place.state.glob("machines/*/*")]):
        raise Refused(
            f"system.clean_image: the agent carries {carried} machines", hint="take the host out of its pools"
        )
    if place.running() > 1:
        raise Refused(
            f"system.clean_image: {place.running() - 1} other commands run", hint="wait until they have ended"
        )


def own_logs(state: Path) -> tuple[Path, ...]:
    """Where an installed agent may write logs of its own: beside its state, below its base."""
    base = state.parent
    return (base / "log",) if (base / "etc/agent.conf").is_file() and (base / "log").is_dir() else ()


def clean(call: Call, scene: Scene, items: tuple[str, ...], *, is_dry: bool) -> Outcome:
    """Make all items but the agent gone, and write down each path; with `is_dry` only write down."""
    call.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    output = call.directory / "output"
    counts: dict[str, JSON] = {}
    refused: list[JSON] = []
    with output.open("ab") as said:
        for item in items:
            faults.at("cleaning.item")
            counts[item] = dict(_clean(item, scene, said, refused, is_dry=is_dry))
            said.flush()
            call.grew()
            faults.at("cleaning.item_gone")
        os.fsync(said.fileno())
    streams = {LOG_STREAM: Stream(path=str(output), length=output.stat().st_size)}
    result: dict[str, JSON] = {"items": counts, "refused": refused, "dry_run": is_dry}
    return Outcome(result=result, streams=streams)


def _clean(item: str, scene: Scene, said: BinaryIO, refused: list[JSON], *, is_dry: bool) -> Iterator[tuple[str, int]]:
    done = {Act.REMOVE: 0, Act.EMPTY: 0}
    if item == AGENT:
        said.write(b"agent: would go\n" if is_dry else b"agent: goes once the server has this\n")
    find = traces.ITEMS.get(item)
    for trace in find(scene) if find is not None else ():
        if not traces.is_there(trace):
            continue
        path = str(trace.path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        try:
            if not is_dry:
                traces.undo(trace)
        except OSError as exc:
            if len(refused) < _REFUSED_AT_MOST:
                refused.append({"path": path[:500], "why": exc.strerror or str(exc)})
            said.write(f"{item}: not {path}: {exc.strerror}\n".encode())
            continue
        done[trace.act] += 1
        said.write(f"{item}: {'would ' if is_dry else ''}{trace.act} {path}\n".encode())
    yield "removed", done[Act.REMOVE]
    yield "emptied", done[Act.EMPTY]
