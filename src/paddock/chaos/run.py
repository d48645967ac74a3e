"""A run of chaos: server, proxy and victim are given work, broken, healed, and counted.

Effects: none that outlive it, but for the directory that it was told to keep.
"""

import asyncio
import contextlib
import random
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paddock.agent.paths import name_for
from paddock.chaos import acts, checks, clock, orders
from paddock.chaos.acts import Act, Planned
from paddock.chaos.checks import Check, Evidence
from paddock.chaos.giving import Giving
from paddock.chaos.proxy import Proxy
from paddock.chaos.room import Room
from paddock.chaos.served import Served, surroundings
from paddock.core.errors import Broken
from paddock.hands.groups import Ground
from paddock.hands.trees import Cgroup

DISK = 96 << 20
_NARROW = 6 << 20
_MOST_OPEN = 400
_HEARTBEAT = 1
_RETENTION = timedelta(seconds=4)
_SETTLES_WITHIN = 120.0
_READY_WITHIN = 60.0
_AT_ONCE = 2
_SLOWLY = 0.02
"""Seconds between two commands while the disk is full."""
_SILENTLY = 0.3
"""How often a partition leaves the links that are open half-open; else they are reset."""
_DESCRIPTORS = 64
"""More than an agent has open that does nothing."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for; `limit` ends the giving of commands, whatever their number."""

    commands: int
    seed: int
    limit: timedelta
    directory: Path


