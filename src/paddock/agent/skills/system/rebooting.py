"""Boots the machine anew, at most once for a command.

Effects: journaled; that it is being called is on disk before it is called. After that it is never called again: either
the machine comes back under a new boot id, or the command has failed when its limit is over.

What the real machine needs: root, and `systemctl`, `reboot`, or the system call. The server completes the command
when hello shows a new boot id; the agent comes to the same end by itself, and says so if it is asked again.
"""

import asyncio
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from paddock.agent import durable
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Call, Deed, Place, Work, in_thread
from paddock.agent.skills.system import kexec, telling
from paddock.core.errors import Broken, Refused
from paddock.hands import faults
from paddock.wire.framing import JSON
from paddock.wire.messages import Code

_log = logging.getLogger(__name__)

_CALLED = "called"
_LIMIT = 600.0  # seconds, where the command has no limit
_MARGIN = 0.2  # seconds before the command's own limit: we know better why
_AUTOBOOT = 0x01234567
POWER_OFF = 0x4321FEDC


def deeds(place: Place) -> Mapping[str, Deed]:
    """system.reboot."""

    def check() -> None:
        if place.machine:
            raise Refused(f"{place.machine}: is no machine of its own, it shares the kernel of its host")
        if kind := telling.container(Path("/")):
            raise Refused(f"system.reboot: this is a container ({kind})", hint="its engine can start it anew")
        if os.geteuid() != 0:
            raise Refused("system.reboot: needs root", hint="run the agent as root")

    return {"system.reboot": deed(check=check, pull=pull, boot_id=place.life.boot_id)}


def deed(
    *,
    check: Callable[[], None],
    pull: Callable[[str], None],
    boot_id: Callable[[], str],
    load: Callable[[JSON], None] = kexec.load,
    jump: Callable[[str], None] = kexec.jump,
) -> Work:
    """`check` refuses what cannot be; `pull` has the machine boot: it may return, and the machine goes down later.

    Where a kernel is named, `load` makes it ready and `jump` goes on in it instead.
    """

    async def act(call: Call) -> Outcome:
        check()
        if call.boot_id != boot_id():
            return _booted()  # it went down before we came to it
        if _is_called(call):
            return await _wait(call, boot_id())
        kernel = call.params.get("kexec")
        if kernel is not None:
            await in_thread(lambda: load(kernel))
        await asyncio.sleep(call.seconds("delay").total_seconds())
        reason = call.text("reason")
        _log.warning("the machine boots anew", extra={"task": call.task, "reason": reason})
        faults.at("reboot.calling")
        await in_thread(lambda: durable.write(call.directory / _CALLED, {"boot_id": call.boot_id}))
        faults.at("reboot.noted")
        await in_thread(lambda: pull(reason) if kernel is None else jump(reason))
        faults.at("reboot.called")
        return await _wait(call, boot_id())

    return Work(act=act, resume=act)


def _is_called(call: Call) -> bool:
    # Whatever it holds: that it is there counts.
    return (call.directory / _CALLED).exists()


async def _wait(call: Call, boot: str) -> Outcome:
    """Outlive our own machine's end, or not: then it did not go down."""
    limit = call.limit.total_seconds() if call.limit is not None else _LIMIT
    await asyncio.sleep(max(limit - _MARGIN, 0))
    msg = f"{call.task}: the machine was told to boot and still has boot id {boot} when its limit is over"
    return Outcome(code=Code.FAILED, msg=msg)


def _booted() -> Outcome:
    return Outcome(result={"booted": True})


def pull(reason: str) -> None:
    """Have this machine boot: in order where something can do that, at once where nothing can."""
    os.sync()
    for words in orders(Path("/"), reason):
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            _log.warning("not this way", extra={"command": words[0], "why": str(exc)})
            continue
        if done.returncode == 0:
            return
        why = done.stderr.decode("utf-8", "replace")[-300:]
        _log.warning("not this way", extra={"command": words[0], "why": why})
    call_kernel(_AUTOBOOT)


def orders(root: Path, reason: str) -> list[tuple[str, ...]]:
    """The programs that boot a machine whose files lie below `root`, best first."""
    found: list[tuple[str, ...]] = []
    if (root / "run/systemd/system").is_dir():
        # No wall of words: nobody sits there, and `--message` is newer than the oldest systemd that we meet.
        found.append(("systemctl", "--no-wall", "reboot"))
    if (program := shutil.which("reboot", path="/usr/sbin:/sbin:/usr/bin:/bin")) is not None:
        found.append((program,))
    return found


def call_kernel(how: int) -> None:
    """Without waiting for anybody, once what was written is on its disks."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    os.sync()
    if libc.reboot(how) != 0:
        raise Broken(f"reboot: {os.strerror(ctypes.get_errno())}")
