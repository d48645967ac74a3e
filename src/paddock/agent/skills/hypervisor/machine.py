"""One virtual machine of a host: made, adopted, switched, relayed to the server, destroyed.

Effects: idempotent. Its record says before each step how far it may have come: after a crash it is either adopted as it
is, or everything of it is removed.
"""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from paddock.agent import durable
from paddock.agent.cables import shapes
from paddock.agent.channel import Carrying, Channel
from paddock.agent.skills.hypervisor import identities, keys, nocloud, planting, record
from paddock.agent.skills.hypervisor.figures import kept
from paddock.agent.skills.hypervisor.keys import Pair
from paddock.agent.skills.hypervisor.parts import Guest, Parts
from paddock.agent.skills.hypervisor.ports import Card, Plan, Unfit
from paddock.agent.skills.hypervisor.record import Record, Stage
from paddock.agent.skills.hypervisor.templates import Template, Templates, failure
from paddock.agent.skills.skill import in_thread
from paddock.core.errors import PaddockError, Refused
from paddock.core.image import kernel_of
from paddock.core.machine import Start
from paddock.hands import faults
from paddock.hands.link import Link
from paddock.wire.specs import MachineSpec, Peer, Wake

_log = logging.getLogger(__name__)

VOLUME = "disks"
SEED = "seed"
BOOT_LIMIT = timedelta(minutes=5)
WAKE_LIMIT = timedelta(seconds=30)
FORK_LIMIT = timedelta(seconds=20)
"""From the start of a fork until its agent has answered: one that takes longer is booted instead."""
OFF_LIMIT = timedelta(seconds=60)
"""From the press of the button until it is off, before its disks are kept."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What was made for one lease of a machine."""

    host: Pair
    login: Pair


class _Voice:
    """See ports.Voice. Who it is is said at the last moment: its clock is as late as that is old."""

    def __init__(self, guest: Guest, made: "asyncio.Task[Keys]", identity: Callable[[Keys], Wake]) -> None:
        self._guest = guest
        self._made = made
        self._identity = identity
        self.said: Wake | None = None

    async def listen(self) -> None:
        """See Voice."""
        await self._guest.listen()

    async def speak(self) -> None:
        """See Voice."""
        self.said = self._identity(await self._made)
        await self._guest.tell(self.said)


