"""One machine of a host: its directories, its agent's process, its channel to the server.

Effects: idempotent. The machine's agent lives in a session of its own and outlives ours; whoever comes after finds
it by what it signed in its state directory, and starts it again on its ledger if it is dead.
"""

import asyncio
import logging
import os
import stat
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from paddock.agent import identity as identities
from paddock.agent.channel import Channel
from paddock.agent.floor import Floor
from paddock.agent.skills.local import census, emptying, record
from paddock.agent.skills.local import walls as walling
from paddock.agent.skills.local.census import Looks, Whose
from paddock.agent.skills.local.record import Record
from paddock.agent.skills.local.walls import Walls
from paddock.core.errors import Broken, PaddockError
from paddock.hands import faults, links, trees
from paddock.hands.links import Link
from paddock.hands.order import HELD_IN
from paddock.hands.trees import Cgroup

_log = logging.getLogger(__name__)

_START_LIMIT = timedelta(seconds=20)
_FLOOR_LIMIT = timedelta(seconds=3)
_GRACE = timedelta(milliseconds=500)
_LOOK_EVERY = 0.01
_REAPED_WITHIN = 2.0  # seconds; a group that stays is swept another day
_RESTART_AFTER = 1.0
_ROOT = Path(__file__).parents[4]
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from paddock.agent.__main__ import main; main()"
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "PADDOCK_FAULT_ONCE", "PADDOCK_FAULT_ACT")


