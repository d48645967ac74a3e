"""The virtual machines of this host: built, cleaned, destroyed, listed, adopted again.

Effects: idempotent. A machine exists once its record is durable; what has no record is swept.
"""

import asyncio
import base64
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.agent import duty
from paddock.agent.channel import Carrying
from paddock.agent.entry import Outcome
from paddock.agent.skills.hypervisor import console, record
from paddock.agent.skills.hypervisor.figures import kept
from paddock.agent.skills.hypervisor.logins import Logins
from paddock.agent.skills.hypervisor.machine import VOLUME, Machine, remove
from paddock.agent.skills.hypervisor.parts import Parts
from paddock.agent.skills.hypervisor.record import Record, Stage
from paddock.agent.skills.hypervisor.templates import Templates
from paddock.agent.skills.skill import Call, Deed, Read, Work, in_thread
from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock.hands import faults
from paddock.wire import fields
from paddock.wire.framing import JSON
from paddock.wire.specs import MachineSpec

_log = logging.getLogger(__name__)

_ANSWERED_LIMIT = timedelta(seconds=60)
"""Until the server, if it is there, has answered the hello of a machine that is awake."""
_ATTEMPTS = 3
"""A machine that dies or hangs before the server has heard it is made anew; not for ever."""
Key = tuple[str, str]


