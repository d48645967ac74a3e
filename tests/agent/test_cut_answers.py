"""A link that ends while a command is taken: the answer is lost, the command is not."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.agent.entry import Moment, Outcome
from paddock.agent.ledger import Ledger
from paddock.agent.settings import Settings, prepare
from paddock.agent.skills import Skills
from paddock.agent.skills.skill import Call, Place, Work
from paddock.agent.worker import Worker
from paddock.hands.launcher import Launcher
from paddock.wire.hello import Status, TaskState
from paddock.wire.messages import Command, Success
from paddock.wire.methods import METHODS


@pytest.mark.parametrize("turns", range(1, 6))
async def test_a_command_whose_answer_is_cut_off_is_carried_out_once(tmp_path: Path, turns: int) -> None:
    executed: list[str] = []
    told: asyncio.Queue[Status] = asyncio.Queue()

    async def victim(call: Call) -> Outcome:
        executed.append(call.task)
        return Outcome(result={"exit": 0})

    chosen = Settings(state=tmp_path / "state", work=tmp_path / "work", skills=("script",))
    prepare(chosen)
    ledger = Ledger.open(chosen.ledger)
    command = Command(id="c", method="script.run", params={"run": "true", "limit": 60}, seq=1, epoch=1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        worker = Worker(
            settings=chosen,
            ledger=ledger,
            launcher=Launcher(),
            place=Place(work=chosen.work, temporary=chosen.temporary, tasks=chosen.tasks),
            skills=Skills(deeds={"script.run": Work(act=victim)}, rows=METHODS),
            group=group,
            tell=told.put_nowait,
            moment=lambda: Moment(at=datetime.now(UTC), uptime=timedelta(seconds=1), boot_id="boot"),
        )
        answering = asyncio.ensure_future(worker.carry_out(command))
        for _ in range(turns):
            await asyncio.sleep(0)
        answering.cancel()
        await asyncio.wait({answering})

        again = await worker.carry_out(command)
        final = await told.get()
    await ledger.close()

    assert isinstance(again, Success)
    assert final.state is TaskState.COMPLETE
    assert executed == ["c"]
