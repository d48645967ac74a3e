"""Makes one layer: a clone of its parent is booted, changed inside, switched off, sealed.

Effects: idempotent. Everything of a build lies in one directory below `making/` and under one name; whatever ends it,
machine and directory are gone afterwards, or at the next start.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from paddock.agent.skills.hypervisor import console, identities, planting
from paddock.agent.skills.hypervisor.images import outside, seeding
from paddock.agent.skills.hypervisor.images.layers import Layer
from paddock.agent.skills.hypervisor.images.logs import BuildLog
from paddock.agent.skills.hypervisor.images.outside import NOWHERE, Outside, Way
from paddock.agent.skills.hypervisor.images.store import Store
from paddock.agent.skills.hypervisor.ports import Driver, Plan
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import Broken, PaddockError
from paddock.core.image import Chain, Entry, Image, Step, kernel_of
from paddock.core.machine import uniform
from paddock.hands import faults
from paddock.wire.specs import Wake

OFF_LIMIT = timedelta(minutes=2)
"""From the agent's word that it goes off until the machine's process is gone."""
PARK_LIMIT = timedelta(seconds=60)
VOLUME = "layer"
"""Below a build's directory: what is sealed, and nothing else."""
_PLACE = "image-"
_LAST = 4096
"""Bytes of the console of a build that broke, for its log."""


class Guest(Protocol):
    """The agent inside of a machine that builds. Real: inside.Inside."""

    async def parked(self, limit: timedelta) -> None:
        """It is there and waits for its wake. Broken if it does not come within the limit."""

    async def wake(self, wake: Wake, limit: timedelta) -> str:
        """It is who it is told to be; its boot_id."""

    async def run(
        self,
        script: str,
        *,
        interpreter: str,
        env: Mapping[str, str],
        limit: timedelta,
        files: Mapping[str, str] | None = None,
        output: Callable[[bytes], None] | None = None,
    ) -> int:
        """The exit code of a script that it has run to its end."""

    async def park(self, limit: timedelta, *, power_off: bool = False) -> None:
        """It has forgotten who it was, and its machine goes off."""


Inside = Callable[[Path], AbstractAsyncContextManager[Guest]]


class Helper(Protocol):
    """Puts the agent into an image without cloud-init, by a machine of its own. Real: helper.Helper."""

    async def put_agent(self, volume: Path, *, directory: Path, limit: timedelta) -> None:
        """It is in the root file system of the volume's system disk, and starts parked. Broken where it cannot be."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """What builds work with."""

    store: Store
    driver: Driver
    inside: Inside
    archive: Callable[[], bytes]
    """The agent as one file, for images that do not have it."""
    outside: Outside
    helper: Helper | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that builds, under its own name in its own directory."""

    directory: Path
    name: str
    images: Chain
    settings: Image
    egress: tuple[str, ...] = ()
    """What it may reach outside; nothing while no script runs."""


@asynccontextmanager
async def place(
    means: Means, settings: Image, images: Chain, *, egress: tuple[str, ...] = ()
) -> AsyncIterator[Machine]:
    """A directory for a build. Its machine, its way outside and all that is in it are gone when the block ends."""
    layout = means.store.layout
    directory = layout.making / f"{_PLACE}{secrets.token_hex(6)}"
    directory.mkdir(mode=0o700, parents=True)
    machine = Machine(
        directory=directory,
        name=uniform(layout.instance, directory.name),
        images=images,
        settings=settings,
        egress=egress,
    )
    try:
        yield machine
    finally:
        await _undisturbed(_clear(means, machine))


async def _clear(means: Means, machine: Machine) -> None:
    await means.driver.end(machine.directory, machine.name)
    if machine.egress:
        await means.outside.close(machine.directory.name)
    # Last: by it the next start knows what there may be.
    await means.store.drop(machine.directory)


async def close_left(means: Means, left: Iterable[Path]) -> None:
    """What builds of a killed agent had of the outside is gone; `left` are directories below `making`."""
    for directory in left:
        if directory.name.startswith(_PLACE):
            await means.outside.close(directory.name)


async def _undisturbed(work: Coroutine[None, None, None]) -> None:
    """To its end, however often this is cancelled meanwhile: a machine that nobody knows must not stay."""
    job = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            await asyncio.shield(job)
        except asyncio.CancelledError as exc:
            if job.cancelled():
                raise
            cancelled = exc
    await job
    if cancelled is not None:
        raise cancelled


async def build(means: Means, step: Step, images: Chain, log: BuildLog) -> Layer:
    """A sealed layer above its parent's, which is there."""
    began = time.monotonic()
    parent = means.store.find(step.parent)
    if parent is None:
        raise Broken(f"image {step.image}: its layer {step.parent[:12]} was removed while the next one was built")
    name = step.script.name if step.script is not None else ""
    log.line(f"image {step.image}: {_what(step, is_first=not parent.parent)}, layer {step.digest[:12]}")
    made = secrets.token_hex(8)
    egress = step.settings.egress if step.script is not None else ()
    async with place(means, step.settings, images, egress=egress) as machine:
        volume = machine.directory / VOLUME / made
        (machine.directory / VOLUME).mkdir(mode=0o700)
        await means.store.disks.clone(means.store.volume(step.parent), volume, size=step.size)
        faults.at("hypervisor.image_cloned")
        is_first = not parent.parent
        if step.script is not None or is_first:
            try:
                async with asyncio.timeout(step.settings.limit.total_seconds()):
                    await _change(means, machine, volume, step, log, is_first=is_first)
            except TimeoutError:
                limit = step.settings.limit.total_seconds()
                raise Broken(f"image {step.image}: {name or 'its first boot'} took longer than {limit:g} s") from None
        layer = Layer(
            digest=step.digest,
            build=made,
            disks=means.store.disks.name,
            image=step.image,
            parent=step.parent,
            parent_build=parent.build,
            script=name,
            made=time.time(),
            seconds=round(time.monotonic() - began, 1),
        )
        await means.store.seal(machine.directory / VOLUME, layer)
    # It was booted from its parent, whose agent answered.
    if step.script is not None:
        means.store.prove(step.parent)
    log.line(f"layer {step.digest[:12]} is sealed after {layer.seconds:g} s")
    return layer


