"""Puts the skill together: what the host is told to use, found, checked, given to its users.

Effects: none of its own; the directories of the skill are made.
"""

import asyncio
import fcntl
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace

from paddock.agent.channel import Carrying
from paddock.agent.entry import Outcome
from paddock.agent.settings import Hypervisor
from paddock.agent.skills.hypervisor import disks as kinds
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.drivers.qemu import Qemu
from paddock.agent.skills.hypervisor.errands.putting import Helper
from paddock.agent.skills.hypervisor.figures import Count, figures
from paddock.agent.skills.hypervisor.images import Images
from paddock.agent.skills.hypervisor.images.building import Means
from paddock.agent.skills.hypervisor.images.outside import Uplinks
from paddock.agent.skills.hypervisor.images.store import Store
from paddock.agent.skills.hypervisor.inside import Channels
from paddock.agent.skills.hypervisor.layout import Layout
from paddock.agent.skills.hypervisor.machines import Machines
from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks.rooted import Rooted
from paddock.agent.skills.hypervisor.networks.rootless import Rootless
from paddock.agent.skills.hypervisor.parts import Parts
from paddock.agent.skills.hypervisor.templates import Templates
from paddock.agent.skills.skill import Call, Deed, Place, Work, failure, in_thread
from paddock.core.errors import PaddockError, Refused
from paddock.wire.hello import stored_params


def layout(place: Place) -> Layout:
    """Where everything of this host's machines is."""
    return Layout.of(place.hypervisor.storage or place.state / "hypervisor")


@asynccontextmanager
async def opened(place: Place, carrying: Carrying) -> AsyncIterator[Mapping[str, Deed]]:
    """The deeds of the skill, while the block runs. Refused, with what to install, where machines cannot run."""
    where = layout(place)
    await asyncio.to_thread(_prepare, where)
    chosen = place.hypervisor
    channels = Channels()
    async with AsyncExitStack() as stack:
        stack.enter_context(_locked(where))
        disks = await _disks(chosen, where)
        driver = Qemu(where.root, instance=where.instance, wanted=chosen.accel)
        await driver.check()
        metadata = await asyncio.to_thread(
            Metadata.configured, chosen.metadata, chosen.user_data, chosen.authorized_keys
        )
        networks = _networks(chosen, where, metadata if metadata.is_served else None)
        await stack.enter_async_context(networks)
        stack.push_async_callback(channels.close)
        images = Images(
            Means(
                store=Store(where, disks),
                driver=driver,
                inside=channels.inside,
                archive=archive,
                outside=Uplinks(networks=networks, variables=networks.variables),
                helper=Helper(driver, disks, instance=where.instance, archive=archive),
            )
        )
        await images.open()
        stack.push_async_callback(images.close)
        parts = Parts(
            layout=where,
            disks=disks,
            driver=driver,
            networks=networks,
            images=images,
            channels=channels,
            variables=networks.variables,
            tell=networks.tell,
            logins=await asyncio.to_thread(metadata.keys),
            user_data=metadata.user_data,
        )
        has = await asyncio.to_thread(figures, chosen, where)
        place.life.capacity = lambda: has
        count = Count(where)
        await in_thread(count.again)
        place.life.stored = lambda: count.last
        machines = await stack.enter_async_context(Machines(parts, carrying=carrying, templates=Templates(parts)))
        yield counting({**machines.methods(), **images.methods()}, count)


@functools.cache
def archive() -> bytes:
    """The agent as one file, as images get it: this very one, or what this installation makes of itself."""
    from paddock.agent.bundle import bundled, bundling

    found = bundled.program()
    return found[1] if found is not None and found[0] == bundled.ARCHIVE else bundling.archive()


_STORES = ("machine.build", "machine.clean", "machine.destroy", "image.build", "image.collect")
"""Methods that may leave other layers and templates than there were, whether they succeed or not.

`machine.destroy` says what a build left that a higher fence ended: nobody takes the result of that, and with the
environment goes the room that was booked for its templates.
"""


def counting(deeds: Mapping[str, Deed], count: Count) -> Mapping[str, Deed]:
    """The same deeds; those that change what is stored say in their results what is stored now."""
    return {
        name: replace(deed, act=functools.partial(_counted, deed.act, count))
        if name in _STORES and isinstance(deed, Work)
        else deed
        for name, deed in deeds.items()
    }


async def _counted(act: Callable[[Call], Awaitable[Outcome]], count: Count, call: Call) -> Outcome:
    try:
        outcome = await act(call)
    except (PaddockError, OSError) as exc:
        outcome = failure(exc)
    now = await in_thread(count.again)
    return replace(outcome, result={**outcome.result, "stored": stored_params(now)})


def _prepare(where: Layout) -> None:
    for directory in (where.root, where.images, where.templates, where.making, where.machines, where.networks):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    where.root.chmod(0o700)


@contextmanager
def _locked(where: Layout) -> Iterator[None]:
    """Be the only agent on it: what another one's machines are, nobody but that one knows."""
    handle = os.open(where.root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(f"{where.root}: another agent has its machines there", hint="[hypervisor] storage") from None
    finally:
        os.close(handle)


async def _disks(chosen: Hypervisor, where: Layout) -> Files:
    if chosen.disks == "auto":
        return await kinds.best(where.root)
    disks = kinds.named(chosen.disks, where.root)
    await disks.check()
    return disks


def _networks(chosen: Hypervisor, where: Layout, metadata: Metadata | None) -> Rootless | Rooted:
    if chosen.networks == "rooted":
        return Rooted(where.networks, where.instance, bridges=chosen.bridges, metadata=metadata)
    return Rootless(where.networks, where.instance, metadata=metadata)
