"""Room that is kept for what was accepted: who asks is told what is missing, and a person learns of it once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from paddock.agent import reserve as module
from paddock.agent.alerts import Alerts
from paddock.agent.reserve import SUBJECT, Reserve


@pytest.fixture
async def alerts(tmp_path: Path) -> Alerts:
    return Alerts(tmp_path / "alerts")


@pytest.fixture
async def kept(tmp_path: Path, alerts: Alerts, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reserve]:
    """Of this disk, which has room; a test asks for more than there is."""
    monkeypatch.setattr(module, "_LOOK_AGAIN", 0.01)
    reserve = Reserve(tmp_path, least=1)
    watching = asyncio.create_task(reserve.watch(alerts))
    yield reserve
    watching.cancel()


async def until(alerts: Alerts, *, is_short: bool) -> None:
    async with asyncio.timeout(10):
        while (alerts.find(SUBJECT) is not None) is not is_short:
            alerts.changed.clear()
            await alerts.changed.wait()


def states(alerts: Alerts) -> list[str]:
    return [str(one.params()["state"]) for one in alerts._alerts.values()]


async def test_a_command_that_is_refused_begins_one_alert_and_room_ends_it(kept: Reserve, alerts: Alerts) -> None:
    assert kept.lack() == ""
    await asyncio.sleep(0)  # it waits now
    kept._least = 1 << 60
    for _ in range(5):
        assert "are kept for what was accepted" in kept.lack()
    await until(alerts, is_short=True)
    found = alerts.find(SUBJECT)
    assert found is not None
    assert found.level == "error"
    assert "nothing new is taken" in found.msg
    assert len(states(alerts)) == 1
    kept._least = 1
    await until(alerts, is_short=False)
    assert kept.lack() == ""


async def test_an_alert_that_a_dead_process_has_left_ends_without_any_command(alerts: Alerts, tmp_path: Path) -> None:
    await alerts.begin(SUBJECT, "short")
    born = Alerts(tmp_path / "alerts")
    born.load()
    watching = asyncio.create_task(Reserve(tmp_path, least=1).watch(born))
    await until(born, is_short=False)
    watching.cancel()


async def test_an_alert_whose_file_finds_no_room_is_told_and_written_when_it_does(
    kept: Reserve, alerts: Alerts, tmp_path: Path
) -> None:
    (tmp_path / "alerts.new").mkdir()  # nobody can write there
    kept._least = 1 << 60
    kept.lack()
    await until(alerts, is_short=True)
    assert alerts.take(0) is not None
    assert not (tmp_path / "alerts").exists()
    (tmp_path / "alerts.new").rmdir()
    async with asyncio.timeout(10):
        while not (tmp_path / "alerts").exists():  # noqa: ASYNC110 - a file is no event
            await asyncio.sleep(0.01)
    born = Alerts(tmp_path / "alerts")
    born.load()
    assert born.find(SUBJECT) is not None