@dataclass(kw_only=True)
class Progress:
    """How far it is, for whoever watches."""

    step: str = "starting"
    given: int = 0
    over: int = 0
    acts: int = 0
    planned: int = 0
    now: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out. `left_out` tells for each act that was not done why."""

    seed: int
    seconds: float
    commands: int
    given_again: int
    said_again: int
    boots: int
    acts: Mapping[str, int]
    left_out: Mapping[str, str]
    states: Mapping[str, int]
    checks: tuple[Check, ...] = field(default=())

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


class Run:
    """One run. `tell` is called whenever there is progress."""

    def __init__(self, wanted: Wanted, *, tell: Callable[[Progress], None]) -> None:
        self._wanted = wanted
        self._tell = tell
        self._progress = Progress()
        self._directory = wanted.directory
        self._room = Room(self._directory, size=DISK)
        self._served = Served(self._directory, heartbeat=_HEARTBEAT)
        self._proxy = Proxy(self._served.port, chance=self._chance("proxy"))
        self._giving = Giving(self._served, most=_MOST_OPEN, chance=self._chance("giving"))
        self._done: Counter[str] = Counter()
        self._troubles: list[tuple[float, float]] = []
        self._left_out: dict[Act, str] = {}
        self._is_narrow = False
        self._began = time.monotonic()

    def _chance(self, name: str) -> random.Random:
        """Each part draws from its own, so that none disturbs another's."""
        return random.Random(f"{self._wanted.seed} {name}")

    async def play(self) -> Result:
        """From the first process to the last check."""
        try:
            await self._open()
            await self._disturb()
            await self._heal()
            return await self._count()
        finally:
            await self._close()

    def _note(self, text: str) -> None:
        """For whoever looks for a cause afterwards."""
        counts = f"{len(self._giving.given)} given {self._giving.over} over"
        with (self._directory / "acts.log").open("a") as log:
            log.write(f"{datetime.now(UTC):%H:%M:%S.%f} {counts}  {text}\n")

    def _say(self, step: str) -> None:
        self._progress.step = step
        self._note(step)
        self._tell(self._progress)

    # Start and end

    @property
    def _state(self) -> Path:
        return self._room.disk / "agent"

    @property
    def _clock(self) -> Path:
        return self._directory / "agent.clock"

    @property
    def _witness(self) -> Path:
        return self._directory / "witness"

    async def _open(self) -> None:
        self._say("starting the server")
        self._witness.touch()
        clock.write(self._clock, 0)
        await self._room.open()
        if self._room.why_plain:
            self._left_out = dict.fromkeys((Act.REBOOT, Act.FULL_DISK, Act.NARROW_DISK), self._room.why_plain)
        await self._served.open()
        await self._proxy.open()
        self._say("starting the victim")
        code = await self._served.enrol()
        python = [sys.executable, "-m"]
        agent = [*python, "paddock.chaos.clock", str(self._clock), "paddock.agent", "run", "--code", code]
        agent += ["--server", f"ws://127.0.0.1:{self._proxy.port}/agent", "--state", str(self._state)]
        agent += ["--skills", "script,file,system", "--cloud", "none"]
        # Patience that fits a network of one machine: most of a run would be waiting.
        agent += ["--retry-limit", "2", "--connect-limit", "5", "--hello-limit", "5"]
        agent += ["--retention", str(_RETENTION / timedelta(days=1))]
        await self._room.boot([*python, "paddock.chaos.init", *agent], surroundings(self._directory))
        async with asyncio.timeout(_READY_WITHIN):
            while not (await self._served.agent()).get("connected"):  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)

    async def _close(self) -> None:
        with contextlib.suppress(Exception):
            await self._proxy.close()
        await self._room.close()
        await self._served.close()

    # Trouble

    async def _disturb(self) -> None:
        wanted, progress = self._wanted, self._progress
        plan = acts.planned(self._chance("acts"), commands=wanted.commands, left_out=self._left_out)
        progress.planned = len(plan)
        self._say("running")
        drawn = orders.drawn(
            self._chance("orders"), count=wanted.commands, run=f"c{secrets.token_hex(3)}", witness=str(self._witness)
        )
        until = self._began + wanted.limit.total_seconds()
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(duty) for duty in (self._giving.follow(), self._giving.repeat())]
            acting = group.create_task(self._act_all(plan))
            async with asyncio.TaskGroup() as posting:
                for order in drawn:
                    if time.monotonic() >= until:
                        break
                    await self._giving.give(order, posting)
                    if self._is_narrow:
                        await asyncio.sleep(_SLOWLY)  # what is refused proves little
                    progress.given, progress.over = len(self._giving.given), self._giving.over
                    self._tell(progress)
            acting.cancel()
            for duty in beside:
                duty.cancel()

    async def _act_all(self, plan: list[Planned]) -> None:
        """One after the other as commands are given; the next may begin before one is over."""
        at_once = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for one in plan:
                while len(self._giving.given) < one.after:  # noqa: ASYNC110 - a plan, not an event
                    await asyncio.sleep(0.02)
                await at_once.acquire()
                group.create_task(self._act(one, at_once))

    async def _act(self, one: Planned, at_once: asyncio.Semaphore) -> None:
        began = time.monotonic()
        self._progress.now = one.act.value
        try:
            was_done = await self._do(one)
            if was_done:
                self._done[one.act.value] += 1
                self._progress.acts += 1
            self._note(f"{one.act.value}: {'over' if was_done else 'found nobody'}")
        except Broken as exc:
            # A word that met a reboot in the middle: it was not done.
            self._note(f"{one.act.value}: {exc.message}")
        finally:
            if one.act in acts.MAY_INTERRUPT:
                self._troubles.append((began, time.monotonic()))
            at_once.release()

    async def _do(self, one: Planned) -> bool:
        """Do it, and undo what lasts; False if there was nobody to do it to."""
        self._note(f"{one.act.value} ({one.length:.1f} s)")
        room, served, proxy = self._room, self._served, self._proxy
        match one.act:
            case Act.KILL_AGENT:
                return bool(await room.say("kill"))
            case Act.RESTART_AGENT:
                await room.say("end")
                return bool(await room.say("start"))
            case Act.KILL_KEEPER:
                return bool(await room.say("keeper", int(one.draw * 1000)))
            case Act.KILL_SERVER:
                await served.kill(off_for=one.length)
            case Act.CUT:
                proxy.cut()
            case Act.HALF_OPEN:
                proxy.freeze()
            case Act.PARTITION:
                proxy.refuses = True
                if one.draw < _SILENTLY:
                    proxy.freeze()
                else:
                    proxy.cut()
                await asyncio.sleep(one.length)
                proxy.refuses = False
            case Act.REPEAT:
                proxy.repeat(1 + int(one.draw * 40))
            case Act.STOP_AGENT:
                await room.say("stop")
                await asyncio.sleep(one.length)
                await room.say("go")
            case Act.STOP_SERVER:
                served.signal(signal.SIGSTOP)
                await asyncio.sleep(one.length)
                served.signal(signal.SIGCONT)
            case Act.PAUSE:
                await room.say("pause")
                await asyncio.sleep(one.length)
                await room.say("resume")
            case Act.FULL_DISK | Act.NARROW_DISK:
                room.fill(leave=0 if one.act is Act.FULL_DISK else int(one.draw * _NARROW))
                self._is_narrow = True
                await asyncio.sleep(one.length)
                room.free()
                self._is_narrow = False
            case Act.CLOCK_AGENT | Act.CLOCK_SERVER:
                file = self._clock if one.act is Act.CLOCK_AGENT else served.clock
                clock.write(file, (one.draw * 2 - 1) * acts.HOUR)
                await asyncio.sleep(one.length)
                clock.write(file, 0)
            case Act.REBOOT:
                await room.reboot()
        return True

    # Healing and counting

    async def _heal(self) -> None:
        """Nothing is wrong any more; then wait until all is over."""
        self._say("healing")
        self._progress.now = ""
        self._proxy.refuses = False
        self._proxy.cut()
        if not self._room.why_plain:
            self._room.free()
        for file in (self._clock, self._served.clock):
            clock.write(file, 0)
        self._served.signal(signal.SIGCONT)
        await self._room.say("resume")
        await self._room.say("start")
        self._say("waiting until all is over")

    async def _count(self) -> Result:
        unsettled = await self._giving.settle(limit=_SETTLES_WITHIN)
        await self._until_tidy()
        self._say("counting")
        unknown = await self._giving.hear_all()
        printed = await self._read_outputs()
        left = self._left_behind((await self._room.say("look"))["files"])
        processes = await self._room.say("end")
        given = self._giving.given
        found = Evidence(
            given=given,
            witness=Counter(self._witness.read_text().split()),
            unknown=frozenset(unknown),
            unsettled=unsettled,
            refused=self._giving.refused,
            said_again=frozenset(self._proxy.repeated),
            printed=printed,
            files=self._files_put(),
            troubles=self._troubles,
            processes=processes,
            left=left,
        )
        return Result(
            seed=self._wanted.seed,
            seconds=round(time.monotonic() - self._began, 1),
            commands=len(given),
            given_again=self._giving.repeated,
            said_again=len(self._proxy.repeated),
            boots=self._room.boots,
            acts=dict(self._done),
            left_out={act.value: why for act, why in self._left_out.items()},
            states=dict(checks.states(given.values())),
            checks=tuple(checks.checked(found)),
        )

    async def _until_tidy(self) -> None:
        """The last tasks are told, acknowledged and cleared away a moment after they are over."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            look = await self._room.say("look")
            if not look["others"] and not any((self._room.there / "agent/tasks").iterdir()):
                return
            await asyncio.sleep(0.1)

    async def _read_outputs(self) -> dict[str, str]:
        """What is wrong with each output that was told of, or should have been."""
        wanted = [
            one
            for one in self._giving.given.values()
            if one.end is not None and (one.order.size or one.end["outputs"].get("out"))
        ]
        found: dict[str, str] = {}
        waiting = iter(wanted)

        async def read() -> None:
            for one in waiting:
                found[one.order.id] = checks.misprint(await self._served.output(one.order.id), one)

        await asyncio.gather(*(read() for _ in range(4)))
        return found

    def _left_behind(self, open_files: list[str]) -> list[str]:
        """Files, control groups and descriptors of tasks that are over."""
        state = self._room.there / "agent"
        found = [f"file {path.name}/" for path in (state / "tasks").iterdir()]
        found += [f"file tmp/{path.name}" for path in (state / "tmp").iterdir()]
        found += [f"the agent has {file} open" for file in open_files if f"{self._state}/tasks/" in file]
        if len(open_files) > _DESCRIPTORS:
            found.append(f"the agent has {len(open_files)} files open")
        home = Cgroup.home()
        if home is not None:
            groups = (Ground(path=home).group_of(self._state / "tasks" / name_for(id)) for id in self._giving.given)
            found += [f"control group {group}" for group in groups if group.exists()]
        return found

    def _files_put(self) -> dict[str, bytes]:
        place = self._room.there / "agent/work/put"
        return {path.name: path.read_bytes() for path in place.iterdir()} if place.is_dir() else {}