class Machine:
    """A machine that exists as a directory with a record."""

    def __init__(self, directory: Path, known: Record, *, looks: Looks, walls: Walls | None) -> None:
        self.directory = directory
        self.record = known
        self.channel = Channel(environment=known.environment, machine=known.machine, reach=self._reach)
        self.work = directory / "work"
        self._state = directory / "agent"
        self._line = self._state / "line"
        self._looks = looks
        self._walls = walls
        self._child: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()

    @property
    def agent(self) -> trees.Identity | None:
        """Its agent's process, if it lives."""
        return identities.signed_in(self._state)

    @property
    def is_walled(self) -> bool:
        """Whether its agent sees its own files and no other machine's."""
        agent = self.agent
        return agent is not None and not _shares_mounts(agent)

    # Existing

    async def start(self) -> None:
        """Its agent lives and serves its line. Broken, with its last words, if it does not come up."""
        async with self._starting:
            if self.agent is not None and self._is_served():
                return
            if self.agent is None:
                self._spawn()
            deadline = asyncio.get_running_loop().time() + _START_LIMIT.total_seconds()
            while self.agent is None or not self._is_served():
                if self._child is not None and self._child.poll() is not None and self.agent is None:
                    raise Broken(f"{self.record.machine}: its agent ended at once: {self._last_words()}")
                if asyncio.get_running_loop().time() > deadline:
                    raise Broken(f"{self.record.machine}: its agent does not come up: {self._last_words()}")
                await asyncio.sleep(_LOOK_EVERY)

    async def supervise(self) -> None:
        """Start the agent again whenever it is dead; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            born = loop.time()
            try:
                await self.start()
                found = self.agent
                if found is not None:
                    await _gone(found)
                    _log.warning("a machine's agent is dead", extra=self._fields())
            except PaddockError as exc:
                _log.error("a machine's agent does not start", extra={**self._fields(), "why": exc.message})
            if self._child is not None:
                self._child.poll()  # so that a dead child is no zombie
            # One that dies at once is not started faster and faster.
            await asyncio.sleep(max(_RESTART_AFTER - (loop.time() - born), 0.05))

    async def clean(self, *, fence: int) -> int:
        """End everyone but the agent and its launcher, empty the directories, prove both; how many were ended.

        From here on nothing begins on the machine under a lower fence. Broken, with the reason, if it cannot be proven.
        """
        await self._raise_floor(fence)
        await self.start()
        ended = 0
        # Without a group the look is shared by all cleanings that wait; only where there is somebody, one looks alone.
        if self._strangers(await self._everyone()):
            ended = len(await trees.end(lambda: self._strangers(census.find(self._whose())), grace=_GRACE))
        faults.at("agent.cleaned_processes")
        await self._see_to_walls()
        spared = self._walls.spared(self.directory) if self._walls else frozenset()
        for name in walling.CONTENTS:
            directory = self.directory / name
            if not directory.exists() or emptying.is_empty(directory, spared=spared):
                continue
            await asyncio.to_thread(emptying.empty, directory, mode=walling.mode_of(name), spared=spared)
            if not emptying.is_empty(directory, spared=spared):
                raise Broken(f"{directory}: is not empty after it was emptied")
        if self._strangers(await self._everyone()):
            raise Broken(f"{self.record.machine}: processes came back while it was cleaned")
        return ended

    async def destroy(self) -> None:
        """Make it not exist. Idempotent."""
        await trees.end(self._all, grace=_GRACE)
        if self._child is not None:
            self._child.poll()
        if self.record.cgroup:
            await _remove(Cgroup(path=Path(self.record.cgroup)))
        if self.directory.exists():
            # The record goes first: a directory without one is swept at the next birth.
            (self.directory / record.FILE).unlink(missing_ok=True)
            await asyncio.to_thread(emptying.remove_tree, self.directory)

    def keep(self, known: Record) -> None:
        """Write the record."""
        record.save(self.directory, known)
        self.record = known

    def raise_fence(self, fence: int) -> None:
        """Remember the highest fence; for machine.list."""
        self.record = replace(self.record, fence=max(fence, self.record.fence))

    async def _reach(self) -> Link:
        """A link to its agent, which is started if it is dead."""
        await self.start()
        return await links.connect(f"unix:{self._line}")

    # Its processes

    def _whose(self) -> Whose:
        agent = self.agent
        return Whose(
            directory=self.directory,
            group=self._group(agent),
            agent=agent,
        )

    def _group(self, agent: trees.Identity | None) -> Cgroup | None:
        """The machine's group, if it can be believed: one that the agent is not in proves nothing about the others."""
        if not self.record.cgroup:
            return None
        group = Cgroup(path=Path(self.record.cgroup))
        return group if agent is not None and agent in group.procs() else None

    def _all(self) -> list[trees.Identity]:
        """Everyone by every means: once the agent is gone its group alone proves nothing."""
        whose = self._whose()
        marked = census.members(whose, census.look())
        group = Cgroup(path=Path(self.record.cgroup)).procs() if self.record.cgroup else []
        return list(dict.fromkeys([*marked, *group]))

    async def _everyone(self) -> list[trees.Identity]:
        whose = self._whose()
        return whose.group.procs() if whose.group else census.members(whose, await self._looks.fresh())

    def _strangers(self, everyone: list[trees.Identity]) -> list[trees.Identity]:
        """Everyone but the agent and its own children, of which it has one: the launcher."""
        agent = self.agent
        if agent is None:
            return everyone
        return [one for one in everyone if one != agent and not census.is_child(one, agent)]

    async def _see_to_walls(self) -> None:
        """An agent with other walls than it should have is started again: a task has moved them, or we are told so."""
        agent = self.agent
        if agent is None:
            return
        walls = self._walls
        if walls.stands(self.directory, agent) if walls else _shares_mounts(agent):
            return
        _log.info("a machine's walls are not as they should be", extra=self._fields())
        await trees.end(lambda: [agent], grace=timedelta())
        await self.start()

    async def _raise_floor(self, fence: int) -> None:
        floor = Floor(self._state)
        try:
            await floor.rise(fence, limit=_FLOOR_LIMIT)
        except Broken:
            # It is stuck in something that it began under the old fence: its supervisor starts it again.
            agent = self.agent
            if agent is not None:
                await trees.end(lambda: [agent], grace=timedelta())
            await floor.rise(fence, limit=_FLOOR_LIMIT)

    # Its agent

    def _spawn(self) -> None:
        if self._child is not None:
            self._child.poll()
        walling.prepare(self.directory)
        known = self.record
        # A dead agent's socket would look served.
        self._line.unlink(missing_ok=True)
        words = ["run", "--line", f"unix:{self._line}", "--state", str(self._state), "--work", str(self.work)]
        words += ["--environment", known.environment, "--machine", known.machine, "--address", known.address]
        group = Path(known.cgroup) if known.cgroup else None
        if group is not None:
            with suppress(OSError):  # a boot has taken it away
                group.mkdir(parents=True, exist_ok=True)
            words += ["--cgroup", known.cgroup]
        env, marks, walls = self._environment(), self._marks(), []
        if self._walls is not None:
            walls = self._walls.command(self.directory, group=group, marks=marks)
        _log.info("starting a machine's agent", extra=self._fields())
        with (self.directory / "agent.log").open("ab") as log:
            self._child = subprocess.Popen(
                [*walls, sys.executable, "-S", "-c", _START, str(_ROOT), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=env if walls else {**env, **marks},
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # A crash point is armed in one kind of process: keepers' by the usual name, agents' of machines by their own.
        point = os.environ.get("PADDOCK_FAULT", "")
        point = os.environ.get("PADDOCK_MACHINE_FAULT") or (point if point.startswith("keeper.") else "")
        if point:
            env["PADDOCK_FAULT"] = point
        return {**env, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def _marks(self) -> dict[str, str]:
        """What its agent, and whatever that starts, carries in its environment; bubblewrap's own process does not."""
        return {
            HELD_IN: str(self.directory),
            "PADDOCK_ENVIRONMENT": self.record.environment,
            "PADDOCK_MACHINE": self.record.machine,
        }

    def _is_served(self) -> bool:
        try:
            return stat.S_ISSOCK(self._line.stat().st_mode)
        except OSError:
            return False

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = (self.directory / "agent.log").read_text("utf-8", "replace").strip().splitlines()
            return lines[-1][:500] if lines else "it said nothing"
        return "it said nothing"

    def _fields(self) -> dict[str, str]:
        return {"environment": self.record.environment, "machine": self.record.machine}


async def _remove(group: Cgroup) -> None:
    """Remove a group whose processes have ended: until somebody has reaped the last of them, it is not empty."""
    deadline = asyncio.get_running_loop().time() + _REAPED_WITHIN
    group.remove()
    while group.path.exists() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_LOOK_EVERY)
        group.remove()


async def _gone(identity: trees.Identity) -> None:
    """Wait until a process, child or not, has ended."""
    loop = asyncio.get_running_loop()
    try:
        handle = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        if trees.is_alive(identity):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _shares_mounts(agent: trees.Identity) -> bool:
    """Whether a process sees the files that we see."""
    try:
        return os.readlink(f"/proc/{agent.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    except OSError:
        return True
