"""Reporting: one report for a round, once, whatever breaks on the way."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from paddock.core.report import State, Vote
from paddock.engine import reporting
from paddock.testing import FakeClock
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, Scene, configuration


class Died(BaseException):
    """The server is killed here."""


def report(scene: Scene, id: str = "1") -> Any:
    return scene.look(lambda tables: tables.reports.find(id))


def vote(scene: Scene, policy: Vote) -> None:
    scene.configure(forges={"review": replace(configuration().forges["review"], vote=policy)})


async def begin(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()


async def end(scene: Scene) -> None:
    for agent in scene.agents.values():
        for command in list(agent.running.values()):
            await agent.finish(command)
    await scene.settle()


async def test_a_report_goes_through_intended_and_sending_to_sent(scene: Scene) -> None:
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    await scene.settle()
    assert scene.states("reports", "1") == ["sending", "sent"]
    assert scene.look(lambda tables: tables.rounds.find("1").state) == "done"
    assert scene.forge.asked == []


async def test_nothing_is_reported_before_the_last_run_is_done(scene: Scene) -> None:
    await begin(scene)
    assert scene.run("1").is_done
    assert report(scene) is None
    await end(scene)
    await scene.until(lambda: bool(scene.forge.sent))


async def test_a_server_that_dies_after_the_forge_took_the_report_does_not_send_it_again(scene: Scene) -> None:
    await begin(scene)
    scene.forge.die_after_accepting(Died())
    scene.is_dying = True
    await die(scene, lambda: len(scene.forge.sent) == 1)
    assert report(scene).state is State.SENDING
    await scene.restart()
    assert len(scene.forge.sent) == 1
    assert scene.forge.asked == ["https://ci.example.org/rounds/1"]
    assert report(scene).state is State.SENT


async def test_a_server_that_dies_before_it_sent_the_report_sends_it_after_its_restart(scene: Scene) -> None:
    await begin(scene)
    scene.is_dying = True
    scene.store.die_after(Died(), when=lambda touched: any(one.noun == "reports" for one in touched))
    await die(scene, lambda: report(scene) is not None)
    assert scene.forge.sent == []
    await scene.restart()
    assert len(scene.forge.sent) == 1


async def test_a_server_that_dies_between_intent_and_act_asks_before_it_sends(scene: Scene) -> None:
    await begin(scene)
    scene.is_dying = True

    def is_sending(touched: Any) -> bool:
        return any(one.noun == "reports" and one.row.state is State.SENDING for one in touched)

    scene.store.die_after(Died(), when=is_sending)
    await die(scene, lambda: report(scene) is not None and report(scene).state is State.SENDING)
    assert scene.forge.sent == []
    await scene.restart()
    assert scene.forge.asked == ["https://ci.example.org/rounds/1"]
    assert len(scene.forge.sent) == 1


async def die(scene: Scene, is_so: Callable[[], bool]) -> None:
    """Let the run end in a server that dies on the way, as its stages and connections do with it."""
    for agent in scene.agents.values():
        for command in list(agent.running.values()):
            await agent.finish(command)
    for _ in range(2000):
        await asyncio.sleep(0.001)
        if is_so():
            break
    assert is_so()
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_forge_that_cannot_be_reached_is_asked_again_later_and_later(scene: Scene) -> None:
    scene.forge.break_down("connection refused")
    await scene.comment()
    await scene.until(lambda: report(scene) is not None and report(scene).attempts == 1)
    assert report(scene).reason == "review: connection refused"
    await scene.later(minutes=10)
    assert 5 <= report(scene).attempts <= 12
    scene.forge.mend()
    await scene.later(minutes=5)
    assert len(scene.forge.sent) == 1
    assert scene.forge.asked == ["https://ci.example.org/rounds/1"]
    assert report(scene).state is State.SENT


async def test_a_forge_that_is_broken_for_one_round_does_not_stop_the_stages(scene: Scene) -> None:
    scene.forge.break_down()
    await scene.comment()
    await scene.until(lambda: report(scene) is not None)
    lease = await scene.acquire()
    assert lease.state == "granted"
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)


async def test_a_vote_that_is_refused_is_left_out_and_the_text_goes(scene: Scene) -> None:
    vote(scene, Vote.FULL)
    scene.forge.refuse("label Verified is restricted")
    await begin(scene)
    send = scene.forge.send

    async def send_without_labels(report: Any) -> None:
        if not report.labels:
            scene.forge.mend()
        await send(report)

    scene.forge.send = send_without_labels  # type: ignore[method-assign]
    await end(scene)
    await scene.until(lambda: bool(scene.forge.sent))
    await scene.settle()
    assert [one.labels for one in scene.forge.sent] == [{}]
    assert report(scene).state is State.SENT


async def test_a_report_that_is_refused_for_good_ends_the_round_with_the_reason(scene: Scene) -> None:
    scene.forge.refuse("change is closed")
    await scene.comment()
    await scene.until(lambda: report(scene) is not None and report(scene).state is State.REFUSED)
    assert report(scene).reason == "review: change is closed"
    assert scene.look(lambda tables: tables.rounds.find("1").state) == "done"
    assert scene.forge.sent == []


async def test_a_forge_that_never_answers_is_given_up_and_asked_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "DEADLINE", reporting.DEADLINE / 6000)  # seconds of the real clock
    scene.forge.go_silent()
    await scene.comment()
    await scene.until(lambda: report(scene) is not None and report(scene).attempts == 1)
    assert "no answer within" in report(scene).reason
    scene.forge.mend()
    await scene.later(seconds=10)
    await scene.until(lambda: bool(scene.forge.sent))
    assert len(scene.forge.sent) == 1


async def test_a_forge_that_is_no_longer_configured_leaves_the_report_waiting_with_the_reason(scene: Scene) -> None:
    await begin(scene)
    scene.means.forges.pop("review")  # type: ignore[attr-defined]
    await end(scene)
    await scene.until(lambda: report(scene) is not None and report(scene).attempts > 0)
    assert report(scene).reason == "forge review: it is not configured"


async def test_rounds_whose_runs_go_on_are_not_looked_at_for_the_end_of_others(scene: Scene) -> None:
    await begin(scene)
    looked = []
    intend_all = reporting.intend_all

    def counted(tables: Any, configuration: Any, ended: Any, *, now: Any) -> None:
        looked.append(ended)
        intend_all(tables, configuration, ended, now=now)

    reporting.intend_all = counted
    try:
        await end(scene)
        await scene.until(lambda: bool(scene.forge.sent))
    finally:
        reporting.intend_all = intend_all
    assert {"1"} in looked
    assert None not in looked


async def test_superseded_rounds_report_nothing(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.push(1)
    await scene.push(2)
    await end(scene)
    await scene.until(lambda: bool(scene.forge.sent))
    await scene.later(hours=1)
    assert [one.change.patchset for one in scene.forge.sent] == [2]


def test_the_clock_of_these_tests_stands_still() -> None:
    assert FakeClock().now() == FakeClock().now()
