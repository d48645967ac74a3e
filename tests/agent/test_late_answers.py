"""A command that is asked again and ends while the ledger is being asked: its answer is the recorded one."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.admission import Answer
from paddock.agent.entry import Moment, Outcome
from paddock.agent.ledger import Admitted, Ledger
from paddock.agent.settings import Settings, prepare
from paddock.agent.skills import Skills
from paddock.agent.skills.skill import Call, Place, Work
from paddock.agent.worker import Worker
from paddock.hands.launcher import Launcher
from paddock.wire.messages import Command, Success
from paddock.wire.methods import METHODS

PUT = {"path": "x", "data": ""}


async def test_a_recorded_answer_is_as_new_as_the_end_of_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Settings(state=tmp_path / "state", work=tmp_path / "work", skills=("file",))
    prepare(chosen)
    ledger = Ledger.open(chosen.ledger)
    may_end, has_ended = asyncio.Event(), asyncio.Event()

    async def act(call: Call) -> Outcome:
        await may_end.wait()
        return Outcome(result={"size": 0, "sha256": ""})

    admit: Callable[..., Awaitable[Admitted]] = ledger.admit

    async def slow(*words: Any, **named: Any) -> Admitted:
        admitted = await admit(*words, **named)
        if isinstance(admitted.decision, Answer):
            may_end.set()
            await has_ended.wait()
        return admitted

    monkeypatch.setattr(ledger, "admit", slow)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        worker = Worker(
            settings=chosen,
            ledger=ledger,
            launcher=Launcher(),
            place=Place(work=chosen.work, temporary=chosen.temporary, tasks=chosen.tasks),
            skills=Skills(deeds={"file.put": Work(act=act)}, rows=METHODS),
            group=group,
            tell=lambda status: None,
            moment=lambda: Moment(at=datetime.now(UTC), uptime=timedelta(seconds=1), boot_id="boot"),
        )
        command = Command(id="c", method="file.put", params=PUT, seq=1, epoch=1)
        first = group.create_task(worker.carry_out(command))
        while not worker.count:  # noqa: ASYNC110 - a thread's word is waited for
            await asyncio.sleep(0.001)
        again = group.create_task(worker.carry_out(command))
        answer = await first
        has_ended.set()
        assert isinstance(answer, Success)
        assert await again == answer
    await ledger.close()
