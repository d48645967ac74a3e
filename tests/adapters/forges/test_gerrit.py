"""A Gerrit over SSH: heard, lost, regained, asked and told, by a fake that misbehaves."""

import asyncio
import contextlib
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest

from paddock.adapters.forges.gerrit import LONGEST_LINE, TAG, GerritForge, Patience
from paddock.core.configuration import Ssh
from paddock.core.errors import Broken, Refused
from paddock.core.event import Change, Heard, Kind
from paddock.core.report import Report
from paddock.testing import FakeChance, FakeClock
from paddock.wire.backoff import Backoff
from tests.forges.fake_gerrit import USER, FakeGerrit, serving

pytestmark = pytest.mark.slow

LINK = "http://127.0.0.1:8080/rounds/1"
CHANGE = Change(
    forge="review", project="p", branch="master", number=7, patchset=2, ref="refs/changes/07/7/2", revision="0" * 40
)
REPORT = Report(
    id="1", forge="review", change=CHANGE, message=f"Build succeeded.\n\n{LINK}", link=LINK, labels={"Verified": 1}
)
QUICK = Patience(
    connect=timedelta(seconds=5),
    answer=timedelta(seconds=5),
    keepalive=timedelta(milliseconds=50),
    settle=timedelta(milliseconds=50),
    backoff=Backoff(),
)
OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


@pytest.fixture
async def gerrit(tmp_path: Path) -> AsyncIterator[FakeGerrit]:
    async with serving(tmp_path) as serving_gerrit:
        serving_gerrit.changes.add(CHANGE.number)
        yield serving_gerrit


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def forge_at(gerrit: FakeGerrit, clock: FakeClock, *, host_key: str = "", patience: Patience = QUICK) -> GerritForge:
    ssh = Ssh(host="127.0.0.1", port=gerrit.port, user=USER, key=str(gerrit.key), host_key=host_key or gerrit.host_key)
    return GerritForge(name="review", ssh=ssh, clock=clock, chance=FakeChance(), patience=patience)


class Ear:
    """Listens, and keeps what it hears."""

    def __init__(self, forge: GerritForge, clock: FakeClock) -> None:
        self.forge = forge
        self.clock = clock
        self.lines: list[Heard] = []
        self.batches = 0
        self._more = asyncio.Condition()

    async def hear(self, lines: Sequence[Heard]) -> None:
        async with self._more:
            self.lines.extend(lines)
            self.batches += 1
            self._more.notify_all()

    async def heard(self, many: int) -> list[Heard]:
        async with asyncio.timeout(20), self._more:
            await self._more.wait_for(lambda: len(self.lines) >= many)
        return self.lines

    async def lost(self) -> None:
        """Wait until the forge noticed that it hears nothing and sleeps before it tries again."""
        await until(lambda: self.clock.sleepers > 0)


