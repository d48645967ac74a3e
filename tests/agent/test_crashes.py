"""SIGKILL at each crash point of the agent; executions are counted by the victim, bytes by the server."""

import asyncio
import os
import re
import secrets
from pathlib import Path

import pytest

from paddock.hands import trees
from paddock.wire.hello import TaskState
from paddock.wire.messages import Success
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import Desk

POINTS = sorted(
    {
        point
        for path in (SOURCE / "paddock" / "agent").rglob("*.py")
        for point in re.findall(r'faults\.at\("(agent\.[a-z_]+)"\)', path.read_text())
    }
)
KEEPER_POINTS = ("keeper.forked", "keeper.held", "keeper.gate_opening", "keeper.gate_opened", "keeper.ended")
IN_MACHINE = [point for point in POINTS if not re.search(r"identity|enrol|machine_|cleaned|prun", point)]
RUN = "echo {id} >> {count}; sync {count}; i=0; while [ $i -lt 2000 ]; do echo {id}-line-$i; i=$((i+1)); done"
WHOLE = "".join("{id}-line-%d\n" % number for number in range(2000))  # noqa: UP031 - the braces are for later

pytestmark = pytest.mark.slow


def test_the_points_are_found_in_the_code() -> None:
    assert len(POINTS) >= 20
    for before, after in (
        ("accepting", "accepted"),
        ("forking", "forked"),
        ("starting", "started"),
        ("opening", "opened"),
        ("finishing", "finished"),
        ("acknowledging", "acknowledged"),
    ):
        assert {f"agent.{before}", f"agent.{after}"} <= set(POINTS)


class Story:
    """What is done to the agent, and what must be true in the end however often it died."""

    def __init__(self, desk: Desk, host: Host, tmp_path: Path) -> None:
        self.desk = desk
        self.host = host
        self.count = tmp_path / "count"
        # Two runs of these tests at once must not find each other's processes.
        self.own = secrets.token_hex(4)

    async def keep_alive(self) -> None:
        while True:
            if not self.host.is_alive:
                self.host.kill()
                self.host.start()
            await asyncio.sleep(0.02)

    def name(self, id: str) -> str:
        return f"{id}-{self.own}"

    async def step(self, id: str, method: str, *, agent: str = "host", **params: object) -> TaskState:
        """A command to its end; what says `interrupted` is asked again under a new id if its method allows it."""
        for attempt in range(3):
            name = f"{self.name(id)}.{attempt}" if attempt else self.name(id)
            await self.desk.say(self.desk.command(name, method, **params), agent=agent)
            status = await self.desk.final(name, limit=40)
            if status.code != "interrupted" or method == "script.run":
                return status.state
        raise AssertionError(f"{id}: interrupted again and again")

    async def script(self, id: str, **where: object) -> None:
        agent = str(where.pop("agent", "host"))
        run = RUN.format(id=id, count=self.count)
        assert await self.step(id, "script.run", agent=agent, run=run, **where) is TaskState.COMPLETE
        assert await self.desk.whole(self.name(id), limit=40) == WHOLE.format(id=id).encode()

    async def put(self, path: str, *, agent: str = "host", **where: object) -> None:
        for name in ("put", "put-again"):
            command = self.desk.command(name, "file.put", path=path, data="aGVsbG8=", **where)
            answer = await self.desk.ask(command, agent=agent, limit=30)
            if isinstance(answer, Success):
                return
            assert answer.code == "interrupted", answer
        raise AssertionError("interrupted again and again")

    def executions(self) -> list[str]:
        return sorted(self.count.read_text().split())


@pytest.fixture
def story(desk: Desk, host: Host, tmp_path: Path) -> Story:
    return Story(desk, host, tmp_path)


@pytest.mark.parametrize("point", POINTS)
async def test_the_hosts_agent_dies_and_nothing_is_lost_or_doubled(story: Story, tmp_path: Path, point: str) -> None:
    once = tmp_path / "once"
    # The machine is cleaned: what is counted there lies outside.
    story.host.env["PADDOCK_BUBBLEWRAP"] = "no"
    story.host.start(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    living = asyncio.ensure_future(story.keep_alive())
    try:
        await story.script("s1")
        await story.put("file")
        where = {"environment": "e-1", "machine": "one"}
        assert await story.step("b", "machine.build", fence=1, **where) is TaskState.COMPLETE
        await story.script("s2", agent="e-1/one", environment="e-1", fence=1)
        assert await story.step("c", "machine.clean", fence=2, **where) is TaskState.COMPLETE
        assert await story.step("d", "machine.destroy", fence=3, **where) is TaskState.COMPLETE
        await story.desk.until(lambda: not any(story.host.state.glob("tasks/*")), limit=30)
    finally:
        living.cancel()
    assert once.exists(), "the point was never passed"
    assert story.executions() == ["s1", "s2"]
    assert (story.host.state / "work" / "file").read_bytes() == b"hello"
    assert not any(story.host.state.glob("machines/*/*"))
    assert _left_of(story.host) == []


@pytest.mark.parametrize("point", IN_MACHINE)
async def test_the_machines_agent_dies_and_nothing_is_lost_or_doubled(story: Story, tmp_path: Path, point: str) -> None:
    place = story.host.machine("e-1", "one")
    # Behind walls, so both lie where the machine's agent and its tasks can write.
    once, story.count = place / "agent" / "once", place / "agent" / "count"
    story.host.start(PADDOCK_MACHINE_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    where = {"environment": "e-1", "fence": 1}
    assert await story.step("b", "machine.build", machine="one", **where) is TaskState.COMPLETE
    await story.script("s1", agent="e-1/one", **where)
    await story.put("results/r.xml", agent="e-1/one", **where)
    state = await story.step("c", "file.collect", agent="e-1/one", root="results", globs=["**"], **where)
    assert state is TaskState.COMPLETE
    assert await story.desk.whole(story.name("c"), "r.xml", limit=40) == b"hello"
    await story.desk.until(lambda: not any(place.glob("agent/tasks/*")), limit=30)
    assert once.exists(), "the point was never passed"
    assert story.executions() == ["s1"]


@pytest.mark.parametrize("point", KEEPER_POINTS)
async def test_a_keeper_dies_and_its_task_has_one_end(story: Story, tmp_path: Path, point: str) -> None:
    once = tmp_path / "once"
    story.host.start(PADDOCK_FAULT=point, PADDOCK_FAULT_ONCE=str(once))
    run = f"echo s1 >> {story.count}; sync {story.count}; echo up"
    await story.desk.ask(story.desk.command(story.name("s1"), "script.run", run=run))
    status = await story.desk.final(story.name("s1"), limit=30)
    assert once.exists(), "the point was never passed"
    executions = story.executions() if story.count.exists() else []
    if status.state is TaskState.COMPLETE:
        assert executions == ["s1"]
    else:
        assert status.code in ("interrupted", "failed")
        assert executions in ([], ["s1"])
    assert len(story.desk.finals[story.name("s1")]) == 1
    await story.desk.ask(story.desk.command("s2", "script.run", run="true"))
    assert (await story.desk.final("s2")).state is TaskState.COMPLETE


def _left_of(host: Host) -> list[str]:
    """Processes that stand in its state directory, beside itself and its launcher."""
    own = host.process.pid if host.process is not None else 0
    spared = {own, *(one.pid for one in trees.descendants(own))}
    return [trees.name(one) for one in trees.inside(host.state) if one.pid not in spared and one.pid != os.getpid()]
