"""At most once, counted by the victim, under crashes at any step: a state machine over ledger and worker."""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paddock.agent.entry import Moment, Outcome
from paddock.agent.ledger import Ledger
from paddock.agent.settings import Settings, prepare
from paddock.agent.skills import Skills
from paddock.agent.skills.skill import Call, Place, Work
from paddock.agent.worker import Worker
from paddock.hands import faults
from paddock.hands.launcher import Launcher
from paddock.wire.hello import Status
from paddock.wire.messages import Code, Command, Failure, Success
from paddock.wire.methods import METHODS

POINTS = (
    "agent.accepting",
    "agent.accepted",
    "agent.working",
    "agent.worked",
    "agent.finishing",
    "agent.finished",
    "agent.told",
    "agent.acknowledging",
    "agent.acknowledged",
)
NAMES = tuple("abcdef")


class Once(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.executed: Counter[str] = Counter()
        self.fences_used: list[int] = []
        self.fence = 1
        self.epoch = 1
        self.seqs = itertools.count(1)
        self.sent: dict[str, Command] = {}
        self.ended: dict[str, set[str]] = {}
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.ledger: Ledger | None = None
        self.runner.run(self._live())

    # The agent

    async def _live(self) -> None:
        chosen = Settings(state=self.directory / "state", work=self.directory / "work", skills=("script",))
        prepare(chosen)
        self.ledger = Ledger.open(chosen.ledger)
        self.stop = asyncio.Event()
        born: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self.life = asyncio.ensure_future(self._be(chosen, self.ledger, born))
        self.worker = await born

    async def _be(self, chosen: Settings, ledger: Ledger, born: "asyncio.Future[Worker]") -> None:
        place = Place(work=chosen.work, temporary=chosen.temporary, tasks=chosen.tasks)
        async with asyncio.TaskGroup() as group:
            worker = Worker(
                settings=chosen,
                ledger=ledger,
                launcher=Launcher(),
                place=place,
                skills=Skills(deeds={"script.run": Work(act=self._victim)}, rows=METHODS),
                group=group,
                tell=self._hear,
                moment=lambda: Moment(at=self.now, uptime=timedelta(seconds=1), boot_id="boot"),
            )
            await worker.recover()
            born.set_result(worker)
            await self.stop.wait()
            worker.leave()

    async def _victim(self, call: Call) -> Outcome:
        self.executed[call.task] += 1
        self.fences_used.append(call.fence)
        await asyncio.sleep(0)
        return Outcome(result={"exit": 0})

    def _hear(self, status: Status) -> None:
        if status.state in ("complete", "error"):
            self.ended.setdefault(status.task_id, set()).add(str(status.code or "complete"))

    async def _ask(self, command: Command) -> Success | Failure:
        answer = await self.worker.carry_out(command)
        await self._settle()
        return answer

    async def _settle(self) -> None:
        for _ in range(200):
            if self.worker.count == 0 or self.life.done():
                break
            await asyncio.sleep(0.001)

    async def _die(self) -> None:
        """As a crash would: what was queued may or may not be written, nothing else is done."""
        faults.arm({})
        self.life.cancel()
        with contextlib.suppress(BaseException):
            await self.life
        assert self.ledger is not None
        await self.ledger.close()
        await self._live()
        await self._settle()

    # What happens to it

    @rule(name=st.sampled_from(NAMES))
    def send(self, name: str) -> None:
        """The first time it is new; later it is the server sending it again."""
        if name not in self.sent:
            params = {"run": "true", "environment": "E", "fence": self.fence}
            self.sent[name] = Command(
                id=name, method="script.run", params=params, seq=next(self.seqs), epoch=self.epoch
            )
        before = self.executed[name]
        answer = self.runner.run(self._ask(self.sent[name]))
        if before:
            assert self.executed[name] == before
        if isinstance(answer, Failure):
            assert answer.code in (Code.STALE, Code.EXPIRED)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_with_other_params(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.sent)))
        known = self.sent[name]
        other = Command(id=name, method="script.run", params={"run": "false"}, seq=known.seq, epoch=self.epoch)
        answer = self.runner.run(self._ask(other))
        # A known id is refused; one that never came through is a command like any other, and then it is this one.
        if isinstance(answer, Success):
            self.sent[name] = other

    @rule(point=st.sampled_from(POINTS), name=st.sampled_from(NAMES))
    def crash(self, point: str, name: str) -> None:
        faults.arm({"PADDOCK_FAULT": point, "PADDOCK_FAULT_ACT": "raise"})
        # A worker that dies while it takes a command leaves whoever asked without an answer.
        with contextlib.suppress(faults.Fault, asyncio.CancelledError):
            self.send(name)
        self.runner.run(self._settle())
        if not self.life.done():
            with contextlib.suppress(faults.Fault):
                self.answer(name)
        self.runner.run(self._die())

    @rule(name=st.sampled_from(NAMES))
    def answer(self, name: str) -> None:
        """The server has the final status."""

        async def tell() -> None:
            self.worker.told(name)
            await asyncio.sleep(0.002)

        self.runner.run(tell())

    @rule()
    def raise_fence(self) -> None:
        self.fence += 1
        for name in list(self.sent):
            if not self.executed[name] and name not in self.ended:
                del self.sent[name]

    @rule()
    def prune(self) -> None:
        assert self.ledger is not None
        self.now += timedelta(days=30)
        self.runner.run(self.ledger.prune(before=datetime.now(UTC) + timedelta(days=1)))

    # What is always so

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(count <= 1 for count in self.executed.values())

    @invariant()
    def fences_only_rise(self) -> None:
        live = [fence for fence in self.fences_used if fence]
        assert live == sorted(live)

    @invariant()
    def an_end_is_one_end(self) -> None:
        assert all(len(codes) == 1 for codes in self.ended.values())

    def teardown(self) -> None:
        faults.arm({})
        self.life.cancel()

        async def end() -> None:
            with contextlib.suppress(BaseException):
                await self.life
            assert self.ledger is not None
            await self.ledger.close()

        self.runner.run(end())
        self.runner.close()
        shutil.rmtree(self.directory, ignore_errors=True)


TestOnce = pytest.mark.slow(Once.TestCase)
TestOnce.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