class Machine:
    """A machine that has a record."""

    def __init__(self, directory: Path, known: Record, *, parts: Parts, templates: Templates) -> None:
        self.directory = directory
        self.record = known
        self.spec = MachineSpec.read(known.spec, "spec")  # type: ignore[arg-type]  # JSON, as it was read
        self.channel = Channel(environment=known.environment, machine=known.machine, reach=self._reach)
        self._parts = parts
        self._templates = templates
        self._due = asyncio.Event()
        """It is about to be awake: the server may be asked to take its relay."""
        self._awake = asyncio.Event()
        if known.stage is Stage.AWAKE:
            self._due.set()
            self._awake.set()

    @property
    def volume(self) -> Path:
        """Its disks."""
        return self.directory / VOLUME

    # Existing

    async def make(self, login: Callable[[], Awaitable[Pair]]) -> None:
        """From nothing to awake: a fork if one is wanted and possible, else booted, which its record says why.

        Broken, or Unbuilt, with nothing of it left but its record, if it cannot be made.
        """
        layer = "" if self.spec.saved else self.spec.layer
        if not self.spec.saved:
            await self._parts.images.find(layer)
        self.keep(replace(self.record, layer=layer, saved=self.spec.saved))
        made = asyncio.create_task(self._make_keys(login()))
        try:
            cards = await self._wire()
            why = await self._fork(layer, cards, made)
            if why is not None:
                await self._boot(layer, cards, made, why=why)
        finally:
            made.cancel()
            with suppress(asyncio.CancelledError):
                await made

    async def _make_keys(self, login: Awaitable[Pair]) -> "Keys":
        """Its host key and the login key of its environment; programs make them, while others see to the rest."""
        host, own = await asyncio.gather(keys.pair(self.record.machine), login)
        return Keys(host=host, login=own)

    async def _fork(self, layer: str, cards: list[Card], made: "asyncio.Task[Keys]") -> str | None:
        """None if it is forked; else why it is not, empty if nobody wants it to be."""
        if self.spec.saved or self.spec.start is not Start.FORK:
            return ""
        template: Template | None = None
        try:
            key = await self._templates.key(layer, self.spec)
            template = await self._templates.ensure(key, layer, self.spec)
            self.keep(replace(self.record, template=key))
            faults.at("hypervisor.forking")
            await self._parts.disks.clone(template.volume, self.volume)
            plan = await self._plan(cards)
            self._due.set()
            async with self._parts.starts, asyncio.timeout(FORK_LIMIT.total_seconds()):
                await self._run_fork(plan, template.place, cards, made)
        except (PaddockError, OSError) as exc:
            why = f"its fork did not answer within {FORK_LIMIT}" if isinstance(exc, TimeoutError) else failure(exc)
            if template is not None and isinstance(exc, Unfit):
                await self._templates.discard(template, why)
            _log.warning("a machine is booted instead of forked", extra={**self._fields(), "why": why})
            self._due.clear()
            await self._remove()
            self.keep(replace(self.record, template=""))
            return why
        self._templates.touch(template)
        self._settle(Start.FORK, made.result(), why="")
        return None

    async def _boot(self, layer: str, cards: list[Card], made: "asyncio.Task[Keys]", *, why: str) -> None:
        faults.at("hypervisor.booting")
        if self.spec.saved:
            await self._parts.disks.copy(self._parts.layout.saved / self.spec.saved, self.volume)
        else:
            await self._parts.disks.clone(self._parts.images.volume(layer), self.volume, blank=self.spec.disks)
        plan = await self._seeded(await self._plan(cards), cards, (await made).login.public)
        await self._parts.driver.boot(plan)
        faults.at("hypervisor.booted")
        await self._wake(cards, made)
        self._settle(Start.BOOT, made.result(), why=why)

    async def _run_fork(self, plan: Plan, template: Path, cards: list[Card], made: "asyncio.Task[Keys]") -> None:
        """It hears who it is before anything else: what it was frozen in the middle of goes on with that."""
        async with self._parts.channels.inside(self.directory, is_fork=True) as guest:
            voice = _Voice(guest, made, lambda keys: self._identity(cards, keys))
            await self._parts.driver.fork(plan, template, voice=voice)
            faults.at("hypervisor.forked")
            await guest.woken(FORK_LIMIT)
            if voice.said is not None:
                await self._let_know(voice.said)

    async def _wake(self, cards: list[Card], made: "asyncio.Task[Keys]") -> None:
        async with self._parts.channels.inside(self.directory) as guest:
            await guest.parked(BOOT_LIMIT)
            wake = self._identity(cards, await made)
            await guest.wake(wake, WAKE_LIMIT)
            await self._let_know(wake)

    def _identity(self, cards: list[Card], made: "Keys") -> Wake:
        known = self.record
        return identities.of_machine(
            environment=known.environment,
            machine=known.machine,
            fence=known.fence,
            spec=self.spec,
            cards=cards,
            host=made.host,
            login=made.login,
            env=dict(self._parts.variables(known.environment, list(_names(self.spec.peers)))),
            logins=self._parts.logins,
        )

    async def _let_know(self, wake: Wake) -> None:
        """Whoever serves its metadata knows the keys of its lease."""
        await self._parts.tell(self.record.environment, self.record.machine, wake.authorized_keys)

    def _settle(self, start: Start, made: Keys, *, why: str) -> None:
        """It is who it is: from here on it is adopted after a crash."""
        faults.at("hypervisor.woken")
        own = next((nic.address.partition("/")[0] for nic in self.spec.nics if nic.address), "")
        known = replace(self.record, stage=Stage.AWAKE, start=start.value, why=why, address=own)
        self.keep(replace(known, host_key=made.host.public, login=made.login.public))
        faults.at("hypervisor.machine_awake")
        self._due.set()
        self._awake.set()

    async def _wire(self) -> list[Card]:
        known = self.record
        networks = self._parts.networks
        await networks.open(known.environment, self.spec.networks, self.spec.egress)
        return list(await networks.wire(known.environment, known.machine, self.directory, self.spec.nics))

    async def _plan(self, cards: list[Card]) -> Plan:
        kernel = kernel_of(self.spec.image) if self.spec.image else None
        return Plan(
            name=self.record.name,
            directory=self.directory,
            memory=self.spec.memory,
            vcpus=self.spec.vcpus,
            disks=await self._parts.disks.disks(self.volume),
            cards=cards,
            kernel=Path(kernel.kernel) if kernel is not None and kernel.kernel else None,
            initrd=Path(kernel.initrd) if kernel is not None and kernel.initrd else None,
            cmdline=kernel.cmdline if kernel is not None else "",
            display=self.spec.display,
            boot=self.spec.boot,
        )

    async def _seeded(self, plan: Plan, cards: list[Card], login: str) -> Plan:
        """It boots, and its cloud-init finds who it is: the same for as long as it exists."""
        bridges = {network.name for network in self.spec.networks if network.bridge}
        facts = shapes.Facts(
            name=self.record.name,
            hostname=self.record.machine,
            cards=tuple(shapes.Card(mac=card.mac.lower(), address=card.address) for card in cards),
            keys=tuple(dict.fromkeys(key for key in (login, *self._parts.logins) if key)),
            user_data=self._parts.user_data,
        )
        leased = [nic.mac for nic in self.spec.nics if nic.network in bridges]
        files = nocloud.files(facts, fence=self.record.fence, leased=leased)
        await in_thread(lambda: planting.plant(self.directory / SEED, files))
        return replace(plan, seed=self.directory / SEED)

    # Living

    async def lives(self) -> bool:
        """Whether its process is there."""
        running = await self._parts.driver.running(self._parts.layout.instance)
        return any(one.name == self.record.name for one in running)

    async def heard(self, limit: timedelta) -> bool:
        """Until the server has answered its hello; False if its process is gone before. TimeoutError as Channel's."""
        plan = await self._plan([])
        told = asyncio.create_task(self.channel.heard(limit))
        gone = asyncio.create_task(self._parts.driver.wait_off(plan))
        try:
            await asyncio.wait((told, gone), return_when=asyncio.FIRST_COMPLETED)
            first = told if told.done() else gone
            first.result()
            return first is told
        finally:
            told.cancel()
            gone.cancel()
            await asyncio.gather(told, gone, return_exceptions=True)

    # Its buttons

    async def power(self, action: str, boot: tuple[str, ...]) -> str:
        """Press a button; whether it is `on` or `off` now.

        Where it boots from is told to its process when that starts: a reset with another order is off, and on again.
        """
        is_anew = action == "reset" and bool(boot)
        if is_anew and not await self.lives():
            raise Refused(f"{self.record.machine}: is off", hint="power it on first")
        if boot:
            self.spec = replace(self.spec, boot=boot)
            self.keep(replace(self.record, spec=dict(self.spec.params())))
        cards = await self._wire()
        plan = await self._plan(cards)
        if is_anew:
            self.keep(replace(self.record, is_off=True))
            await self._parts.driver.power(plan, "off")
            action = "on"
        if action == "on":
            self.keep(replace(self.record, is_off=False))
            await self._parts.driver.boot(await self._seeded(plan, cards, self.record.login))
            return "on"
        if action == "off":
            self.keep(replace(self.record, is_off=True))
        await self._parts.driver.power(plan, action)
        return "off" if action == "off" else "on"

    async def screenshot(self) -> bytes:
        """What its display shows, as a PNG. Refused where it has none."""
        return await self._parts.driver.screenshot(await self._plan([]))

    # Going

    async def weigh(self, name: str) -> int:
        """The bytes that its disks take, switched off first; or that they take where they were put aside already."""
        place = self._parts.layout.saved / name
        if place.exists():
            return await asyncio.to_thread(kept, self._parts.layout, place)
        self.keep(replace(self.record, is_off=True))
        await self._go_off()
        return await asyncio.to_thread(kept, self._parts.layout, self.volume)

    async def save(self, name: str) -> int:
        """Put its disks aside, switched off first; their bytes."""
        disks, place = self._parts.disks, self._parts.layout.saved / name
        if not place.exists():
            await self._go_off()
            written = [disk.path for disk in await disks.disks(self.volume)]
            faults.at("hypervisor.saving")
            await in_thread(lambda: _put_aside(self.volume, written, place))
            faults.at("hypervisor.saved")
        return await asyncio.to_thread(kept, self._parts.layout, place)

    async def _go_off(self) -> None:
        """As one asks for it: what was written last is not on its disks yet. One that does not hear is cut off."""
        plan = await self._plan([])
        with suppress(PaddockError, TimeoutError):
            async with asyncio.timeout(OFF_LIMIT.total_seconds()):
                await self._parts.driver.power(plan, "shutdown")
                await self._parts.driver.wait_off(plan)
        await self._parts.driver.end(self.directory, self.record.name)

    async def destroy(self) -> None:
        """Nothing of it is left, its record included. Idempotent."""
        if self.record.stage is not Stage.GOING:
            self.keep(replace(self.record, stage=Stage.GOING))
        faults.at("hypervisor.machine_going")
        await self._remove()
        await self._parts.networks.unwire(self.record.environment, self.record.machine)
        faults.at("hypervisor.machine_gone")
        await in_thread(lambda: remove(self.directory))

    async def _remove(self) -> None:
        """Its process and its disks are gone."""
        await self._parts.driver.end(self.directory, self.record.name)
        await self._parts.disks.remove(self.volume)

    # Its record and its channel

    async def relay(self, carrying: Carrying) -> None:
        """For ever, from when it is about to be awake: a server that vouched for it does not wait for a boot."""
        await self._due.wait()
        await self.channel.keep(carrying)

    def keep(self, known: Record) -> None:
        """Write the record."""
        record.save(self.directory, known)
        self.record = known

    def raise_fence(self, fence: int) -> None:
        """Remember the highest fence; for machine.list."""
        self.record = replace(self.record, fence=max(fence, self.record.fence))

    async def _reach(self) -> Link:
        await self._awake.wait()
        return await self._parts.channels.reach(self.directory)

    def _fields(self) -> dict[str, str]:
        return {"environment": self.record.environment, "machine": self.record.machine}


def _names(peers: Iterable[Peer]) -> Iterator[str]:
    for peer in peers:
        yield peer.machine
        yield from (address.partition("/")[0] for address in peer.addresses)


def remove(directory: Path) -> None:
    """A machine's directory is gone, its record last: what is left of it half-way still says what it is."""
    with suppress(FileNotFoundError):
        for entry in list(directory.iterdir()):
            if entry.name != record.FILE:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        (directory / record.FILE).unlink(missing_ok=True)
        directory.rmdir()


def _put_aside(volume: Path, disks: Iterable[Path], place: Path) -> None:
    """Moved, not copied: that takes no room. Its disks are synced by nobody else, QEMU runs them without flushes."""
    for path in (*disks, volume):
        durable.sync(path)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    volume.rename(place)
    durable.sync(place.parent)
    durable.sync(volume.parent)
