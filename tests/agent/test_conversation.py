"""A conversation hears the last word before the end of its link."""

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paddock.agent.alerts import Alerts
from paddock.agent.conversation import Conversation
from paddock.agent.dialing import Unwelcome
from paddock.agent.logs import Logs
from paddock.agent.worker import Worker
from paddock.hands.links import Closed
from paddock.wire.messages import Code


class Curt:
    """A link whose other side answers the first command with a refusal and is gone in the same breath."""

    def __init__(self) -> None:
        self._asked: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._said = False

    async def send(self, text: str) -> None:
        self._asked.set_result(json.loads(text))

    async def receive(self) -> str:
        if self._said:
            raise Closed("websocket: closed")
        asked = await self._asked
        self._said = True
        error = {"msg": "this code is over", "code": "refused"}
        return json.dumps({"version": "1", "id": asked["id"], "error": error})

    async def close(self, reason: str) -> None:
        pass


async def test_a_refusal_is_heard_though_the_link_ends_with_it(tmp_path: Path) -> None:
    worker = cast(Worker, SimpleNamespace(news=asyncio.Event()))
    logs, alerts = Logs(level=logging.INFO, directory=tmp_path / "log"), Alerts(tmp_path / "alerts")
    conversation = Conversation(link=Curt(), worker=worker, logs=logs, alerts=alerts)
    with pytest.raises(Unwelcome, match="enrol: this code is over") as refused:
        await conversation.run(lambda one: one.open("enrol", {"code": "x"}))
    assert refused.value.code is Code.REFUSED


async def test_the_end_of_a_session_leaves_no_cancelling_behind(tmp_path: Path) -> None:
    """What is counted still makes each limit of the same task end the task: Debian 12's agent fell silent."""
    worker = cast(Worker, SimpleNamespace(news=asyncio.Event()))
    logs, alerts = Logs(level=logging.INFO, directory=tmp_path / "log"), Alerts(tmp_path / "alerts")
    conversation = Conversation(link=Curt(), worker=worker, logs=logs, alerts=alerts)
    with pytest.raises(Unwelcome):
        await conversation.run(lambda one: one.open("enrol", {"code": "x"}))
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
