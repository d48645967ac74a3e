"""Alerting: repeats are one row, a person's word ends the repeating, an agent's the alert."""

import pytest

from paddock.core.alert import Alert, State
from paddock.core.errors import Missing, Refused
from paddock.engine.alerting import MOST_KEPT, MOST_OPEN, REPEAT
from paddock.wire.hello import Alert as Told
from paddock.wire.hello import Heard
from tests.engine.scene import ANNA, Scene

FULL = Told(name="disk:/", subject="/", message="90 % full")
OVER = Told(name="disk:/", message="80 % full", is_over=True)


def alerts(scene: Scene) -> list[Alert]:
    return scene.look(lambda tables: tables.alerts.where())


async def test_an_alert_is_one_row_however_often_it_is_told(scene: Scene) -> None:
    for _ in range(3):
        assert await scene.desk.alerted(scene.host.id, FULL) == Heard(is_acknowledged=False, repeat_after=REPEAT)
    (only,) = alerts(scene)
    assert (only.count, only.state, only.subject, only.message) == (3, State.RAISED, "/", "90 % full")


async def test_once_a_person_knows_the_agent_need_not_repeat_it(scene: Scene) -> None:
    await scene.desk.alerted(scene.host.id, FULL)
    for _ in range(2):
        known = await scene.people.acknowledge(alerts(scene)[0].id, identity=ANNA)
    assert (known.state, known.acknowledged_by) == (State.ACKNOWLEDGED, "anna")
    assert await scene.desk.alerted(scene.host.id, FULL) == Heard(is_acknowledged=True)
    with pytest.raises(Missing):
        await scene.people.acknowledge("999", identity=ANNA)


async def test_a_condition_that_is_over_may_come_again_as_another_alert(scene: Scene) -> None:
    await scene.desk.alerted(scene.host.id, FULL)
    for _ in range(2):
        assert await scene.desk.alerted(scene.host.id, OVER) == Heard(is_acknowledged=True)
    assert not (await scene.desk.alerted(scene.host.id, FULL)).is_acknowledged
    assert [one.state for one in alerts(scene)] == [State.OVER, State.RAISED]


async def test_agents_do_not_meet_in_a_name(scene: Scene) -> None:
    await scene.acquire("pair")
    await scene.desk.alerted(scene.host.id, FULL)
    await scene.desk.alerted("pair-1.one", FULL)
    await scene.desk.alerted("pair-1.one", OVER)
    assert {one.agent: one.state for one in alerts(scene)} == {
        scene.host.id: State.RAISED,
        "pair-1.one": State.OVER,
    }


async def test_an_agent_has_no_more_than_so_many_open(scene: Scene) -> None:
    for number in range(MOST_OPEN):
        await scene.desk.alerted(scene.host.id, Told(name=f"n{number}", message="x"))
    with pytest.raises(Refused, match="are open already"):
        await scene.desk.alerted(scene.host.id, FULL)
    await scene.desk.alerted(scene.host.id, Told(name="n0", message="x", is_over=True))
    await scene.desk.alerted(scene.host.id, FULL)


@pytest.mark.slow
async def test_an_agent_that_raises_and_ends_by_the_second_fills_no_store(scene: Scene) -> None:
    for _ in range(MOST_KEPT + 20):
        await scene.desk.alerted(scene.host.id, FULL)
        await scene.desk.alerted(scene.host.id, OVER)
    assert len(alerts(scene)) == MOST_KEPT
    assert scene.look(lambda tables: tables.history.since("alerts", scene.clock.now())) == []


async def test_what_an_agent_says_is_redacted_to_a_line(scene: Scene) -> None:
    await scene.desk.alerted(scene.host.id, Told(name="n", message="two\nlines password=hunter22", subject="\x1b[2J"))
    assert [(one.subject, one.message) for one in alerts(scene)] == [("[2J", "two lines password=[redacted]")]


async def test_with_the_agent_its_alerts_are_over(scene: Scene) -> None:
    await scene.desk.alerted(scene.host.id, FULL)
    await scene.enrol()
    assert [one.state for one in alerts(scene)] == [State.OVER]


async def test_with_the_environment_those_of_its_machines_are_over(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.desk.alerted("pair-1.one", FULL)
    await scene.people.quarantine("pair-1", reason="look", identity=ANNA)
    await scene.people.clean("pair-1", identity=ANNA)
    await scene.settle()
    assert scene.environment("pair-1").state == "gone", lease
    assert [one.state for one in alerts(scene)] == [State.OVER]
