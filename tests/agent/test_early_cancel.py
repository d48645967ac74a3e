"""A cancel that comes right behind its task."""

import pytest

from paddock.wire.messages import Code, Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk

pytestmark = pytest.mark.slow


async def test_a_cancel_does_not_overtake_the_task_that_it_is_for(desk: Desk, host: Host) -> None:
    host.start()
    await desk.here()
    names = [f"task-{number}" for number in range(20)]
    for name in names:
        await desk.say(desk.command(name, "script.run", run="sleep 60\n"))
        await desk.say(desk.command(f"end-{name}", "task.cancel", task_id=name, grace=0))
    ends = [await desk.final(name) for name in names]
    assert {end.code for end in ends} == {Code.CANCELLED}
    again = await desk.ask(desk.command("again", "task.cancel", task_id=names[0]))
    assert isinstance(again, Success)