def _what(step: Step, *, is_first: bool) -> str:
    if step.script is not None:
        return f"script {step.script.name}"
    return f"the agent goes in ({step.settings.entry.value})" if is_first else f"a disk of {step.size} bytes"


async def _change(means: Means, machine: Machine, volume: Path, step: Step, log: BuildLog, *, is_first: bool) -> None:
    seed = None
    if is_first and step.settings.entry is Entry.HELPER:
        assert means.helper is not None, "who asked was refused"
        await means.helper.put_agent(volume, directory=machine.directory, limit=step.settings.limit)
        log.line("the helper machine has put the agent in")
    if is_first and step.settings.entry is Entry.NOCLOUD:
        seed = machine.directory / "seed"
        await in_thread(lambda: planting.plant(seed, seeding.files(means.archive(), machine.name)))
    async with _booted(means, machine, volume, seed, log) as (guest, plan, way):
        if step.script is not None:
            script = step.script
            await guest.wake(identities.of_nobody(outside.MACHINE, cards=way.cards, env=way.env), PARK_LIMIT)
            code = await guest.run(
                script.run,
                interpreter=script.interpreter,
                env={**way.env, **script.env},
                files=script.files,
                limit=step.settings.limit,
                output=log.write,
            )
            if code != 0:
                raise Broken(f"image {step.image}: script {script.name} ended with {code}: {log.last(3)}")
            log.line(f"script {script.name} has ended")
        faults.at("hypervisor.image_changed")
        await guest.park(PARK_LIMIT, power_off=True)
        try:
            async with asyncio.timeout(OFF_LIMIT.total_seconds()):
                await means.driver.wait_off(plan)
        except TimeoutError:
            raise Broken(f"image {step.image}: its machine does not go off") from None
    faults.at("hypervisor.image_off")


@asynccontextmanager
async def _booted(
    means: Means, machine: Machine, volume: Path, seed: Path | None, log: BuildLog
) -> AsyncIterator[tuple[Guest, Plan, Way]]:
    settings = machine.settings
    way = await _way(means, machine, log)
    plan = await _plan(means, machine, volume, seed, way)
    began = time.monotonic()
    faults.at("hypervisor.image_booting")
    try:
        await means.driver.boot(plan)
        faults.at("hypervisor.image_booted")
        async with means.inside(machine.directory) as guest:
            await guest.parked(settings.limit)
            log.line(f"its agent answers {time.monotonic() - began:.1f} s after its machine was started")
            yield guest, plan, way
    except PaddockError:
        await _console(machine.directory / console.FILE, log)
        raise


async def _way(means: Means, machine: Machine, log: BuildLog) -> Way:
    """Closed with its place."""
    if not machine.egress:
        return NOWHERE
    log.line(f"it may reach {', '.join(machine.egress)}; its access log is {machine.directory.name}.log")
    return await means.outside.open(machine.directory.name, machine.directory, machine.egress)


async def _console(path: Path, log: BuildLog) -> None:
    """The last that the machine said, for whoever wonders."""
    if said := await in_thread(lambda: console.last(path, _LAST)):
        log.line("the last of its console:")
        log.write(said.replace(b"\r", b""))


async def _plan(means: Means, machine: Machine, volume: Path, seed: Path | None, way: Way) -> Plan:
    kernel = kernel_of(machine.images)
    return Plan(
        name=machine.name,
        directory=machine.directory,
        memory=machine.settings.memory,
        vcpus=machine.settings.vcpus,
        disks=await means.store.disks.disks(volume),
        cards=way.cards,
        kernel=Path(kernel.kernel) if kernel.kernel else None,
        initrd=Path(kernel.initrd) if kernel.initrd else None,
        cmdline=kernel.cmdline,
        seed=seed,
    )


async def prove(means: Means, digest: str, images: Chain, log: BuildLog) -> None:
    """A machine boots from the layer and its parked agent answers. Broken if it does not; then it does not serve."""
    settings = images[-1]
    log.line(f"image {settings.name}: layer {digest[:12]} is booted once before it serves")
    async with place(means, settings, images) as machine:
        volume = machine.directory / "disks"
        await means.store.disks.clone(means.store.volume(digest), volume)
        try:
            async with asyncio.timeout(settings.limit.total_seconds()), _booted(means, machine, volume, None, log):
                pass
        except TimeoutError:
            raise Broken(
                f"image {settings.name}: its agent did not answer within {settings.limit.total_seconds():g} s of a boot"
            ) from None
    means.store.prove(digest)
