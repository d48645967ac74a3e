"""How long commands are remembered: in days, counted from their acknowledgement, and never while they are open."""

import argparse
import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.agent.admission import Act, Answer, Asked, Refuse
from paddock.agent.commands.run import _days
from paddock.agent.entry import Entry, Moment, Outcome, State
from paddock.agent.ledger import Ledger
from paddock.agent.settings import Settings
from paddock.wire.hello import TaskState
from paddock.wire.messages import Code, Failure, Success
from tests.agent.conftest import Host
from tests.agent.desk import Desk

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RETENTION = Settings(state=Path("/s"), work=Path("/w")).retention


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger")
    yield opened
    await opened.close()


async def add(ledger: Ledger, seq: int, *, state: State, acknowledged: datetime = NOW) -> None:
    """A command in this state, accepted a year ago."""
    long_ago = Moment(at=NOW - timedelta(days=365), uptime=timedelta(), boot_id="boot")
    one = Entry(id=f"c{seq}", task=f"c{seq}", method="script.run", digest="d", seq=seq, epoch=1, accepted=long_ago)
    await ledger.admit(Asked(id=one.id, task=one.task, digest="d", seq=seq, epoch=1), entry=one)
    if state is not State.ACCEPTED:
        one = await ledger.start(one, keeper=None)
    if state in (State.FINISHED, State.ACKNOWLEDGED):
        await ledger.finish(one, Outcome(result={"exit": 0}))
    if state is State.ACKNOWLEDGED:
        await ledger.acknowledge([one.id], now=acknowledged)


async def again(ledger: Ledger, seq: int) -> Act | Answer | Refuse:
    """What becomes of it when it is asked again."""
    moment = Moment(at=NOW, uptime=timedelta(), boot_id="boot")
    one = Entry(id=f"c{seq}", task=f"c{seq}", method="script.run", digest="d", seq=seq, epoch=1, accepted=moment)
    return (await ledger.admit(Asked(id=one.id, task=one.task, digest="d", seq=seq, epoch=1), entry=one)).decision


def test_two_days_are_two_days() -> None:
    assert timedelta(days=2) == RETENTION
    assert RETENTION.total_seconds() == 172_800


@pytest.mark.parametrize(("text", "days"), [("2", 2), ("0.5", 0.5), ("30", 30)])
def test_the_option_counts_in_days(text: str, days: float) -> None:
    assert _days(text) == timedelta(days=days)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "4000"])
def test_no_retention_and_one_for_ever_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        _days(text)


async def test_what_was_acknowledged_within_the_retention_is_known_and_what_was_before_is_not(ledger: Ledger) -> None:
    await add(ledger, 1, state=State.ACKNOWLEDGED, acknowledged=NOW - timedelta(days=2, minutes=1))
    await add(ledger, 2, state=State.ACKNOWLEDGED, acknowledged=NOW - timedelta(days=1, hours=23, minutes=59))
    assert await ledger.prune(before=NOW - RETENTION) == 1
    assert await again(ledger, 1) == Refuse(code=Code.EXPIRED, why="c1: records up to 1 are pruned")
    assert isinstance(await again(ledger, 2), Answer)


@pytest.mark.parametrize("state", [State.ACCEPTED, State.STARTED, State.FINISHED])
async def test_what_is_open_is_never_pruned_however_old(ledger: Ledger, state: State) -> None:
    await add(ledger, 1, state=State.ACKNOWLEDGED, acknowledged=NOW - timedelta(days=300))
    await add(ledger, 2, state=state)
    await add(ledger, 3, state=State.ACKNOWLEDGED, acknowledged=NOW - timedelta(days=300))
    assert await ledger.prune(before=NOW - RETENTION) == 1
    assert isinstance(await again(ledger, 2), Answer)
    # What comes after it stays known too: below a gap nobody could tell what was never seen from what was forgotten.
    assert isinstance(await again(ledger, 3), Answer)


async def test_a_clock_that_jumps_ahead_forgets_early_and_runs_nothing_twice(ledger: Ledger) -> None:
    await add(ledger, 1, state=State.ACKNOWLEDGED, acknowledged=NOW)
    assert await ledger.prune(before=NOW + timedelta(days=3650) - RETENTION) == 1
    assert isinstance(await again(ledger, 1), Refuse)


@pytest.mark.slow
async def test_an_agent_prunes_while_it_lives_and_answers_repeats_as_expired(
    desk: Desk, host: Host, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    host.start("--retention", str(timedelta(seconds=1) / timedelta(days=1)))
    first = desk.command("first", "script.run", run=f"echo first >> {count}")
    await desk.ask(first)
    await desk.final("first")
    waits = f"echo open >> {count}; while ! test -e {tmp_path}/go; do sleep 0.05; done"
    open_ = desk.command("open", "script.run", run=waits)
    await desk.ask(open_)

    async with asyncio.timeout(30):
        while not isinstance(answer := await desk.ask(first), Failure):
            assert answer.result["state"] == "complete"  # the recorded answer, until it is forgotten
    assert answer.code is Code.EXPIRED

    assert isinstance(await desk.ask(open_), Success)  # older than the retention by now, and in flight
    (tmp_path / "go").touch()
    assert (await desk.final("open")).state is TaskState.COMPLETE
    assert count.read_text().split() == ["first", "open"]
