"""A whole engine on fakes: its stages under way, its clock in the test's hand, its agents played."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from paddock.core.access import Identity, Role
from paddock.core.command import Command
from paddock.core.configuration import (
    Configuration,
    Forge,
    ForgeKind,
    HostSettings,
    Keep,
    Project,
    ProjectJob,
    Server,
)
from paddock.core.environment import Environment, Pool, Reset
from paddock.core.event import Change
from paddock.core.host import State as HostState
from paddock.core.job import NOOP, Job, Step
from paddock.core.lease import Lease
from paddock.core.machine import Size
from paddock.core.run import Run
from paddock.engine.admission import greet_nobody
from paddock.engine.attending import Attending
from paddock.engine.building import Building
from paddock.engine.cleaning import Cleaning
from paddock.engine.commanding import Commanding
from paddock.engine.imaging import Imaging
from paddock.engine.keeping import Keeping
from paddock.engine.leasing import Leasing, full_ttls
from paddock.engine.loop import Bell, Stage, keep
from paddock.engine.means import Means
from paddock.engine.operating import Operating
from paddock.engine.planning import Planning
from paddock.engine.receiving import Receiving
from paddock.engine.reporting import Reporting
from paddock.engine.running import Running
from paddock.engine.saving import Saving
from paddock.ports import Tables, Touched
from paddock.testing import FakeChance, FakeClock, FakeForge, FakeLinks, MemoryArchive, MemoryStore
from paddock.wire.hello import Enrol, Facts, Relay
from tests.engine.fake_agent import FakeAgent, Reply

T = TypeVar("T")

ANNA = Identity(name="anna", role=Role.PERSON)
BO = Identity(name="bo", role=Role.PERSON)
ROOT = Identity(name="root", role=Role.OPERATOR)
HOUR = timedelta(hours=1)

CHANGE = Change(
    forge="review",
    project="sandbox",
    branch="master",
    number=189221,
    patchset=1,
    ref="refs/changes/21/189221/1",
    revision="a" * 40,
)
GREET = Step(name="greet", run="greet")
SAVE = Step(name="save", run="save")
PAIR = Pool(name="pair", host="local", machines=("one", "two"), max=2)
SLOT = Pool(name="slot", host="local", machines=(), max=2, min_ready=2, reset=Reset.NONE)
JOB = Job(name="pair-job", environment="pair", trusted=True, steps=(GREET,), after=(SAVE,))
PROJECT = Project(name="sandbox", jobs=(ProjectJob(job="noop"), ProjectJob(job="pair-job")))


def configuration(**rest: Any) -> Configuration:
    given: dict[str, Any] = {
        "server": Server(public_url="https://ci.example.org", keep=Keep()),
        "forges": {"review": Forge(name="review", kind=ForgeKind.GERRIT, account="my-ci")},
        "hosts": {"local": HostSettings(name="local", skills=("local",))},
        "pools": {"pair": PAIR, "slot": SLOT},
        "jobs": {"noop": NOOP, "pair-job": JOB},
        "projects": (PROJECT,),
    }
    return Configuration(**{**given, **rest})


class Died(BaseException):
    """The server is killed here."""


class Scene:
    """One server's life, and what outlives it. `restart` begins the next one on the same rows."""

    def __init__(self, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        self.clock = FakeClock()
        self.chance = FakeChance()
        self.archive = MemoryArchive()
        self.forge = FakeForge("review", clock=self.clock)
        self.configuration = configuration()
        self.successor: MemoryStore | None = None
        """The store that the next server opened already: whatever this one writes from then on is in vain."""
        self.agents: dict[str, FakeAgent] = {}
        self.machines_come_by_themselves = True
        self.machine_replies: dict[str, tuple[Reply, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended_badly: list[BaseException] = []
        self._stages: list[asyncio.Task[None]] = []
        self._make()

    def _make(self) -> None:
        self.links = FakeLinks(on_nudge=self._nudged)
        self.means = Means(
            store=self.store,
            archive=self.archive,
            clock=self.clock,
            chance=self.chance,
            links=self.links,
            configuration=lambda: self.configuration,
            forges={"review": self.forge},
        )
        self.leasing, self.running = Leasing(self.means), Running(self.means)
        self.stages: tuple[Stage, ...] = (
            Attending(self.means),
            Planning(self.means),
            self.leasing,
            Imaging(self.means),
            Building(self.means),
            self.running,
            Cleaning(self.means),
            Saving(self.means),
            Reporting(self.means),
            Keeping(self.means),
        )
        self.bells = {stage.name: Bell(stage.wakes) for stage in self.stages}
        self.grown: list[tuple[str, int]] = []
        self.desk = Commanding(self.means, grew=lambda name, length: self.grown.append((name, length)), stir=self._stir)
        self.people = Operating(self.means, self.leasing)
        self.receiving = Receiving(self.means, self.forge)
        for agent in self.agents.values():
            agent.desk = self.desk

    def _stir(self, run: str) -> None:
        self.running.stir(run)
        self.bells["running"].ring()

    def _nudged(self, agent: str) -> None:
        if agent in self.agents and not self.agents[agent].is_away:
            self._start(self.agents[agent].pull())

    def _start(self, doing: Any) -> None:
        task = asyncio.ensure_future(doing)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.is_dying:
            self._ended_badly.append(error)

    is_dying = False
    """Whether the test makes this server die: then what breaks with it is no surprise."""

    async def start(self) -> None:
        """Everything a server does from its start on."""

        def step(tables: Tables) -> None:
            greet_nobody(tables, now=self.clock.now())
            full_ttls(tables, now=self.clock.now())

        await self.store.write(step)
        for stage in self.stages:
            self._stages.append(
                asyncio.ensure_future(keep(stage, self.store, self.clock, self.bells[stage.name])),
            )
        self._stages.append(asyncio.ensure_future(self.receiving.listen()))
        await self.settle()

    async def stop(self) -> None:
        for task in (*self._stages, *self._tasks):
            task.cancel()
        await asyncio.gather(*self._stages, *self._tasks, return_exceptions=True)
        self._stages.clear()

    async def restart(self) -> None:
        """The server dies where it is; the next one starts on its rows. Agents are away until they say hello."""
        await self.stop()
        self._ended_badly.clear()
        self.store = self.successor or self.store.reopen()
        self.successor = None
        for agent in self.agents.values():
            agent.is_away = True
        self.is_dying = False
        self._make()
        await self.start()

    def die_at(self, number: int) -> None:
        """Have the server die of its `number`-th write from now on."""
        left = number

        def is_due(_: Sequence[Touched]) -> bool:
            nonlocal left
            left -= 1
            if left == 0:
                # What else runs in this server writes in vain from now on.
                self.successor = self.store.reopen()
            return left == 0

        self.store.die_after(Died(), when=is_due)
        self.is_dying = True

    async def until_dead(self) -> None:
        """Until the write has come that it dies of."""
        for _ in range(3000):
            await asyncio.sleep(0.0001)
            if self.successor is not None:
                break
        assert self.successor is not None

    async def begin_again(self) -> None:
        """The next server starts, and everybody dials it."""
        for agent in self.agents.values():
            agent.is_away = True
        await self.restart()
        await self.everybody_returns()

    async def settle(self) -> None:
        """Let everything run until nobody has anything to do at this moment."""
        quiet = 0
        counted = CountedTurns(self)
        while quiet < 40:
            await asyncio.sleep(0)
            quiet = quiet + 1 if counted.is_quiet() else 0
        if self._ended_badly:
            raise AssertionError("an agent's connection ended badly") from self._ended_badly.pop()
        if any(stage.done() for stage in self._stages) and not self.is_dying:
            raise AssertionError("a stage ended")

    async def later(self, **span: float) -> None:
        """Let time pass, every moment of it, and everything that follows from it."""
        await self.clock.elapse(**span)
        await self.settle()

    async def jump(self, **span: float) -> None:
        """Let much time pass at once: whoever sleeps is woken once, at its end."""
        self.clock.advance(to=self.clock.now() + timedelta(**span))
        await self.settle()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """For what a thread takes part in: wait, by the real clock and at most some seconds."""
        for _ in range(3000):
            await self.settle()
            if is_so():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it did not come to that")

    # --- what a test looks at ---

    def look(self, step: Callable[[Any], T]) -> T:
        """Read committed rows, at once."""
        from paddock.testing import _MemoryTables

        return step(_MemoryTables(self.store, None))

    async def write(self, step: Callable[[Tables], T]) -> T:
        """Do what no stage would, and let everybody react."""
        answer = await self.store.write(step)
        await self.settle()
        return answer

    def run(self, id: str) -> Run:
        found: Run = self.look(lambda tables: tables.runs.find(id))
        return found

    def runs(self) -> list[Run]:
        return self.look(lambda tables: tables.runs.where())

    def environment(self, id: str) -> Environment:
        found: Environment = self.look(lambda tables: tables.environments.find(id))
        return found

    def environments(self, pool: str = "pair") -> list[Environment]:
        return self.look(lambda tables: tables.environments.where(pool=pool))

    def lease(self, id: str) -> Lease:
        found: Lease = self.look(lambda tables: tables.leases.find(id))
        return found

    def command(self, id: str) -> Command:
        found: Command = self.look(lambda tables: tables.commands.find(id))
        return found

    def commands(self, **equal: Any) -> list[Command]:
        return self.look(lambda tables: tables.commands.where(**equal))

    def states(self, noun: str, id: str) -> list[str]:
        """The states that a row went through, by its history."""
        return self.look(lambda tables: [line.after for line in tables.history.of(noun, id)])

    # --- what a test does ---

    def configure(self, **rest: Any) -> None:
        """Another configuration from now on, as after a reload."""
        self.configuration = configuration(**rest)
        for bell in self.bells.values():
            bell.ring()

    async def enrol(self, host: str = "local") -> FakeAgent:
        """A new agent for a host, known and not yet here."""
        code = await self.people.enrolment(host=host, ttl=HOUR, identity=ROOT)
        id, token = await self.desk.enrol(Enrol(code=code, facts=Facts(hostname=host)))
        agent = FakeAgent(self.desk, id=id, token=token)
        self.agents[id] = agent
        return agent

    async def host_arrives(self, host: str = "local", *, capacity: Size | None = None) -> FakeAgent:
        """The agent of a host enrols and says hello; machines that it builds say hello themselves."""
        agent = await self.enrol(host)
        agent.capacity = capacity
        finish, end = agent.finish, agent.end

        def is_built(command: Command, reply: Reply | None) -> bool:
            is_good = command.method == "machine.build" and not (reply or Reply()).code
            return is_good and self.machines_come_by_themselves

        def end_and_make(command: Command, reply: Reply) -> None:
            end(command, reply)
            if is_built(command, reply):
                self.make_machine(command.environment, command.machine)

        async def finish_and_arrive(command: Command, reply: Reply | None = None) -> None:
            await finish(command, reply)
            if is_built(command, reply):
                await self.machine_arrives(command.environment, command.machine)

        agent.end = end_and_make  # type: ignore[method-assign]
        agent.finish = finish_and_arrive  # type: ignore[method-assign]
        await agent.say_hello()
        await self.settle()
        return agent

    @property
    def host(self) -> FakeAgent:
        """The agent of the host `local`."""
        id = self.look(lambda tables: tables.hosts.find("local").agent)
        return self.agents[id]

    def carrier(self, host: str) -> FakeAgent:
        """The agent of a host."""
        return self.agents[self.look(lambda tables: tables.hosts.find(host).agent)]

    async def machine_arrives(self, environment: str, machine: str) -> FakeAgent:
        """The agent of a machine says hello through its host."""
        agent = self.make_machine(environment, machine)
        await agent.say_hello()
        return agent

    def make_machine(self, environment: str, machine: str) -> FakeAgent:
        """A machine with its agent, which runs whether a server does or not."""
        id = f"{environment}.{machine}"
        if id not in self.agents:
            host = self.carrier(self.environment(environment).host)
            relay = Relay(agent=host.id, token=host.token, environment=environment, machine=machine, fence=1)
            self.agents[id] = FakeAgent(self.desk, id=id, relay=relay)
            for what, replies in self.machine_replies.items():
                self.agents[id].on(what, *replies)
        return self.agents[id]

    def machine(self, name: str, environment: str = "pair-1") -> FakeAgent:
        return self.agents[f"{environment}.{name}"]

    async def everybody_returns(self) -> None:
        """After a restart: the host and its machines dial again."""
        for agent in sorted(self.agents.values(), key=lambda one: one.relay is not None):
            await agent.say_hello()
        await self.settle()

    async def comment(self, comment: str = "recheck", change: Change = CHANGE, author: str = "anna") -> None:
        self.forge.say_comment(change, comment, author=author)
        await self.settle()

    async def push(self, patchset: int) -> None:
        self.forge.say_patchset(replace(CHANGE, patchset=patchset, ref=f"refs/changes/21/189221/{patchset}"))
        await self.settle()

    async def acquire(
        self, pool: str = "slot", *, owner: Identity = ANNA, ttl: timedelta = HOUR, wait: timedelta | None = None
    ) -> Lease:
        lease = await self.people.acquire(pool=pool, holder=f"{owner.name}@desk", owner=owner.name, ttl=ttl, wait=wait)
        await self.settle()
        return self.lease(lease.id)

    async def is_host(self, state: HostState) -> bool:
        await self.settle()
        return bool(self.look(lambda tables: tables.hosts.find("local").state) is state)


class CountedTurns:
    """Sees whether anything was read or written since it looked last."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._count = 0
        self._seen = -1
        scene.store.subscribe(lambda touched: self._add())

    def _add(self) -> None:
        self._count += 1

    def is_quiet(self) -> bool:
        is_quiet = self._count == self._seen and not self._scene._tasks
        self._seen = self._count
        return is_quiet


@contextlib.asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    scene = Scene()
    await scene.start()
    try:
        yield scene
    finally:
        await scene.stop()