async def until(is_so: Callable[[], bool]) -> None:
    """Sockets are real here and tell nobody, so this is asked again and again."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def listening(forge: GerritForge, clock: FakeClock) -> AsyncIterator[Ear]:
    ear = Ear(forge, clock)
    task = asyncio.ensure_future(forge.listen(ear.hear))
    try:
        yield ear
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def kinds(forge: GerritForge, lines: Sequence[Heard]) -> list[Kind]:
    return [forge.understand(line).kind for line in lines]


def is_heard(forge: GerritForge) -> bool:
    return forge.away is None


# ---- the stream


async def test_lines_are_heard_in_order_with_their_numbers(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        await gerrit.say('{"type": "a"}', '{"type": "b"}', "", "junk", '{"type": "c"}')
        lines = await ear.heard(4)
    assert [(line.position, line.raw) for line in lines] == [
        (0, '{"type": "a"}'),
        (1, '{"type": "b"}'),
        (3, "junk"),
        (4, '{"type": "c"}'),
    ]
    assert {(line.forge, line.session, line.at) for line in lines} == {("review", "s1", clock.now())}


async def test_bytes_that_are_no_text_are_heard_as_what_is_left_of_them(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        await gerrit.say_bytes(b'\xff\x00{"a"\r\n{"type": "b"}\n')
        lines = await ear.heard(2)
    assert [line.raw for line in lines] == ['��{"a"', '{"type": "b"}']


async def test_a_line_without_end_is_kept_as_its_beginning(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        await gerrit.say_bytes(b"x" * (LONGEST_LINE + 10) + b'\n{"type": "after"}\n')
        lines = await ear.heard(2)
    assert 1000 < len(lines[0].raw) < LONGEST_LINE
    assert lines[1].raw == '{"type": "after"}'
    assert ear.forge.understand(lines[0]).kind is Kind.OTHER


async def test_ten_thousand_events_in_a_burst_are_all_heard_in_bounded_memory(
    gerrit: FakeGerrit, clock: FakeClock
) -> None:
    padding = "x" * 2000
    count, most, held = 10_000, 0, 0
    done = asyncio.Event()

    async def hear(lines: Sequence[Heard]) -> None:
        nonlocal most, held
        for line in lines:
            assert json.loads(line.raw)["n"] == held
            held += 1
        most = max(most, len(lines))
        if held == count:
            done.set()
        await asyncio.sleep(0)

    # Client and server are in one loop here, and traced: a sign of life may take longer than three quick keepalives.
    patient = replace(QUICK, keepalive=Patience().keepalive)
    task = asyncio.ensure_future(forge_at(gerrit, clock, patience=patient).listen(hear))
    await gerrit.listened()
    tracemalloc.start()
    try:
        # 20 MB: more than every window and buffer on the way together.
        await gerrit.say(*(json.dumps({"type": "t", "n": number, "pad": padding}) for number in range(count)))
        async with asyncio.timeout(60):
            await done.wait()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        task.cancel()
    assert held == count
    # A batch is what one block of the stream held, not the burst; the bound is on client and server together.
    assert most < 500
    assert peak < 40_000_000


async def test_a_slow_store_makes_the_server_wait_and_loses_nothing(gerrit: FakeGerrit, clock: FakeClock) -> None:
    gate = asyncio.Event()
    lines: list[Heard] = []

    async def hear(batch: Sequence[Heard]) -> None:
        await gate.wait()
        lines.extend(batch)

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(forge_at(gerrit, clock).listen(hear))
        await gerrit.listened()
        saying = group.create_task(gerrit.say(*('{"n": "' + "x" * 4000 + '"}' for _ in range(2000))))
        await asyncio.wait({saying}, timeout=0.5)
        assert not saying.done(), "8 MB left the server while nobody took them"
        gate.set()
        await until(lambda: len(lines) == 2000)
        listening.cancel()


async def test_what_the_store_raises_is_raised_and_is_no_lost_stream(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async def hear(lines: Sequence[Heard]) -> None:
        raise TimeoutError("the disk")

    task = asyncio.ensure_future(forge_at(gerrit, clock).listen(hear))
    await gerrit.listened()
    await gerrit.say('{"type": "a"}')
    with pytest.raises(TimeoutError, match="the disk"):
        await asyncio.wait_for(task, 10)


# ---- lost and regained


async def test_a_lost_stream_comes_back_with_a_gap(gerrit: FakeGerrit, clock: FakeClock) -> None:
    forge = forge_at(gerrit, clock)
    async with listening(forge, clock) as ear:
        await gerrit.listened()
        await gerrit.say('{"type": "before"}')
        await ear.heard(1)
        gerrit.drop()
        await ear.lost()
        assert forge.away is not None
        lost = clock.now()
        clock.advance(seconds=90)
        await gerrit.listened(2)
        lines = await ear.heard(2)
        await gerrit.say('{"type": "after"}')
        await ear.heard(3)
        assert is_heard(forge)
    said = json.loads(lines[1].raw)
    assert (said["type"], said["from"], said["until"]) == ("gap", lost.isoformat(), clock.now().isoformat())
    assert said["why"]
    assert kinds(forge, lines) == [Kind.OTHER, Kind.GAP, Kind.OTHER]
    assert [(line.session, line.position) for line in lines] == [("s1", 0), ("s2", 0), ("s2", 1)]


async def test_half_a_line_at_the_cut_is_no_event_and_does_not_join_the_next(
    gerrit: FakeGerrit, clock: FakeClock
) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        await gerrit.say('{"type": "whole"}')
        await gerrit.say('{"type": "ha', end="")
        await ear.heard(1)
        gerrit.drop()
        await ear.lost()
        clock.advance(minutes=2)
        await gerrit.listened(2)
        await gerrit.say('{"type": "next"}')
        lines = await ear.heard(3)
    assert [json.loads(line.raw)["type"] for line in lines] == ["whole", "gap", "next"]


async def test_a_stream_that_ends_politely_is_a_gap_too(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        await gerrit.say('{"type": "a"}')
        await ear.heard(1)
        gerrit.end_streams()
        await ear.lost()
        clock.advance(minutes=2)
        [_, gap] = await ear.heard(2)
    assert json.loads(gap.raw)["why"] == "the stream ended"


async def test_a_silent_connection_is_noticed_and_left(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        await gerrit.say('{"type": "a"}')
        await ear.heard(1)
        gerrit.freeze()
        await ear.lost()
        gerrit.thaw()
        clock.advance(minutes=2)
        [_, gap] = await ear.heard(2)
    assert json.loads(gap.raw)["type"] == "gap"


async def test_a_quiet_stream_is_not_a_lost_one(gerrit: FakeGerrit, clock: FakeClock) -> None:
    async with listening(forge_at(gerrit, clock), clock) as ear:
        await gerrit.listened()
        # Twenty keepalives long.
        await asyncio.sleep(1)
        await gerrit.say('{"type": "a"}')
        await ear.heard(1)
    assert gerrit.streams == 1


async def test_a_gap_of_many_tries_is_one_gap_with_its_first_reason(
    tmp_path: Path, gerrit: FakeGerrit, clock: FakeClock
) -> None:
    forge = forge_at(gerrit, clock)
    async with listening(forge, clock) as ear:
        await gerrit.listened()
        await gerrit.say('{"type": "a"}')
        await ear.heard(1)
        lost = clock.now()
        gerrit.end_streams()
        gerrit.denying = "stream events not permitted"
        for _ in range(4):
            await ear.lost()
            asked = len(gerrit.commands)
            clock.advance(minutes=1)
            await gerrit.asked(asked + 1)
        await ear.lost()
        gerrit.denying = ""
        clock.advance(minutes=1)
        [_, gap] = await ear.heard(2)
    said = json.loads(gap.raw)
    assert (said["from"], said["why"]) == (lost.isoformat(), "the stream ended")


async def test_tries_are_further_and_further_apart_up_to_the_cap(gerrit: FakeGerrit, clock: FakeClock) -> None:
    gerrit.denying = "stream events not permitted"
    patience = Patience(settle=QUICK.settle, backoff=Backoff(least=timedelta(seconds=1), most=timedelta(seconds=8)))
    forge = forge_at(gerrit, clock, patience=patience)
    waits = []
    async with listening(forge, clock) as ear:
        for number in range(1, 6):
            await gerrit.asked(number)
            await ear.lost()
            began = clock.now()
            while ear.clock.sleepers:
                clock.advance(seconds=0.5)
            waits.append((clock.now() - began).total_seconds())
        assert forge.away is not None
        assert forge.away.why == "stream events not permitted"
        assert ear.lines == []
    # FakeChance throws 0.5 each time: half-way between the least and the most of each try.
    assert waits == [1.5, 2.5, 4.5, 4.5, 4.5]


# ---- whom we speak to


async def test_another_host_key_is_refused_before_anything_is_said(gerrit: FakeGerrit, clock: FakeClock) -> None:
    forge = forge_at(gerrit, clock, host_key=OTHER_KEY)
    with pytest.raises(Broken, match="review: the server's host key is not the one that is configured"):
        await forge.find(CHANGE, LINK)
    with pytest.raises(Broken, match="host key"):
        await forge.send(REPORT)
    async with listening(forge, clock) as ear:
        await ear.lost()
        assert forge.away is not None
        assert "host key" in forge.away.why
    assert gerrit.commands == []
    assert gerrit.reviews == []


async def test_a_known_hosts_file_pins_the_key_of_its_host(
    gerrit: FakeGerrit, clock: FakeClock, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    pin(known, f"[127.0.0.1]:{gerrit.port} {gerrit.host_key}\n")
    assert not await forge_at(gerrit, clock, host_key=str(known)).find(CHANGE, LINK)
    pin(known, f"[127.0.0.1]:{gerrit.port} {OTHER_KEY}\n")
    with pytest.raises(Broken, match="host key"):
        await forge_at(gerrit, clock, host_key=str(known)).find(CHANGE, LINK)
    pin(known, f"[127.0.0.1]:{gerrit.port + 1} {gerrit.host_key}\n")
    with pytest.raises(Broken, match="host key"):
        await forge_at(gerrit, clock, host_key=str(known)).find(CHANGE, LINK)


def pin(file: Path, line: str) -> None:
    file.write_text(line)


async def test_no_host_key_is_refused(gerrit: FakeGerrit, clock: FakeClock) -> None:
    ssh = Ssh(host="127.0.0.1", port=gerrit.port, user=USER, key=str(gerrit.key), host_key="")
    with pytest.raises(Refused, match="review: no host-key"):
        GerritForge(name="review", ssh=ssh, clock=clock, chance=FakeChance())


async def test_a_key_that_cannot_be_read_is_named(gerrit: FakeGerrit, clock: FakeClock) -> None:
    ssh = Ssh(host="127.0.0.1", port=gerrit.port, user=USER, key="/nowhere/key", host_key=gerrit.host_key)
    forge = GerritForge(name="review", ssh=ssh, clock=clock, chance=FakeChance(), patience=QUICK)
    with pytest.raises(Broken, match="/nowhere/key"):
        await forge.find(CHANGE, LINK)


async def test_a_stranger_is_not_let_in(gerrit: FakeGerrit, clock: FakeClock, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(stranger))
    ssh = Ssh(host="127.0.0.1", port=gerrit.port, user=USER, key=str(stranger), host_key=gerrit.host_key)
    forge = GerritForge(name="review", ssh=ssh, clock=clock, chance=FakeChance(), patience=QUICK)
    with pytest.raises(Broken, match="does not let us in"):
        await forge.send(REPORT)


# ---- reports


async def test_a_report_is_posted_on_the_exact_patch_set_with_tag_and_labels(
    gerrit: FakeGerrit, clock: FakeClock
) -> None:
    forge = forge_at(gerrit, clock)
    assert not await forge.find(CHANGE, LINK)
    await forge.send(REPORT)
    [review] = gerrit.reviews
    assert (review.change, review.patchset, review.tag, review.labels) == (7, 2, TAG, {"Verified": 1})
    assert review.message == REPORT.message
    assert await forge.find(CHANGE, LINK)
    assert not await forge.find(CHANGE, "http://127.0.0.1:8080/rounds/11")


async def test_quotes_and_newlines_reach_the_change_as_they_are(gerrit: FakeGerrit, clock: FakeClock) -> None:
    message = f"- job \"a b\" 'c' $(reboot) `x` \\ : SUCCESS\né — ✓\n{LINK}"
    report = Report(id="1", forge="review", change=CHANGE, message=message, link=LINK)
    await forge_at(gerrit, clock).send(report)
    assert gerrit.reviews[0].message == message


async def test_a_refused_review_is_refused_in_gerrits_words(gerrit: FakeGerrit, clock: FakeClock) -> None:
    gerrit.refusing = 'Applying label "Verified": 1 is restricted'
    with pytest.raises(Refused, match=r'review: p 7,2: Applying label "Verified": 1 is restricted$'):
        await forge_at(gerrit, clock).send(REPORT)


async def test_a_change_that_is_not_there_is_refused_and_not_found(gerrit: FakeGerrit, clock: FakeClock) -> None:
    gerrit.changes.clear()
    forge = forge_at(gerrit, clock)
    assert not await forge.find(CHANGE, LINK)
    with pytest.raises(Refused, match='"7" no such change'):
        await forge.send(REPORT)


async def test_trouble_of_its_own_may_be_over_later(gerrit: FakeGerrit, clock: FakeClock) -> None:
    gerrit.hiccup = "out of memory"
    forge = forge_at(gerrit, clock)
    with pytest.raises(Broken, match="internal server error: out of memory"):
        await forge.send(REPORT)
    with pytest.raises(Broken, match="out of memory"):
        await forge.find(CHANGE, LINK)


async def test_a_review_that_was_taken_but_not_answered_is_broken_and_found(
    gerrit: FakeGerrit, clock: FakeClock
) -> None:
    gerrit.is_dying_after_review = True
    forge = forge_at(gerrit, clock)
    with pytest.raises(Broken, match="review: "):
        await forge.send(REPORT)
    assert await forge.find(CHANGE, LINK)
    assert len(gerrit.reviews) == 1


async def test_a_server_that_does_not_answer_is_broken_in_time(gerrit: FakeGerrit, clock: FakeClock) -> None:
    quick = Patience(connect=timedelta(milliseconds=300), answer=timedelta(milliseconds=300))
    gerrit.freeze()
    with pytest.raises(Broken, match="review: "):
        await forge_at(gerrit, clock, patience=quick).find(CHANGE, LINK)


async def test_nobody_there_is_broken(gerrit: FakeGerrit, clock: FakeClock) -> None:
    ssh = Ssh(host="127.0.0.1", port=1, user=USER, key=str(gerrit.key), host_key=gerrit.host_key)
    forge = GerritForge(name="review", ssh=ssh, clock=clock, chance=FakeChance(), patience=QUICK)
    with pytest.raises(Broken, match="review: "):
        await forge.find(CHANGE, LINK)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no JSON\n",
        '["a list"]\n',
        '{"number": 7, "comments": []}\n',
        '{"type": "error", "message": "too busy"}\n',
        '{"number": 7, "comm',
    ],
)
async def test_an_answer_that_is_not_whole_is_not_taken_for_absence(
    gerrit: FakeGerrit, clock: FakeClock, answer: str
) -> None:
    gerrit.garbling = answer
    with pytest.raises(Broken, match="review: "):
        await forge_at(gerrit, clock).find(CHANGE, LINK)


async def test_what_somebody_else_wrote_is_not_our_report(gerrit: FakeGerrit, clock: FakeClock) -> None:
    comments = [
        {"reviewer": {"username": "eve"}, "message": f"Patch Set 2:\n\n{LINK}"},
        {"reviewer": {}, "message": LINK},
        {"message": LINK},
        {"reviewer": {"username": USER}, "message": f"{LINK}\nis odd"},
        {"reviewer": {"username": USER}, "message": 7},
        "odd",
    ]
    rows = [{"number": 7, "comments": comments}, {"type": "stats", "rowCount": 1}]
    gerrit.garbling = "".join(json.dumps(row) + "\n" for row in rows)
    assert not await forge_at(gerrit, clock).find(CHANGE, LINK)
