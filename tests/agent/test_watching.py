"""From a threshold on the machine to the server: alerts and samples of a real agent, killed and started again."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from paddock.wire.messages import Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk

pytestmark = pytest.mark.slow

SOME = {"what": "process", "of": "no-such-process", "below": 1, "for": 0, "every": 0.1}
"""A process that is absent."""


async def keep_alive(host: Host) -> None:
    while True:
        if not host.is_alive:
            host.kill()
            host.start()
        await asyncio.sleep(0.02)


async def ask(desk: Desk, id: str, method: str, **params: object) -> Any:
    answer = await desk.ask(desk.command(id, method, **params))
    assert isinstance(answer, Success), answer
    return answer.result


@pytest.mark.parametrize("point", ["alerts.writing", "alerts.written", "alerts.telling"])
async def test_a_killed_agent_tells_its_alert_all_the_same(desk: Desk, host: Host, tmp_path: Path, point: str) -> None:
    once = tmp_path / "once"
    host.env |= {"PADDOCK_FAULT": point, "PADDOCK_FAULT_ONCE": str(once)}
    host.start()
    living = asyncio.ensure_future(keep_alive(host))
    try:
        await ask(desk, "w", "system.health_watch", name="victim", level="error", **SOME)
        await desk.until(lambda: bool(desk.alerts))
        assert once.exists(), "the point was never passed"
        alert = desk.alerts[0]
        assert (alert["subject"], alert["level"], alert["state"]) == ("health victim", "error", "raised")
        await ask(desk, "u", "system.health_unwatch", name="victim")
        await desk.until(lambda: desk.alerts[-1]["state"] == "over")
        assert len({one["id"] for one in desk.alerts}) == 1
    finally:
        living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await living


async def test_it_is_repeated_until_a_person_has_seen_it_and_across_sessions(desk: Desk, host: Host) -> None:
    desk.alert_answer = {"acknowledged": False, "repeat_after": 1}
    host.start()
    await ask(desk, "w", "system.health_watch", name="victim", **SOME)
    await desk.until(lambda: len(desk.alerts) >= 3)
    desk.alert_answer = {"acknowledged": True, "repeat_after": None}
    await desk.until(lambda: '"is_settled":true' in (host.state / "alerts").read_text())
    host.kill()
    host.start()
    await desk.until(lambda: len(desk.hellos) == 2)
    told = len(desk.alerts)
    (check,) = (await ask(desk, "h", "system.health"))["checks"]
    assert check["name"] == "victim"
    await ask(desk, "u", "system.health_unwatch", name="victim")
    await desk.until(lambda: desk.alerts[-1]["state"] == "over")
    assert len(desk.alerts) == told + 1


async def test_samples_are_read_on_and_a_restart_is_told(desk: Desk, host: Host) -> None:
    host.start()
    begun = await ask(desk, "b", "system.stats_start", name="s", collectors=["cpu", "load"], interval=0.1, window=60)
    cursor, read = begun["cursor"], []
    for number in range(200):
        found = await ask(desk, f"r{number}", "system.stats", name="s", cursor=cursor, limit=2)
        assert (found["missed"], found["restarted"]) == (0, False)
        read += [one["number"] for one in found["samples"]]
        cursor = found["cursor"]
        if len(read) >= 4:
            break
    assert read == list(range(1, len(read) + 1))
    host.kill()
    host.start()
    await desk.until(lambda: len(desk.hellos) == 2)
    found = await ask(desk, "again", "system.stats", name="s", cursor=cursor)
    assert found["restarted"] is True
    (known,) = (await ask(desk, "l", "system.stats_list"))["collections"]
    assert (known["name"], known["collectors"], known["interval"]) == ("s", ["cpu", "load"], 0.1)
    await ask(desk, "e", "system.stats_stop", name="s")
    assert (await ask(desk, "l2", "system.stats_list"))["collections"] == []


async def test_lines_that_nobody_heard_come_in_their_order_after_a_kill(host: Host, desk: Desk) -> None:
    """Offline, killed and started again: no line is lost, doubled or out of its order."""
    host.start()
    await desk.here()
    await ask(desk, "s", "status")
    await desk.until(lambda: any(line["msg"] == "session began" for line in desk.logs))
    desk.lose_answers = True  # it is told them, and never hears that they came
    await desk.say(desk.command("one", "script.run", run="true"))
    await desk.until(lambda: any(line["fields"].get("command") == "one" for line in desk.logs))
    host.kill()
    desk.lose_answers = False
    desk.logs.clear()
    host.start()
    await desk.final("one")
    await desk.until(lambda: any(line["fields"].get("task") == "one" for line in desk.logs))
    told = [line["fields"].get("command") or line["fields"].get("task") for line in desk.logs]
    assert [name for name in told if name == "one"] == ["one", "one"]
    assert [line["time"] for line in desk.logs] == sorted(line["time"] for line in desk.logs)


async def test_facts_say_what_the_machine_is(desk: Desk, host: Host) -> None:
    host.start()
    found = await ask(desk, "f", "system.facts")
    assert {"hostname", "arch", "os", "kernel", "virtualization", "machine_id", "boot_id", "cpus"} <= set(found)
    assert found["machine_id"] in ("present", "empty", "missing")
    assert all({"name", "mac", "is_up", "addresses"} <= set(one) for one in found["interfaces"])