class Machines:
    """A context: while it is open, each machine is relayed to the server. They live on after it."""

    def __init__(self, parts: Parts, *, carrying: Carrying, templates: Templates) -> None:
        self._parts = parts
        self._carrying = carrying
        self._templates = templates
        self._logins = Logins(parts.layout)
        self._machines: dict[Key, Machine] = {}
        self._duties: dict[Key, asyncio.Task[None]] = {}
        self._turns: dict[Key, asyncio.Lock] = {}
        self._doors: dict[str, asyncio.Lock] = {}
        self._group = asyncio.TaskGroup()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        await self._take_up()
        self._keeping = self._group.create_task(duty.keep("consoles", lambda: console.keep_short(self._parts.layout)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for key in list(self._duties):
            self._release(key)
        if self._keeping is not None:
            self._keeping.cancel()
        await self._group.__aexit__(kind, exc, traceback)

    def methods(self) -> Mapping[str, Deed]:
        """machine.*"""
        return {
            "machine.build": Work(act=functools.partial(self._in_turn, self._build)),
            "machine.clean": Work(act=functools.partial(self._in_turn, self._clean)),
            "machine.destroy": Work(act=functools.partial(self._in_turn, self._destroy)),
            "machine.power": Work(act=functools.partial(self._in_turn, self._power)),
            "machine.weigh": Work(act=functools.partial(self._in_turn, self._weigh)),
            "machine.save": Work(act=functools.partial(self._in_turn, self._save)),
            "machine.forget": Work(act=self._forget),
            "machine.console": Work(act=self._console, streams=True, resume=self._console),
            "machine.type": Read(answer=self._type),
            "machine.screenshot": Read(answer=self._screenshot),
            "machine.list": Read(answer=self._list),
        }

    async def _in_turn(self, act: Callable[[Call], Awaitable[Outcome]], call: Call) -> Outcome:
        """One thing at a time happens to a machine."""
        async with self._turns.setdefault(_key(call), asyncio.Lock()):
            return await act(call)

    def _door(self, environment: str) -> asyncio.Lock:
        """Held while a machine comes into an environment or leaves it: into one that is being closed none comes."""
        return self._doors.setdefault(environment, asyncio.Lock())

    # Making

    async def _build(self, call: Call) -> Outcome:
        spec = _spec(call)
        began = time.monotonic()
        machine = self._machines.get(_key(call))
        if machine is not None and not await self._stands(machine):
            await self._remove(machine)
            machine = None
        return await self._ensure(call, spec, machine, began)

    async def _clean(self, call: Call) -> Outcome:
        """The machine that was lent is gone, proven, and another one stands in its place."""
        spec = _spec(call)
        machine = self._machines.get(_key(call))
        ended = 0
        if machine is not None and (machine.record.fence < call.fence or not await self._stands(machine)):
            await self._remove(machine)
            machine, ended = None, 1
        return await self._ensure(call, spec, machine, time.monotonic(), ended=ended)

    async def _stands(self, machine: Machine) -> bool:
        """Whether it was made, and its process lives: it may have gone with its host."""
        return machine.record.stage is Stage.AWAKE and await machine.lives()

    async def _ensure(
        self, call: Call, spec: MachineSpec, machine: Machine | None, began: float, *, ended: int = 0
    ) -> Outcome:
        """A machine that the server hears; one that dies before that, or hangs, is made anew."""
        why = ""
        for _ in range(_ATTEMPTS):
            if machine is None:
                machine = await self._make(call, spec)
            machine.raise_fence(call.fence)
            why = await self._unheard(machine)
            if not why:
                return _made(machine, began, ended)
            _log.warning("a machine is made anew", extra={"machine": machine.record.name, "why": why})
            await self._remove(machine)
            machine = None
        raise Broken(f"{call.text('machine')}: {why}, {_ATTEMPTS} times in a row")

    async def _make(self, call: Call, spec: MachineSpec) -> Machine:
        key = _key(call)
        directory = self._parts.layout.machine(*key)
        known = Record(
            environment=call.environment,
            machine=call.text("machine"),
            fence=call.fence,
            name=self._parts.layout.name(*key),
            stage=Stage.MAKING,
            spec=dict(spec.params()),
        )
        async with self._door(call.environment):
            await in_thread(lambda: directory.mkdir(mode=0o700, parents=True, exist_ok=True))
            faults.at("hypervisor.machine_recording")
            await in_thread(lambda: record.save(directory, known))
            faults.at("hypervisor.machine_recorded")
            machine = Machine(directory, known, parts=self._parts, templates=self._templates)
            self._machines[key] = machine
        try:
            self._hold(key, machine)
            await machine.make(functools.partial(self._logins.of, call.environment, call.fence))
        except BaseException:
            await asyncio.shield(self._remove(machine))
            raise
        return machine

    async def _unheard(self, machine: Machine) -> str:
        """Empty once the server has answered its hello, however long that is away; else why it never will."""
        known = machine.record
        self._hold((known.environment, known.machine), machine)
        try:
            return "" if await machine.heard(_ANSWERED_LIMIT) else "dies before the server hears its agent"
        except TimeoutError:
            return "it is up, and the server does not hear its agent"

    # Going

    async def _destroy(self, call: Call) -> Outcome:
        machine = self._machines.get(_key(call))
        if machine is not None:
            await self._remove(machine)
        else:
            await self._leave(_key(call))
        return Outcome(result={"machine": call.text("machine")})

    async def _remove(self, machine: Machine) -> None:
        """Nothing of it is left; with the last machine of an environment goes what they had together."""
        key = (machine.record.environment, machine.record.machine)
        self._release(key)
        await machine.destroy()
        await self._leave(key)

    async def _leave(self, key: Key) -> None:
        """It is not there any more, and neither are networks and keys of an environment that has no other machine."""
        environment = key[0]
        async with self._door(environment):
            if not any(other[0] == environment for other in self._machines if other != key):
                await self._parts.networks.close(environment)
                await in_thread(lambda: _remove_environment(self._parts.layout.environment(environment)))
            # Last: whoever is cancelled before it is taken up again by the next one that wants it gone.
            self._machines.pop(key, None)

    async def _weigh(self, call: Call) -> Outcome:
        machine = self._machines.get(_key(call))
        taken = await (self._put_aside(call) if machine is None else machine.weigh(call.text("saved")))
        return Outcome(result={"bytes": taken})

    async def _save(self, call: Call) -> Outcome:
        name = call.text("saved")
        machine = self._machines.get(_key(call))
        if machine is None:
            return Outcome(result={"saved": name, "bytes": await self._put_aside(call)})
        taken = await machine.save(name)
        await self._remove(machine)
        return Outcome(result={"saved": name, "bytes": taken})

    async def _put_aside(self, call: Call) -> int:
        """Bytes of the disks of a machine that is not there any more; Missing if they are not there either."""
        place = self._parts.layout.saved / call.text("saved")
        if not place.exists():
            raise Missing(f"{call.environment}/{call.text('machine')}: is not on this host")
        return await asyncio.to_thread(kept, self._parts.layout, place)

    async def _forget(self, call: Call) -> Outcome:
        await self._parts.disks.remove(self._parts.layout.saved / call.text("saved"))
        return Outcome()

    # Using

    async def _power(self, call: Call) -> Outcome:
        machine = self._awake(call)
        power = await machine.power(call.text("action"), call.texts("boot"))
        return Outcome(result={"machine": call.text("machine"), "power": power})

    async def _console(self, call: Call) -> Outcome:
        return await console.follow(self._awake(call).directory, call)

    async def _type(self, call: Call) -> Mapping[str, JSON]:
        await console.type_into(self._awake(call).directory, fields.octets(call.params["data"], "params.data"))
        return {}

    async def _screenshot(self, call: Call) -> Mapping[str, JSON]:
        picture = await self._awake(call).screenshot()
        return {"png": base64.b64encode(picture).decode("ascii"), "at": fields.iso(datetime.now(UTC))}

    async def _list(self, call: Call) -> Mapping[str, JSON]:
        running = {one.name: one for one in await self._parts.driver.running(self._parts.layout.instance)}
        machines: list[JSON] = []
        for machine in self._machines.values():
            known = machine.record
            process = running.get(known.name)
            state = known.stage.value if known.stage is not Stage.AWAKE else "off" if process is None else "away"
            machines.append(
                {
                    "environment": known.environment,
                    "machine": known.machine,
                    "fence": max(known.fence, self._carrying.ledger.fence(known.environment)),
                    "pid": process.pid if process is not None else 0,
                    "state": "relayed" if machine.channel.related.is_set() else state,
                    "bubblewrap": False,
                    "start": known.start,
                    "why": known.why,
                }
            )
        kept: list[JSON] = [
            {"environment": environment, "machine": machine, "fence": self._carrying.ledger.fence(environment)}
            for environment, machine in await asyncio.to_thread(self._parts.layout.kept)
        ]
        return {"machines": machines, "saved": kept}

    def _awake(self, call: Call) -> Machine:
        machine = self._machines.get(_key(call))
        if machine is None or machine.record.stage is not Stage.AWAKE:
            raise Missing(f"{call.environment}/{call.text('machine')}: is not on this host")
        return machine

    # After a restart

    async def _take_up(self) -> None:
        """What has a record is adopted or removed, as it says; everything else that has our name on it is removed."""
        layout = self._parts.layout
        for directory in sorted(layout.machines.glob("*/*")):
            if directory.is_dir():
                await self._adopt(directory)
        owned = {machine.record.name for machine in self._machines.values()}
        for one in await self._parts.driver.running(layout.instance):
            if one.name not in owned:
                _log.warning("a machine that nobody owns is ended", extra={"machine": one.name, "pid": one.pid})
                await self._parts.driver.end(one.directory, one.name)
        environments = {environment for environment, _ in self._machines}
        for environment in await self._parts.networks.found(layout.instance):
            if environment not in environments:
                await self._parts.networks.close(environment)
        homes = {layout.environment(environment) for environment in environments}
        for directory in sorted(layout.machines.glob("*")):
            if directory not in homes:
                await in_thread(functools.partial(_remove_environment, directory))

    async def _adopt(self, directory: Path) -> None:
        machine = self._recorded(directory)
        if machine is None:
            await self._discard(directory)
            return
        known = machine.record
        key = (known.environment, known.machine)
        self._machines[key] = machine
        if known.stage is not Stage.AWAKE:
            await self._remove(machine)
            return
        try:
            await self._parts.networks.open(known.environment, machine.spec.networks, machine.spec.egress)
        except PaddockError as exc:
            _log.error("a network does not come back", extra={"environment": known.environment, "why": exc.message})
        self._hold(key, machine)

    def _recorded(self, directory: Path) -> Machine | None:
        try:
            known = record.load(directory)
            return Machine(directory, known, parts=self._parts, templates=self._templates) if known else None
        except PaddockError as exc:
            _log.error("a machine's record cannot be read, and the machine goes", extra={"why": exc.message})
            return None

    async def _discard(self, directory: Path) -> None:
        """What lies there is no machine that anybody could have: its server hears that it is lost."""
        for one in await self._parts.driver.running(self._parts.layout.instance):
            if one.directory == directory:
                await self._parts.driver.end(directory, one.name)
        await self._parts.disks.remove(directory / VOLUME)
        await in_thread(lambda: remove(directory))

    def _hold(self, key: Key, machine: Machine) -> None:
        if key not in self._duties:
            self._duties[key] = self._group.create_task(machine.relay(self._carrying))

    def _release(self, key: Key) -> None:
        held = self._duties.pop(key, None)
        if held is not None:
            held.cancel()


def _made(machine: Machine, began: float, ended: int) -> Outcome:
    """What is said of a machine that the server hears; `began` is when its making did."""
    known = machine.record
    addresses: list[JSON] = [nic.address for nic in machine.spec.nics if nic.address]
    return Outcome(
        result={
            "machine": known.machine,
            "address": known.address,
            "addresses": addresses,
            "start": known.start,
            "why": known.why,
            "host_key": known.host_key,
            "ended": ended,
            "seconds": round(time.monotonic() - began, 4),
        }
    )


def _spec(call: Call) -> MachineSpec:
    value = call.params.get("spec")
    if value is None:
        raise Refused("params.spec: is missing", hint="a host with the skill hypervisor is told what to build")
    return MachineSpec.read(value, "params.spec")


def _key(call: Call) -> Key:
    return call.environment, call.text("machine")


def _remove_environment(directory: Path) -> None:
    """Its key goes, and the directory unless something else is in it."""
    with suppress(OSError):
        for entry in list(directory.iterdir()):
            if not entry.is_dir():
                entry.unlink()
        directory.rmdir()
