"""The helper machine: a kernel of the host, busybox, and a script of ours, all in memory.

Effects: idempotent. It has a uniform name, so that one whose agent was killed is found and ended; its directory is
removed with it, or with all else that is not whole.
"""

import asyncio
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from paddock.agent.skills.hypervisor.errands import kernel
from paddock.agent.skills.hypervisor.errands.cpio import Archive
from paddock.agent.skills.hypervisor.ports import Disk, Driver, Plan
from paddock.core.errors import Broken
from paddock.core.image import HELPER
from paddock.hands import faults

LIMIT = timedelta(minutes=1)
"""For what takes two seconds."""
CMDLINE = "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off"
"""A kernel that panics ends the machine: nobody waits for it to the limit."""
_WORD = re.compile(r"^helper: (done|refused: (.*?))\s*$", re.MULTILINE)
_HEAD = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
end() { echo "helper: $*" > /dev/console; sync; poweroff -f; exec sleep 60; }
refuse() { end "refused: $*"; }
for module in MODULES; do insmod /modules/$module; done
"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a helper does: a script for busybox that ends with `end done` or `refuse WHY`, and what it needs."""

    script: str
    modules: Sequence[str] = ()
    payload: Archive | None = None


def initrd(work: Work, found: kernel.Kernel, root: Path = Path("/")) -> bytes:
    """Everything that the machine is made of but its kernel."""
    archive, names = Archive(), []
    for name, content in found.files(work.modules):
        archive.file(f"modules/{name}", content)
        names.append(name)
    archive.file("bin/busybox", kernel.busybox(root), mode=0o755)
    for directory in ("dev", "proc", "sys", "root"):
        archive.directory(directory)
    archive.file("init", (_HEAD.replace("MODULES", " ".join(names)) + work.script).encode(), mode=0o755)
    return archive.content() + (work.payload.content() if work.payload is not None else b"")


async def run(
    driver: Driver,
    work: Work,
    *,
    name: str,
    directory: Path,
    disks: Iterable[Disk] = (),
    limit: timedelta = LIMIT,
    boot: Callable[[Plan], Awaitable[None]] | None = None,
) -> None:
    """Run it to its end. Broken with its own words if it refuses, or if it does not end in time."""
    found = await asyncio.to_thread(kernel.find)
    await asyncio.to_thread(_prepare, directory, work, found)
    plan = Plan(
        name=name,
        directory=directory,
        memory=HELPER.memory,
        vcpus=HELPER.vcpus,
        disks=list(disks),
        kernel=found.image,
        initrd=directory / "initrd",
        cmdline=CMDLINE,
    )
    try:
        faults.at("hypervisor.helper_starting")
        async with asyncio.timeout(limit.total_seconds()):
            await (boot or driver.boot)(plan)
            faults.at("hypervisor.helper_started")
            await driver.wait_off(plan)
        _check(name, await asyncio.to_thread(_said, directory))
    except TimeoutError as exc:
        raise Broken(f"{name}: the helper machine did not end within {limit}: {_last(_said(directory))}") from exc
    finally:
        await driver.end(directory, name)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _prepare(directory: Path, work: Work, found: kernel.Kernel) -> None:
    shutil.rmtree(directory, ignore_errors=True)  # of one whose agent was killed
    directory.mkdir(mode=0o700, parents=True)
    (directory / "initrd").write_bytes(initrd(work, found))


def _said(directory: Path) -> str:
    try:
        return (directory / "console.log").read_text("utf-8", "replace")
    except OSError:
        return ""


def _check(name: str, said: str) -> None:
    words = _WORD.findall(said)
    if not words:
        raise Broken(f"{name}: the helper machine ended without a word: {_last(said)}")
    if words[-1][0] != "done":
        raise Broken(f"{name}: {words[-1][1]}")


def _last(said: str) -> str:
    lines = [line for line in said.split("\n") if line.strip()]
    return lines[-1].strip()[:300] if lines else "its console is empty"
