"""Files, logs and limits through a real agent that is killed and started again in the middle of them."""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from paddock.hands import trees
from paddock.hands.launcher import read_keeper
from paddock.wire.hello import LOG_STREAM
from paddock.wire.messages import Code, Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk

pytestmark = pytest.mark.slow

WHOLE = os.urandom(700_000)
PIECE = 256 << 10


async def _put(desk: Desk, id: str, offset: int, path: Path) -> dict[str, Any]:
    params = {
        "path": str(path),
        "total": len(WHOLE),
        "sha256": hashlib.sha256(WHOLE).hexdigest(),
        "offset": offset,
        "data": base64.b64encode(WHOLE[offset : offset + PIECE]).decode(),
    }
    answer = await desk.ask(desk.command(id, "file.put", **params))
    assert isinstance(answer, Success), answer
    return dict(answer.result)


async def test_a_file_in_pieces_goes_on_after_each_kill_of_the_agent(desk: Desk, host: Host, tmp_path: Path) -> None:
    target, have, number = tmp_path / "target", 0, 0
    host.start()
    while have < len(WHOLE):
        answer = await _put(desk, f"p{number}", have, target)
        assert answer["have"] > have
        assert target.exists() is answer["complete"]
        have, number = answer["have"], number + 1
        host.kill()
        await desk.until(lambda: not desk.seats)
        host.start()
    assert number == 3
    assert target.read_bytes() == WHOLE
    assert (await _put(desk, "again", 0, target))["complete"] is True
    sent = desk.command("sent", "file.send", path=str(target))
    await desk.ask(sent)
    assert await desk.whole("sent", "file") == WHOLE
    status = await desk.final("sent")
    assert status.result is not None
    assert status.result["sha256"] == hashlib.sha256(WHOLE).hexdigest()
    assert list((host.state / "file").iterdir()) == []


async def test_a_followed_log_loses_and_doubles_nothing_when_its_agent_is_killed(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    log = tmp_path / "app.log"
    log.write_bytes(b"line 0\n")
    host.start()
    await desk.ask(desk.command("t", "log.tail", path=str(log), offset=0))
    for number in range(1, 4):
        await desk.until(lambda end=number: desk.streams["t", LOG_STREAM].endswith(b"line %d\n" % (end - 1)))
        host.kill()
        with log.open("ab") as file:
            file.write(b"line %d\n" % number)
        host.start()
        await desk.until(lambda: bool(desk.seats))
    await desk.until(lambda: desk.streams["t", LOG_STREAM].endswith(b"line 3\n"))
    await desk.ask(desk.command("c", "task.cancel", task_id="t"))
    status = await desk.final("t")
    assert status.code is None
    assert status.result is not None
    assert status.result["ended"] == "cancelled"
    assert bytes(desk.streams["t", LOG_STREAM]) == b"".join(b"line %d\n" % number for number in range(4))


@pytest.mark.skipif(
    trees.Cgroup.home() is not None and "memory" in (trees.Cgroup.home() / "cgroup.controllers").read_text(),  # type: ignore[operator]
    reason="here memory can be limited",
)
async def test_a_limit_that_would_not_hold_is_refused_and_nothing_runs(desk: Desk, host: Host, tmp_path: Path) -> None:
    host.start()
    await desk.ask(desk.command("m", "script.run", run=f"touch {tmp_path}/ran", memory=1 << 30))
    status = await desk.final("m")
    assert status.code is Code.REFUSED
    assert "memory: cannot be limited" in (status.msg or "")
    assert not (tmp_path / "ran").exists()


async def test_the_group_of_a_task_whose_keeper_was_killed_is_removed(desk: Desk, host: Host) -> None:
    home = trees.Cgroup.home()
    if home is None:
        pytest.skip("no control groups of version 2 to write to")
    host.start()
    await desk.ask(desk.command("g", "script.run", run="sed -n s/^0:://p /proc/self/cgroup; exec sleep 60"))
    await desk.until(lambda: desk.streams["g", LOG_STREAM].endswith(b"\n"))
    group = home / bytes(desk.streams["g", LOG_STREAM]).decode().strip().rpartition("/")[2]
    assert group.is_dir()
    keeper = read_keeper(host.state / "tasks" / "g")
    assert keeper is not None
    os.kill(keeper.pid, 9)
    status = await desk.final("g")
    assert status.code is Code.INTERRUPTED
    assert not group.exists()
