"""A machine forgets who it was: tasks, journal, and what tells it from others.

Effects: journaled by one file in the state directory, `parking`, written before anything goes and removed last: who
finds it goes on. Needs the state's lock, and that no command runs any more.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from paddock.agent import durable
from paddock.agent.parking import dress, heard, record
from paddock.agent.parking.kernel import Kernel
from paddock.agent.settings import Settings
from paddock.agent.skills import tools
from paddock.agent.skills.system import traces
from paddock.agent.worker import sweep
from paddock.core.errors import PaddockError
from paddock.hands import faults

_log = logging.getLogger(__name__)

FILE = "parking"
_KEPT = frozenset({FILE, "lock", "process", "upgrade"})
_TELLING = ("ssh_host_keys", "machine_id", "cloud_init", "leases", "random_seed", "network_names")
"""Traces that tell machines apart: they go from one that runs on, for forks of it to be somebody else."""
_LEFT = ("histories", "temporary", "logs")
"""What goes, too, from the disk of a machine that goes off: services that run would miss it."""
_SEED = "systemd-random-seed.service"


def begin(state: Path, *, power_off: bool) -> None:
    """From here on there is no way back."""
    faults.at("parking.marking")
    durable.write(state / FILE, {"power_off": power_off})
    faults.at("parking.marked")


def is_begun(state: Path) -> bool:
    """Whether what is here is what was not removed yet."""
    return (state / FILE).exists()


async def finish(chosen: Settings, kernel: Kernel) -> None:
    """Be nobody. Killed anywhere, the next birth goes on."""
    is_last = bool(isinstance(told := durable.read(chosen.state / FILE), dict) and told.get("power_off"))
    # The record first: what is found without it is nobody's.
    durable.remove(chosen.state / record.FILE)
    heard.forget(chosen.rootfs)
    faults.at("parking.nobody")
    await sweep(chosen.tasks, frozenset())
    faults.at("parking.ended")
    await asyncio.to_thread(_empty, chosen)
    faults.at("parking.emptied")
    await asyncio.to_thread(_clean, chosen, is_last=is_last)
    kernel.set_name("localhost")
    faults.at("parking.cleaned")
    await asyncio.to_thread(kernel.sync)
    durable.remove(chosen.state / FILE)
    faults.at("parking.forgotten")
    _log.warning("this machine is nobody", extra={"state": str(chosen.state)})


def power_off(rootfs: Path) -> None:
    """In order where something can do that, at once where nothing can. A machine that is a directory only notes it."""
    if rootfs != Path("/"):
        (rootfs / "run/paddock").mkdir(parents=True, exist_ok=True)
        with (rootfs / "run/paddock/told").open("a", encoding="utf-8") as file:
            file.write("off\n")
        return
    words = (("systemctl", "--no-wall", "poweroff"),) if (rootfs / "run/systemd/system").is_dir() else ()
    for argv in (*words, ("poweroff",)):
        with suppress(PaddockError):
            if tools.attempt(*argv, limit=30).code == 0:
                return
    from paddock.agent.skills.system import rebooting

    rebooting.call_kernel(rebooting.POWER_OFF)


def _empty(chosen: Settings) -> None:
    """The state and the tasks' temporary files; where tasks start is left: it may be what an image was made for."""
    for path in _inside(chosen.state, chosen.work):
        if path.name not in _KEPT or path.parent != chosen.state:
            _remove(path)
    for path in chosen.temporary.glob("*"):
        _remove(path)
    durable.sync(chosen.state)


def _inside(directory: Path, spared: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path in spared.parents:
            yield from _inside(path, spared)
        elif path != spared:
            yield path


def _clean(chosen: Settings, *, is_last: bool) -> None:
    root = chosen.rootfs
    dress.undress(root)
    if is_last and root == Path("/"):
        with suppress(PaddockError):
            # It would write one more when the machine goes off, and every clone of the disk would begin with that.
            tools.attempt("systemctl", "stop", _SEED)
    scene = traces.Scene(root=root, spared=(chosen.state, chosen.work, chosen.temporary))
    for item in (*_TELLING, *(_LEFT if is_last else ())):
        for trace in traces.ITEMS[item](scene):
            if traces.is_there(trace):
                try:
                    traces.undo(trace)
                except OSError as exc:
                    _log.warning("a trace stays", extra={"path": str(trace.path), "why": str(exc)})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        return
    with suppress(FileNotFoundError):
        path.unlink()


def answer(handle: int, text: str) -> None:
    """The last word of a machine that goes off, on a line that is not attended any more."""
    with suppress(OSError), open(handle, "wb", buffering=0, closefd=True) as line:
        line.write(text.encode() + b"\n")
