"""A run of chaos: server, proxy and victim are given work, broken, healed, and counted.

Effects: none that outlive it, but for the directory that it was told to keep.
"""

import asyncio
import contextlib
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from paddock.chaos import acts, checks, clock, counting, orders
from paddock.chaos.acting import Acting
from paddock.chaos.acts import Act
from paddock.chaos.checks import Check, Evidence
from paddock.chaos.giving import Giving
from paddock.chaos.proxy import Proxy
from paddock.chaos.room import Room
from paddock.chaos.served import Served, surroundings

DISK = 96 << 20
_MOST_OPEN = 400
_HEARTBEAT = 1
_RETENTION = timedelta(seconds=4)
_SETTLES_WITHIN = 120.0
_READY_WITHIN = 60.0
_SLOWLY = 0.02
"""Seconds between two commands while the disk is full."""
_TIDY_WITHIN = 20.0


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
        self._acting = Acting(
            self._room,
            self._served,
            self._proxy,
            calendar=self._clock,
            given=lambda: len(self._giving.given),
            waiting=lambda: len(self._giving.given) - self._giving.over,
            note=self._note,
        )
        self._left_out: dict[Act, str] = {}
        self._began = time.monotonic()

    def _chance(self, name: str) -> random.Random:
        """Each part draws from its own, so that none disturbs another's."""
        return random.Random(f"{self._wanted.seed} {name}")

    async def play(self) -> Result:
        """From the first process to the last check."""
        try:
            await self._open()
            await self._disturb()
            self._say("healing")
            await self._acting.heal()
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
            group.create_task(self._acting.act_all(plan))
            async with asyncio.TaskGroup() as posting:
                for order in drawn:
                    if time.monotonic() >= until:
                        break
                    await self._giving.give(order, posting)
                    if self._acting.is_narrow:
                        await asyncio.sleep(_SLOWLY)  # what is refused proves little
                    self._watch()
            self._acting.is_over = True
            for duty in beside:
                duty.cancel()

    def _watch(self) -> None:
        progress = self._progress
        progress.given, progress.over = len(self._giving.given), self._giving.over
        progress.acts, progress.now = sum(self._acting.done.values()), self._acting.now
        self._tell(progress)

    # Counting

    async def _count(self) -> Result:
        self._say("waiting until all is over")
        unsettled = await self._giving.settle(limit=_SETTLES_WITHIN)
        await self._until_tidy()
        self._say("counting")
        unknown = await self._giving.hear_all()
        given, there = self._giving.given, self._room.there / "agent"
        said_again = frozenset(self._proxy.repeated)
        printed = await counting.compare(self._served.output, given.values(), said_again=said_again)
        look = await self._room.say("look")
        left = counting.left_behind(there, given, told=self._state, open_files=look["files"])
        processes = await self._room.say("end")
        found = Evidence(
            given=given,
            witness=Counter(self._witness.read_text().split()),
            unknown=frozenset(unknown),
            unsettled=unsettled,
            refused=self._giving.refused,
            said_again=said_again,
            printed=printed,
            files=counting.files_put(there),
            troubles=self._acting.troubles,
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
            acts=dict(self._acting.done),
            left_out={act.value: why for act, why in self._left_out.items()},
            states=dict(checks.states(given.values())),
            checks=tuple(checks.checked(found)),
        )

    async def _until_tidy(self) -> None:
        """The last tasks are told, acknowledged and cleared away a moment after they are over."""
        until = time.monotonic() + _TIDY_WITHIN
        while time.monotonic() < until:
            look = await self._room.say("look")
            if not look["others"] and not any((self._room.there / "agent/tasks").iterdir()):
                return
            await asyncio.sleep(0.1)
