"""Templates: ready machines, frozen memory and disk, for others to be forked from.

Effects: idempotent. A template is made under another name and renamed when it is whole; what is not is swept.
"""

import asyncio
import hashlib
import json
import logging
import secrets
import shutil
import time
from datetime import timedelta
from pathlib import Path

from paddock.agent import durable
from paddock.agent.skills.hypervisor import identities
from paddock.agent.skills.hypervisor.parts import Guest, Parts
from paddock.agent.skills.hypervisor.ports import Plan
from paddock.core.errors import Broken, PaddockError
from paddock.core.image import kernel_of
from paddock.core.machine import uniform
from paddock.hands import faults
from paddock.wire.framing import JSON
from paddock.wire.specs import MachineSpec

_log = logging.getLogger(__name__)

FILE = "made.json"
VOLUME = "disks"
VERSION = 1
"""How templates are made: one of another version is made anew."""
BOOT_LIMIT = timedelta(minutes=5)
WARM_LIMIT = timedelta(minutes=10)
WAKE_LIMIT = timedelta(seconds=60)
_PAUSE = timedelta(minutes=10)
"""A machine that could not be frozen is booted for so long before it is tried again."""


class Templates:
    """The templates of this host, each made once, however many wait for it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._turns: dict[str, asyncio.Lock] = {}
        self._broken: dict[str, tuple[float, str]] = {}

    async def key(self, layer: str, spec: MachineSpec) -> str:
        """The name of the template that machines like this are forked from: whatever its memory depends on."""
        # A layer that was removed by hand and built again is another one to what was cloned from it.
        build = self._parts.images.volume(layer).name
        told = [VERSION, layer, build, spec.memory, spec.vcpus, list(spec.disks), spec.display, _warm_ups(spec)]
        told += [_kernel(spec), await self._parts.driver.stamp()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    async def ensure(self, key: str, layer: str, spec: MachineSpec) -> Path:
        """The directory of a template, made if it is not there. Broken, for a while at once, if it cannot be."""
        place = self._parts.layout.templates / key
        async with self._turns.setdefault(key, asyncio.Lock()):
            if self._is_whole(place):
                return place
            when, why = self._broken.get(key, (0.0, ""))
            if why and time.monotonic() - when < _PAUSE.total_seconds():
                raise Broken(why)
            try:
                await self._make(place, layer, spec)
            except PaddockError as exc:
                self._broken[key] = (time.monotonic(), exc.message)
                raise
            self._broken.pop(key, None)
        return place

    def volume(self, place: Path) -> Path:
        """The disks of a template."""
        return place / VOLUME

    def touch(self, place: Path) -> None:
        """It was used now."""
        (place / "used").touch()

    async def discard(self, place: Path) -> None:
        """It does not exist: somebody could not be forked from it."""
        gone = self._parts.layout.making / f"gone-{secrets.token_hex(6)}"
        try:
            await asyncio.to_thread(place.rename, gone)
        except FileNotFoundError:
            return
        await self._parts.disks.remove(gone / VOLUME)
        await asyncio.to_thread(shutil.rmtree, gone, ignore_errors=True)

    def _is_whole(self, place: Path) -> bool:
        return (place / FILE).is_file() and (place / VOLUME).is_dir()

    async def _make(self, place: Path, layer: str, spec: MachineSpec) -> None:
        """Boot it without cards, wake it as nobody, warm it up, park it, freeze it."""
        parts = self._parts
        making = parts.layout.making / f"template-{place.name[:12]}-{secrets.token_hex(4)}"
        making.mkdir(mode=0o700, parents=True)
        name = uniform(parts.layout.instance, "template", making.name)
        began = time.monotonic()
        try:
            await parts.disks.clone(parts.images.volume(layer), making / VOLUME, blank=spec.disks)
            plan = await self._plan(name, making, spec)
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
            told: dict[str, JSON] = {"layer": layer, "made": time.time(), "seconds": round(time.monotonic() - began, 1)}
            await asyncio.to_thread(durable.write, making / FILE, told)
            place.parent.mkdir(mode=0o700, exist_ok=True)
            faults.at("hypervisor.template_naming")
            await asyncio.to_thread(_rename, making, place)
            faults.at("hypervisor.template_named")
            _log.info("a template is made", extra={"template": place.name, "seconds": told["seconds"]})
        except BaseException:
            await parts.driver.end(making, name)
            await parts.disks.remove(making / VOLUME)
            await asyncio.to_thread(shutil.rmtree, making, ignore_errors=True)
            raise

    async def _plan(self, name: str, directory: Path, spec: MachineSpec) -> Plan:
        kernel = kernel_of(spec.image)
        return Plan(
            name=name,
            directory=directory,
            memory=spec.memory,
            vcpus=spec.vcpus,
            disks=await self._parts.disks.disks(directory / VOLUME),
            kernel=Path(kernel.kernel) if kernel.kernel else None,
            initrd=Path(kernel.initrd) if kernel.initrd else None,
            cmdline=kernel.cmdline,
            display=spec.display,
            is_template=True,
        )


def _rename(making: Path, place: Path) -> None:
    making.rename(place)
    durable.sync(place.parent)


async def _warm_up(guest: Guest, script: str) -> None:
    code = await guest.run(script, interpreter="/bin/sh -e", env={}, limit=WARM_LIMIT)
    if code != 0:
        raise Broken(f"template: its warm-up ended with {code}")


def _warm_ups(spec: MachineSpec) -> list[str]:
    return [image.warm_up for image in spec.image if image.warm_up]


def _kernel(spec: MachineSpec) -> list[str]:
    image = kernel_of(spec.image)
    return [image.kernel, image.initrd, image.cmdline]
