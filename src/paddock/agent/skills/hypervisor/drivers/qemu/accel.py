"""KVM or TCG: what is configured, or what has been seen to run a guest on this host.

Effects: idempotent; what was found is kept until the host boots again.

A /dev/kvm that opens and makes processors may still never bring a guest to user space. So `auto` boots one.
"""

import asyncio
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor.drivers.qemu.command import MACHINE, PROGRAM, Accelerator
from paddock.core.errors import PaddockError, Refused
from paddock.hands.keeper import boot_id

_log = logging.getLogger(__name__)

FILE = "accel.json"
DEVICE = Path("/dev/kvm")
Probe = Callable[[Accelerator], Awaitable[None]]
"""Boots a guest that says so and powers itself off. A PaddockError says why it did not."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """`why` tells what keeps a host from KVM; empty where it has it, or where TCG is wanted."""

    accelerator: Accelerator
    why: str = ""


class Choice:
    """The accelerator of this host, found once."""

    def __init__(self, root: Path, wanted: str, probe: Probe) -> None:
        self._file = root / FILE
        self._wanted = wanted
        self._probe = probe
        self._turn = asyncio.Lock()
        self._chosen: Chosen | None = None

    def check(self) -> None:
        """Refused if KVM is wanted and not to be had. Nothing is tried yet: an agent that starts waits for no guest."""
        if self._wanted == "kvm" and (why := closed()):
            raise Refused(f"kvm: {why}", hint="accel = auto takes TCG where there is no KVM")

    async def made(self) -> Chosen:
        """What it is. Refused if KVM is wanted and not to be had."""
        async with self._turn:
            if self._chosen is None:
                self._chosen = await self._make()
        return self._chosen

    async def _make(self) -> Chosen:
        self.check()
        if self._wanted != "auto":
            return Chosen(accelerator=Accelerator(name=self._wanted))
        why = closed()
        if not why:
            known = self._known()
            if known is not None:
                return known
            why = await self._tried()
        chosen = Chosen(accelerator=Accelerator(name="tcg" if why else "kvm"), why=why)
        durable.write(self._file, {"of": _now(), "name": chosen.accelerator.name, "why": why})
        _log.info("an accelerator is chosen", extra={"accel": chosen.accelerator.name, "why": why})
        return chosen

    def _known(self) -> Chosen | None:
        said = durable.read(self._file)
        if not isinstance(said, Mapping) or said.get("of") != _now() or said.get("name") not in ("kvm", "tcg"):
            return None
        return Chosen(accelerator=Accelerator(name=str(said["name"])), why=str(said.get("why", "")))

    async def _tried(self) -> str:
        try:
            await self._probe(Accelerator(name="kvm"))
        except PaddockError as exc:
            return exc.message
        return ""


def stamp(accelerator: Accelerator) -> str:
    """What frozen memory depends on, digested: computer, emulator, machine, accelerator, processor."""
    told = [_computer(), _binary(), MACHINE, accelerator.name, accelerator.cpu, _processor()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def closed() -> str:
    """Why KVM cannot even be tried; empty where it can."""
    if not DEVICE.exists():
        return f"there is no {DEVICE} here"
    return "" if os.access(DEVICE, os.R_OK | os.W_OK) else f"{DEVICE} may not be opened"


def _now() -> str:
    """What was found holds for this boot of the host, and this QEMU."""
    return f"{boot_id()} {_binary()}"


def _binary() -> str:
    """The emulator's file: another one looks the same only if it is the same."""
    found = shutil.which(PROGRAM, path=tools.ENVIRONMENT["PATH"])
    if found is None:
        return ""
    about = os.stat(found)
    return f"{os.path.realpath(found)} {about.st_size} {about.st_mtime_ns} {about.st_ino}"


@cache
def _computer() -> str:
    for file in ("/etc/machine-id", "/proc/sys/kernel/hostname"):
        try:
            if said := Path(file).read_text("ascii", "replace").strip():
                return said
        except OSError:
            continue
    return ""


@cache
def _processor() -> str:
    """Model and features of the first processor; the others of a computer are like it."""
    said = Path("/proc/cpuinfo").read_text("ascii", "replace").partition("\n\n")[0]
    told = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    return " ".join(
        value.strip() for name, value in told.items() if name.strip() in ("model name", "flags", "stepping")
    )
