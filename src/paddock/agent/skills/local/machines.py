"""The machines of this host: built, cleaned, destroyed, listed, adopted after a restart.

Effects: idempotent. A machine exists once its record is durable; what has no record is swept.
"""

import asyncio
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.agent.channel import Carrying
from paddock.agent.entry import Outcome
from paddock.agent.paths import name_for
from paddock.agent.skills.local import census, record, walls
from paddock.agent.skills.local.emptying import remove_tree
from paddock.agent.skills.local.machine import Machine
from paddock.agent.skills.local.record import Record
from paddock.agent.skills.local.walls import Walls
from paddock.agent.skills.skill import Call, Deed, Read, Work
from paddock.core.errors import Broken, Missing
from paddock.hands import faults, trees
from paddock.hands.trees import Cgroup
from paddock.wire.framing import JSON

_log = logging.getLogger(__name__)

_GROUP_IS_OLD = 600.0  # seconds
_RELATED_LIMIT = timedelta(seconds=30)


class Machines:
    """A context: while it is open, each machine's agent is kept alive and relayed."""

    def __init__(
        self,
        *,
        state: Path,
        carrying: Carrying,
    ) -> None:
        """`state` is the host agent's: machines do not see into it."""
        self._state = state
        self._root = state / "machines"
        self._hidden = (state, *carrying.hidden)
        self._wants_walls = carrying.walled
        self._walls: Walls | None = None
        self._carrying = carrying
        self._ledger = carrying.ledger
        self._looks = census.Looks(census.look)
        self._machines: dict[tuple[str, str], Machine] = {}
        self._duties: dict[tuple[str, str], list[asyncio.Task[None]]] = {}
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(_sweep_groups)
        self._walls = await asyncio.to_thread(self._find_walls) if self._wants_walls else None
        await self._group.__aenter__()
        for directory in sorted(self._root.glob("*/*")):
            await self._adopt(directory)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for key in list(self._duties):
            self._release(key)
        await self._group.__aexit__(kind, exc, traceback)

    def methods(self) -> Mapping[str, Deed]:
        """machine.build, machine.clean, machine.destroy, machine.list."""
        return {
            "machine.build": Work(act=functools.partial(self._in_turn, self._build)),
            "machine.clean": Work(act=functools.partial(self._in_turn, self._clean)),
            "machine.destroy": Work(act=functools.partial(self._in_turn, self._destroy)),
            "machine.list": Read(answer=self._list),
        }

    async def _in_turn(self, act: Callable[[Call], Awaitable[Outcome]], call: Call) -> Outcome:
        """One thing at a time happens to a machine."""
        async with self._turns.setdefault(_key(call), asyncio.Lock()):
            return await act(call)

    async def _build(self, call: Call) -> Outcome:
        key = _key(call)
        machine = self._machines.get(key)
        if machine is None:
            directory = self._root / name_for(call.environment) / name_for(call.text("machine"))
            await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
            number = await self._ledger.number("machines")
            group = Cgroup.create(f"paddock-{_short(str(directory))}")
            machine = Machine(
                directory,
                Record(
                    environment=call.environment,
                    machine=call.text("machine"),
                    fence=call.fence,
                    address=record.address(number - 1, salt=int(_short(str(self._root)), 16) % 254),
                    cgroup=str(group.path) if group else "",
                ),
                looks=self._looks,
                walls=self._walls,
            )
            faults.at("agent.machine_recording")
            await asyncio.to_thread(machine.keep, machine.record)
            faults.at("agent.machine_recorded")
            self._machines[key] = machine
        machine.raise_fence(call.fence)
        await machine.start()
        self._hold(key, machine)
        try:
            async with asyncio.timeout(_RELATED_LIMIT.total_seconds()):
                await machine.channel.related.wait()
        except TimeoutError:
            raise Broken(f"{call.text('machine')}: the server does not take its relay") from None
        address = machine.record.address
        return Outcome(result={"machine": call.text("machine"), "address": address, "addresses": [address]})

    async def _clean(self, call: Call) -> Outcome:
        machine = self._machines.get(_key(call))
        if machine is None:
            raise Missing(f"{call.environment}/{call.text('machine')}: is not on this host")
        machine.raise_fence(call.fence)
        ended = await machine.clean(fence=call.fence)
        return Outcome(result={"machine": call.text("machine"), "ended": ended})

    async def _destroy(self, call: Call) -> Outcome:
        key = _key(call)
        machine = self._machines.get(key)
        if machine is not None:
            self._release(key)
            try:
                await machine.destroy()
            except BaseException:
                self._hold(key, machine)
                raise
            del self._machines[key]
            with suppress(OSError):
                machine.directory.parent.rmdir()
        return Outcome(result={"machine": call.text("machine")})

    async def _list(self, call: Call) -> Mapping[str, JSON]:
        machines: list[JSON] = []
        for machine in self._machines.values():
            agent, known = machine.agent, machine.record
            state = "gone" if agent is None else "relayed" if machine.channel.related.is_set() else "away"
            machines.append(
                {
                    "environment": known.environment,
                    "machine": known.machine,
                    "fence": known.fence,
                    "pid": agent.pid if agent else 0,
                    "state": state,
                    "bubblewrap": machine.is_walled,
                }
            )
        return {"machines": machines}

    # Keeping

    def _find_walls(self) -> Walls | None:
        trial = self._state / "trial"
        try:
            found = walls.find(hidden=self._hidden, trial=trial)
        except Broken as exc:
            _log.warning("machines see the host's files", extra={"why": exc.message})
            return None
        finally:
            with suppress(Broken):
                remove_tree(trial)
        _log.info("machines see their own files alone", extra={"by": found.program})
        return found

    async def _adopt(self, directory: Path) -> None:
        try:
            known = record.load(directory)
        except Broken as exc:
            _log.error("a machine's record is unreadable", extra={"why": exc.message})
            return
        if known is None:
            await self._sweep(directory)
            return
        key = (known.environment, known.machine)
        self._machines[key] = Machine(directory, known, looks=self._looks, walls=self._walls)
        self._hold(key, self._machines[key])

    async def _sweep(self, directory: Path) -> None:
        """What a build that never got its record, or a destroy that did not end, has left."""
        # Its agent was started after the record and ended before it: nobody lives here but by mistake.
        try:
            await trees.end(lambda: trees.inside(directory), grace=timedelta())
            await asyncio.to_thread(remove_tree, directory)
        except Broken as exc:
            _log.error("leftovers of a machine do not go", extra={"why": exc.message})
        if (group := Cgroup.create(f"paddock-{_short(str(directory))}")) is not None:
            group.remove()

    def _hold(self, key: tuple[str, str], machine: Machine) -> None:
        if key not in self._duties:
            self._duties[key] = [
                self._group.create_task(machine.supervise()),
                self._group.create_task(machine.channel.keep(self._carrying)),
            ]

    def _release(self, key: tuple[str, str]) -> None:
        for duty in self._duties.pop(key, ()):
            duty.cancel()


def _sweep_groups() -> None:
    """Control groups of machines that nobody destroyed: their host's agent was killed and its state removed.

    Old and without processes is enough: whoever starts a machine's agent makes its group anew.
    """
    home = Cgroup.home()
    for path in home.glob("paddock-*") if home is not None else ():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _GROUP_IS_OLD and not Cgroup(path=path).procs():
                Cgroup(path=path).remove()


def _key(call: Call) -> tuple[str, str]:
    return call.environment, call.text("machine")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
