"""Alerts: durable before they are told, told until the server and a person have them, and ended."""

from pathlib import Path

import pytest

from paddock.agent import alerts as module
from paddock.agent.alerts import Alert, Alerts
from paddock.hands import faults

HEARD = {"acknowledged": False, "repeat_after": 300}
SEEN = {"acknowledged": True, "repeat_after": None}


def born(directory: Path) -> Alerts:
    """As a new process finds them."""
    found = Alerts(directory / "alerts")
    found.load()
    return found


def told(alerts: Alerts, now: float) -> list[tuple[str, str]]:
    """All that is told now: subject and state. Nothing of it is answered."""
    found = []
    while (alert := alerts.take(now)) is not None:
        found.append((alert.subject, str(alert.params()["state"])))
    return found


def take(alerts: Alerts, now: float) -> Alert:
    alert = alerts.take(now)
    assert alert is not None
    return alert


async def test_the_last_alert_is_told_at_once_without_another_one_after_it(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("disk /", "97 % are used", level="error", used=97)
    alert = take(alerts, 0)
    params = alert.params()
    assert (params["level"], params["state"], params["msg"]) == ("error", "raised", "97 % are used")
    assert params["fields"] == {"used": 97}
    assert alerts.take(0) is None


async def test_it_is_repeated_when_the_server_wants_until_a_person_has_seen_it(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    await alerts.hear(take(alerts, 0), HEARD, now=0)
    assert (told(alerts, 299), alerts.next_due()) == ([], 300)
    await alerts.hear(take(alerts, 300), SEEN, now=300)
    assert (told(alerts, 10_000), alerts.next_due()) == ([], None)
    assert alerts.find("load") is not None


async def test_an_unanswered_one_is_told_on_each_session(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    assert told(alerts, 0) == [("load", "raised")]
    assert told(alerts, 1000) == []
    alerts.begin_session()
    assert told(alerts, 1000) == [("load", "raised")]


async def test_a_server_that_could_not_take_it_is_told_again_later(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    await alerts.hear(take(alerts, 0), None, now=0)
    assert told(alerts, 59) == []
    assert told(alerts, 60) == [("load", "raised")]


async def test_a_refused_one_is_not_told_for_ever(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    await alerts.hear(take(alerts, 0), None, now=0, is_final=True)
    assert told(alerts, 10_000) == []


async def test_its_end_is_told_until_it_is_answered_and_then_it_is_forgotten(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    await alerts.hear(take(alerts, 0), SEEN, now=0)
    await alerts.end("load", "1.2 for 60 s")
    alerts.begin_session()
    over = take(alerts, 1)
    assert (over.params()["state"], over.params()["msg"]) == ("over", "1.2 for 60 s")
    assert born(tmp_path).take(0) is not None
    await alerts.hear(over, {}, now=1)
    assert told(alerts, 10_000) == []
    assert born(tmp_path).take(10_000) is None


async def test_what_began_and_ended_while_nobody_listened_is_told_as_both(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    await alerts.end("load")
    raised = take(alerts, 0)
    assert raised.params()["state"] == "raised"
    await alerts.hear(raised, HEARD, now=0)
    assert told(alerts, 0) == [("load", "over")]


async def test_the_end_of_a_repeated_one_waits_for_no_repetition(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    await alerts.hear(take(alerts, 0), HEARD, now=0)
    await alerts.end("load")
    assert told(alerts, 1) == [("load", "over")]


async def test_an_end_while_its_beginning_is_under_way_is_told_after_it(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    raised = take(alerts, 0)
    await alerts.end("load")
    assert told(alerts, 0) == []
    await alerts.hear(raised, HEARD, now=0)
    assert told(alerts, 0) == [("load", "over")]


async def test_a_condition_that_comes_again_is_another_alert(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    await alerts.begin("load", "too high")
    first = take(alerts, 0)
    await alerts.begin("load", "still too high")
    assert told(alerts, 0) == []
    await alerts.end("load")
    await alerts.begin("load", "again")
    second = take(alerts, 0)
    assert (second.msg, second.id != first.id) == ("again", True)


@pytest.mark.parametrize("point", ["alerts.writing", "alerts.written"])
async def test_a_kill_on_either_side_of_the_disk_tells_it_once_more_or_not_yet(tmp_path: Path, point: str) -> None:
    alerts = born(tmp_path)
    await alerts.begin("kept", "from before")
    faults.arm({"PADDOCK_FAULT": point, "PADDOCK_FAULT_ACT": "raise"})
    try:
        with pytest.raises(faults.Fault):
            await alerts.begin("load", "too high")
    finally:
        faults.arm({})
    found = told(born(tmp_path), 0)
    assert found[0] == ("kept", "raised")
    assert (("load", "raised") in found) is (point == "alerts.written")


async def test_a_full_disk_does_not_silence_it(tmp_path: Path) -> None:
    alerts = born(tmp_path)
    (tmp_path / "alerts.new").mkdir()  # nothing can be written under that name
    await alerts.begin("disk /", "is full")
    assert told(alerts, 0) == [("disk /", "raised")]


def test_a_file_that_is_no_list_of_alerts_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "alerts").write_text('[{"id": "x"}, 5')
    assert told(born(tmp_path), 0) == []
    assert (tmp_path / "alerts.corrupt").exists()
    (tmp_path / "alerts").write_text('[{"id": "x"}, 5]')
    assert told(born(tmp_path), 0) == []


async def test_those_that_are_over_give_way_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_MOST", 3)
    alerts = born(tmp_path)
    for name in "abc":
        await alerts.begin(name, "so")
    await alerts.end("b")
    await alerts.begin("d", "so")
    assert [subject for subject, _ in told(alerts, 0)] == ["a", "c", "d"]
