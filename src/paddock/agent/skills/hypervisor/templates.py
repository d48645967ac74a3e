"""Templates: ready machines, frozen memory and disk, for others to be forked from.

Effects: idempotent. A template is made under another name and renamed when it is whole; what is not is swept. One that
is damaged is made anew in its place, and what was forked from it keeps the disks that it lies on.
"""

import asyncio
import hashlib
import json
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills.hypervisor import identities
from paddock.agent.skills.hypervisor.parts import Guest, Parts
from paddock.agent.skills.hypervisor.ports import Plan
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken, PaddockError
from paddock.core.image import WARM_UP, kernel_of
from paddock.core.machine import uniform
from paddock.hands import faults
from paddock.wire.framing import JSON
from paddock.wire.specs import MachineSpec

_log = logging.getLogger(__name__)

FILE = "made.json"
_UNFIT = "unfit"
"""A template that has this file is damaged, or is being healed."""
VERSION = 2
"""How templates are made: one of another version is made anew."""
BOOT_LIMIT = timedelta(minutes=5)
WAKE_LIMIT = timedelta(seconds=60)
NO_ROOM = "there is no room on its host's disk for a template"
_PAUSE = timedelta(minutes=10)
"""A machine that could not be frozen is booted for so long before it is tried again."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """Its directory, and the disks in it that forks are cloned from: their name tells apart how often it was made."""

    place: Path
    volume: Path


class Templates:
    """The templates of this host, each made once, however many wait for it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turns: dict[str, asyncio.Lock] = {}
        self._broken: dict[str, tuple[float, str]] = {}
        self._discarded: dict[str, float] = {}

    async def key(self, layer: str, spec: MachineSpec) -> str:
        """The name of the template that machines like this are forked from: whatever its memory depends on."""
        # A layer that was removed by hand and built again is another one to what was cloned from it.
        build = self._parts.images.volume(layer).name
        told = [VERSION, layer, build, spec.memory, spec.vcpus, list(spec.disks), spec.display, _warm_ups(spec)]
        told += [await asyncio.to_thread(_kernel, spec), await self._parts.driver.stamp()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    async def ensure(self, key: str, layer: str, spec: MachineSpec) -> Template:
        """A template, made if it is not there and whole. Broken, for a while at once, if it cannot be; and if it would
        have to be made without the room for it being booked.
        """
        place = self._parts.layout.templates / key
        async with self._turns.setdefault(key, asyncio.Lock()):
            found = await self._take(place)
            if found is not None:
                return found
            when, why = self._broken.get(key, (0.0, ""))
            if why and time.monotonic() - when < _PAUSE.total_seconds():
                raise Broken(why)
            if not spec.template:
                raise Broken(NO_ROOM)
            try:
                made = await self._make(place, layer, spec)
            except (PaddockError, OSError) as exc:
                why = failure(exc)
                self._broken[key] = (time.monotonic(), why)
                raise Broken(why) from exc
            self._broken.pop(key, None)
        return made

    def touch(self, template: Template) -> None:
        """It was used now."""
        with suppress(OSError):
            (template.place / "used").touch()

    async def discard(self, template: Template, why: str) -> None:
        """Nobody can be forked from it: whoever wants it next makes it anew. If that did not help, not for a while."""
        if await self._find(template.place) != template:
            return
        with suppress(OSError):
            (template.place / _UNFIT).touch()
        key, now = template.place.name, time.monotonic()
        _log.warning("a template is damaged", extra={"template": key, "why": why})
        if now - self._discarded.get(key, -math.inf) < _PAUSE.total_seconds():
            self._broken[key] = (now, why)
        self._discarded[key] = now

    async def _take(self, place: Path) -> Template | None:
        """The template in a directory, if it is whole: used now, so that nobody removes it before it is cloned."""
        async with self._parts.images.staying():
            found = await self._find(place)
            if found is not None:
                self.touch(found)
        return found

    async def _find(self, place: Path) -> Template | None:
        """The template in a directory, if all is there that was when it was made."""
        told = await asyncio.to_thread(_whole, place)
        if told is None:
            return None
        try:
            disks = await self._parts.disks.disks(place / told)
        except PaddockError:
            return None
        return Template(place=place, volume=place / told) if disks else None

    async def _make(self, place: Path, layer: str, spec: MachineSpec) -> Template:
        """Boot it without cards, wake it as nobody, warm it up, park it, freeze it."""
        parts = self._parts
        making = parts.layout.making / f"template-{place.name[:12]}-{secrets.token_hex(4)}"
        making.mkdir(mode=0o700, parents=True)
        volume = making / f"disks-{secrets.token_hex(4)}"
        name = uniform(parts.layout.instance, "template", making.name)
        began = time.monotonic()
        try:
            await parts.disks.clone(parts.images.volume(layer), volume, blank=spec.disks)
            plan = await self._plan(name, volume, spec)
            await parts.driver.boot(plan)
            async with parts.channels.inside(making) as guest:
                await guest.parked(BOOT_LIMIT)
                await guest.wake(identities.of_nobody("template"), WAKE_LIMIT)
                for script in _warm_ups(spec):
                    await _warm_up(guest, script)
                await guest.park(WAKE_LIMIT)
                # Frozen while we are connected: a fork finds itself in the middle of the session in which it parked.
                faults.at("hypervisor.template_freezing")
                await parts.driver.freeze(plan, making)
            seconds = round(time.monotonic() - began, 1)
            told: dict[str, JSON] = {"layer": layer, "made": time.time(), "seconds": seconds, "volume": volume.name}
            disks = [disk.path for disk in plan.disks]
            await in_thread(lambda: _seal(making, volume, disks, told))
            place.parent.mkdir(mode=0o700, exist_ok=True)
            faults.at("hypervisor.template_naming")
            async with parts.images.staying():
                await in_thread(lambda: _name(making, place))
            faults.at("hypervisor.template_named")
            _log.info("a template is made", extra={"template": place.name, "seconds": seconds})
            return Template(place=place, volume=place / volume.name)
        except BaseException:
            await parts.driver.end(making, name)
            await parts.disks.remove(volume)
            await in_thread(lambda: shutil.rmtree(making, ignore_errors=True))
            raise

    async def _plan(self, name: str, volume: Path, spec: MachineSpec) -> Plan:
        kernel = kernel_of(spec.image)
        return Plan(
            name=name,
            directory=volume.parent,
            memory=spec.memory,
            vcpus=spec.vcpus,
            disks=await self._parts.disks.disks(volume),
            kernel=Path(kernel.kernel) if kernel.kernel else None,
            initrd=Path(kernel.initrd) if kernel.initrd else None,
            cmdline=kernel.cmdline,
            display=spec.display,
            is_template=True,
        )


def failure(exc: BaseException) -> str:
    """In one line, why there is no template, or no fork."""
    if isinstance(exc, PaddockError):
        return exc.message
    return (exc.strerror if isinstance(exc, OSError) else "") or str(exc) or type(exc).__name__


def _whole(place: Path) -> str | None:
    """The name of its volume; None if one of its files is not as it was, or somebody found it damaged."""
    told = durable.read(place / FILE) if (place / FILE).is_file() else None
    if not isinstance(told, dict) or (place / _UNFIT).exists():
        return None
    files, volume = told.get("files"), told.get("volume")
    if not isinstance(files, dict) or not isinstance(volume, str):
        return None
    return volume if files.items() <= _files(place).items() else None


def _files(place: Path) -> dict[str, JSON]:
    """What forks need, but for the disks, and its sizes."""
    return {
        entry.name: entry.stat().st_size
        for entry in os.scandir(place)
        if entry.is_file(follow_symlinks=False) and not entry.name.endswith(".log")
    }


def _seal(making: Path, volume: Path, disks: Sequence[Path], told: Mapping[str, JSON]) -> None:
    """It is whole. Its disks are synced by nobody else: QEMU does not, it runs them without flushes."""
    for path in (*disks, volume, making):
        durable.sync(path)
    durable.write(making / FILE, {**told, "files": _files(making)})


def _name(making: Path, place: Path) -> None:
    """What is whole gets its name, or takes the place of what has it and is damaged."""
    if place.exists():
        _heal(making, place)
    else:
        making.rename(place)
    durable.sync(place.parent)


def _heal(making: Path, place: Path) -> None:
    """Of the damaged one the disks stay: machines may lie on them. Until all is there it counts as damaged, and who
    collects templates finds it by one record or the other.
    """
    (place / _UNFIT).touch()
    durable.sync(place)
    faults.at("hypervisor.template_healing")
    for old in sorted(place.iterdir()):
        if not old.is_dir() and old.name not in (FILE, _UNFIT):
            old.unlink()
            faults.at("hypervisor.template_emptying")
    # Disks late: those of a healing that was killed stay there, for nobody.
    for new in sorted(making.iterdir(), key=lambda entry: (entry.name == FILE, entry.is_dir())):
        new.rename(place / new.name)
        faults.at("hypervisor.template_filling")
    durable.sync(place)
    faults.at("hypervisor.template_filled")
    (place / _UNFIT).unlink()
    faults.at("hypervisor.template_healed")
    durable.sync(place)
    making.rmdir()


async def _warm_up(guest: Guest, script: str) -> None:
    code = await guest.run(script, interpreter="/bin/sh -e", env={}, limit=WARM_UP)
    if code != 0:
        raise Broken(f"template: its warm-up ended with {code}")


def _warm_ups(spec: MachineSpec) -> list[str]:
    return [image.warm_up for image in spec.image if image.warm_up]


def _kernel(spec: MachineSpec) -> list[JSON]:
    """With what tells a file from the one that takes its place. Broken where one is not there."""
    image = kernel_of(spec.image)
    told: list[JSON] = [image.kernel, image.initrd, image.cmdline]
    for file in filter(None, (image.kernel, image.initrd)):
        try:
            found = os.stat(file)
        except OSError as exc:
            raise Broken(f"{file}: {exc.strerror}") from exc
        told += [found.st_size, found.st_mtime_ns]
    return told
