"""More tasks than may have processes at once wait for their turn; nothing is refused for it."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.agent.entry import Moment
from paddock.agent.ledger import Ledger
from paddock.agent.settings import Settings, prepare
from paddock.agent.skills import opened
from paddock.agent.skills.skill import Place
from paddock.agent.worker import Worker
from paddock.hands import trees
from paddock.hands.launcher import Launcher
from paddock.wire.hello import Status, TaskState
from paddock.wire.messages import Code, Command, Failure, Success


class Bench:
    """A worker of two turns, and what it tells."""

    def __init__(self, worker: Worker, launcher: Launcher) -> None:
        self.worker = worker
        self.launcher = launcher
        self.finals: dict[str, Status] = {}
        self.news = asyncio.Event()

    def hear(self, status: Status) -> None:
        if status.state is not TaskState.RUNNING:
            self.finals[status.task_id] = status
        self.news.set()

    async def give(self, id: str, run: str, **params: object) -> Success | Failure:
        return await self.worker.carry_out(Command(id=id, method="script.run", params={"run": run, **params}))

    async def until_ended(self, *ids: str) -> None:
        async with asyncio.timeout(20):
            while not set(ids) <= set(self.finals):
                self.news.clear()
                await self.news.wait()


@contextlib.asynccontextmanager
async def bench(tmp_path: Path, **settings: int) -> AsyncIterator[Bench]:
    chosen = Settings(state=tmp_path / "state", work=tmp_path / "work", skills=("script",), **settings)
    prepare(chosen)
    ledger = Ledger.open(chosen.ledger)
    place = Place(work=chosen.work, temporary=chosen.temporary, tasks=chosen.tasks)
    made: Bench | None = None
    async with opened(place, chosen.skills) as skills, Launcher() as launcher:
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                worker = Worker(
                    settings=chosen,
                    ledger=ledger,
                    launcher=launcher,
                    place=place,
                    skills=skills,
                    group=group,
                    tell=lambda status: made.hear(status) if made else None,
                    moment=lambda: Moment(
                        at=datetime.now(UTC),
                        uptime=timedelta(seconds=asyncio.get_running_loop().time()),
                        boot_id="boot",
                    ),
                )
                made = Bench(worker, launcher)
                yield made
                worker.leave()
    await ledger.close()


def blocked_by(gate: Path) -> str:
    return f"while ! test -e {gate}; do sleep 0.01; done"


@pytest.mark.slow
async def test_one_more_than_there_are_turns_waits_and_then_runs(tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    async with bench(tmp_path, tasks_at_once=2) as it:
        for id in ("a", "b"):
            assert isinstance(await it.give(id, blocked_by(gate)), Success)
        assert isinstance(await it.give("c", f"echo ran >> {mark}"), Success)
        # One that came later has been decided on and ended, and the third still has not begun.
        await it.give("d", "true")
        await it.worker.carry_out(Command(id="x", method="task.cancel", params={"task_id": "d"}))
        await it.until_ended("d")
        assert not mark.exists()
        gate.touch()
        await it.until_ended("a", "b", "c")
    assert mark.read_text() == "ran\n"
    assert {it.finals[id].state for id in ("a", "b", "c")} == {TaskState.COMPLETE}


async def test_one_that_waits_can_be_cancelled_and_never_runs(tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    async with bench(tmp_path, tasks_at_once=1) as it:
        await it.give("a", blocked_by(gate))
        await it.give("b", f"echo ran >> {mark}")
        cancelled = await it.worker.carry_out(Command(id="x", method="task.cancel", params={"task_id": "b"}))
        assert isinstance(cancelled, Success)
        await it.until_ended("b")
        gate.touch()
        await it.until_ended("a")
        await it.give("c", "true")
        await it.until_ended("c")
    assert it.finals["b"].code is Code.CANCELLED
    assert not mark.exists()


@pytest.mark.slow
async def test_waiting_counts_against_limit_and_start_within(tmp_path: Path) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    async with bench(tmp_path, tasks_at_once=1) as it:
        await it.give("a", blocked_by(gate))
        await it.give("limited", f"echo ran >> {mark}", limit=0.2)
        await it.give("late", f"echo ran >> {mark}", start_within=0.2)
        await it.until_ended("limited", "late")
        gate.touch()
        await it.until_ended("a")
    assert it.finals["limited"].code is Code.TIMED_OUT
    assert it.finals["late"].code is Code.EXPIRED
    assert not mark.exists()


@pytest.mark.slow
async def test_whoever_finds_the_launcher_stopped_keeps_its_limits_and_its_cancel(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with bench(tmp_path, tasks_at_once=9) as it:
        await it.give("first", "true")
        await it.until_ended("first")
        assert it.launcher._warm is not None
        warm = trees.identify(it.launcher._warm.pid)
        assert warm is not None
        assert trees.send(warm, signal.SIGSTOP)
        try:
            await it.give("limited", f"echo ran >> {mark}", limit=0.2)
            await it.give("late", f"echo ran >> {mark}", start_within=0.2)
            await it.give("unwanted", f"echo ran >> {mark}")
            await it.worker.carry_out(Command(id="x", method="task.cancel", params={"task_id": "unwanted"}))
            await it.until_ended("limited", "late", "unwanted")
        finally:
            trees.send(warm, signal.SIGCONT)
        await it.give("last", "exit 3")
        await it.until_ended("last")
    codes = {name: it.finals[name].code for name in ("limited", "late", "unwanted", "last")}
    assert codes == {"limited": Code.TIMED_OUT, "late": Code.EXPIRED, "unwanted": Code.CANCELLED, "last": None}
    assert not mark.exists()


async def test_more_open_commands_than_hello_can_name_are_refused_as_busy(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with bench(tmp_path, tasks_at_once=1, tasks_at_most=2) as it:
        await it.give("a", blocked_by(gate))
        await it.give("b", "true")
        refused = await it.give("c", "true")
        gate.touch()
        await it.until_ended("a", "b")
    assert isinstance(refused, Failure)
    assert refused.code is Code.BUSY
