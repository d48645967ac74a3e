"""Paddock's Gerrit side against a real Gerrit: the stream, the gap, the report, the refusals."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from paddock.adapters.forges.gerrit import GerritForge, Patience
from paddock.core.configuration import Ssh
from paddock.core.errors import Refused
from paddock.core.event import Change, Event, Heard, Kind
from paddock.core.report import Report
from paddock.testing import FakeChance
from paddock.wire.backoff import Backoff
from tools import gerrit as tool
from tools.gerrit import Gerrit, Pushed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PROJECT = "openstack-dev/ci-sandbox"
LINK = "http://127.0.0.1:8080/rounds/1"


class WallClock:
    """The machine's clock: a real Gerrit does not wait for a test's."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep_until(self, moment: datetime) -> None:
        await asyncio.sleep(max(0, (moment - self.now()).total_seconds()))


def forge_at(gerrit: Gerrit, account: str = tool.ROBOT) -> GerritForge:
    known = gerrit.accounts[account]
    ssh = Ssh(host=gerrit.host, port=gerrit.ssh_port, user=known.name, key=str(known.key), host_key=gerrit.host_key)
    patience = Patience(
        settle=timedelta(milliseconds=300),
        backoff=Backoff(least=timedelta(milliseconds=100), most=timedelta(milliseconds=500)),
    )
    return GerritForge(name="review", ssh=ssh, clock=WallClock(), chance=FakeChance(), patience=patience)


@pytest.fixture
def change(gerrit: Gerrit) -> Pushed:
    gerrit.create_project(PROJECT)
    return gerrit.push(PROJECT, files={"greeting": "hello\n"}, subject="Greet")


def named(change: Pushed) -> Change:
    return Change(
        forge="review",
        project=change.project,
        branch=change.branch,
        number=change.number,
        patchset=change.patchset,
        ref=change.ref,
        revision=change.revision,
    )


def report(change: Pushed, **labels: int) -> Report:
    message = f'Build succeeded.\n\n- noop {LINK} : SUCCESS in 1s\n- "odd" $(name) : ERROR in 3m 11s\n\n{LINK}'
    return Report(id="1", forge="review", change=named(change), message=message, link=LINK, labels=labels)


@contextlib.asynccontextmanager
async def listening(forge: GerritForge) -> AsyncIterator[Callable[[Kind], "asyncio.Future[Event]"]]:
    """Listen; what is given waits for the next event of a kind."""
    events: list[Event] = []
    more = asyncio.Condition()

    async def hear(lines: Sequence[Heard]) -> None:
        async with more:
            events.extend(forge.understand(line) for line in lines)
            more.notify_all()

    async def wait_for(kind: Kind) -> Event:
        async with asyncio.timeout(60), more:
            await more.wait_for(lambda: any(event.kind is kind for event in events))
        return next(event for event in events if event.kind is kind)

    task = asyncio.ensure_future(forge.listen(hear))
    try:
        yield lambda kind: asyncio.ensure_future(wait_for(kind))
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_push_and_a_comment_are_heard_and_understood(gerrit: Gerrit) -> None:
    gerrit.create_project(PROJECT)
    async with listening(forge_at(gerrit)) as heard:
        # Nothing tells that a stream is heard, so it is spoken to until it answers.
        waiting = heard(Kind.COMMENT_ADDED)
        created = heard(Kind.PATCHSET_CREATED)
        while not waiting.done():
            change = await asyncio.to_thread(gerrit.push, PROJECT, files={"greeting": "hi\n"}, subject="Greet")
            await asyncio.to_thread(gerrit.comment, change, "my-ci recheck")
            await asyncio.wait({waiting}, timeout=1)
        comment = waiting.result()
        patchset = await created
    assert comment.change is not None
    assert comment.author == tool.PERSON
    assert comment.comment.splitlines()[-1] == "my-ci recheck"
    assert comment.change.number <= change.number
    assert (comment.change.project, comment.change.branch, comment.change.patchset) == (PROJECT, "master", 1)
    assert patchset.author == tool.PERSON
    assert patchset.change is not None
    assert patchset.change.ref.startswith("refs/changes/")


async def test_a_report_stands_on_the_change_once_with_its_vote(gerrit: Gerrit, change: Pushed) -> None:
    forge = forge_at(gerrit)
    assert not await forge.find(named(change), LINK)
    await forge.send(report(change, Verified=1))
    assert await forge.find(named(change), LINK)
    assert not await forge.find(named(change), LINK + "1")
    [message] = gerrit.reports(change)
    assert message.author == tool.ROBOT
    assert message.text == f"Patch Set 1: Verified+1\n\n{report(change).message}"
    assert gerrit.votes(change) == {tool.ROBOT: 1}


async def test_a_report_goes_to_its_patch_set_and_not_to_a_newer_one(gerrit: Gerrit, change: Pushed) -> None:
    gerrit.push(PROJECT, files={"greeting": "hello again\n"}, subject="Greet", amends=change)
    await forge_at(gerrit).send(report(change))
    [message] = gerrit.reports(change)
    assert message.patchset == 1


async def test_gerrits_refusals_are_refusals_in_its_words(gerrit: Gerrit, change: Pushed) -> None:
    forge = forge_at(gerrit)
    with pytest.raises(Refused, match='"Code-Review": 2 is restricted'):
        await forge.send(report(change, **{"Code-Review": 2}))
    with pytest.raises(Refused, match='"Verified": 1 is restricted'):
        await forge_at(gerrit, tool.PERSON).send(report(change, Verified=1))
    gerrit.abandon(change)
    with pytest.raises(Refused, match="change is closed"):
        await forge.send(report(change, Verified=1))
    with pytest.raises(Refused, match="no such change"):
        await forge.send(replace(report(change), change=replace(named(change), number=999_999)))
    assert gerrit.reports(change) == []


async def test_an_account_that_may_not_stream_says_so(gerrit: Gerrit) -> None:
    forge = forge_at(gerrit, tool.PERSON)
    async with listening(forge):
        async with asyncio.timeout(20):
            while forge.away is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert "not permitted" in forge.away.why


async def test_a_gerrit_that_dies_and_comes_back_is_heard_again_after_a_gap() -> None:
    try:
        with tool.running() as gerrit:
            forge = forge_at(gerrit)
            async with listening(forge) as heard:
                gap = heard(Kind.GAP)
                await spoken(gerrit, heard)
                await asyncio.to_thread(gerrit.kill)
                await asyncio.to_thread(gerrit.start)
                event = await gap
                assert event.comment.startswith("not heard from 20")
    except tool.Unavailable as exc:
        pytest.skip(str(exc))


async def spoken(gerrit: Gerrit, heard: Callable[[Kind], "asyncio.Future[Event]"]) -> None:
    """Push until a push is heard."""
    await asyncio.to_thread(gerrit.create_project, PROJECT)
    waiting = heard(Kind.PATCHSET_CREATED)
    while not waiting.done():
        await asyncio.to_thread(gerrit.push, PROJECT, files={"greeting": "hi\n"}, subject="Greet")
        await asyncio.wait({waiting}, timeout=1)
