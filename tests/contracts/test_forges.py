"""What every forge promises: lines in order and once, events that never raise, reports that can be found."""

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.adapters.forges.gerrit import GerritForge, Patience
from paddock.adapters.forges.replay import ReplayForge
from paddock.core.configuration import Ssh
from paddock.core.errors import Broken, Refused
from paddock.core.event import Change, Heard, Kind
from paddock.core.report import Report
from paddock.ports import Forge
from paddock.testing import FakeChance, FakeClock, FakeForge
from tests.forges.fake_gerrit import USER, FakeGerrit, serving

LINK = "http://127.0.0.1:8080/rounds/1"
CHANGE = Change(
    forge="review", project="p", branch="master", number=7, patchset=2, ref="refs/changes/07/7/2", revision="0" * 40
)
REPORT = Report(id="1", forge="review", change=CHANGE, message=f"Build succeeded.\n\n{LINK}", link=LINK)
LINES = ['{"type": "a"}', "junk", '{"type": "b"}']


class Place(ABC):
    """A forge, and the world behind it."""

    forge: Forge

    @abstractmethod
    async def say(self, lines: Sequence[str]) -> None:
        """Make the forge hear these lines; called once, while it listens."""

    @abstractmethod
    def posted(self) -> int:
        """How many reports reached the change."""


@dataclass
class Fake(Place):
    forge: FakeForge

    async def say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.forge.say(line)

    def posted(self) -> int:
        return len(self.forge.sent)


@dataclass
class Replay(Place):
    forge: ReplayForge

    async def say(self, lines: Sequence[str]) -> None:
        """Its file has them from the beginning."""

    def posted(self) -> int:
        return len(self.forge.reports.read_text().splitlines()) if self.forge.reports.exists() else 0


@dataclass
class Gerrit(Place):
    forge: GerritForge
    server: FakeGerrit

    async def say(self, lines: Sequence[str]) -> None:
        await self.server.listened()
        await self.server.say(*lines)

    def posted(self) -> int:
        return len(self.server.reviews)


@pytest.fixture(params=["fake", "replay", pytest.param("gerrit", marks=pytest.mark.slow)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "fake":
        yield Fake(FakeForge("review"))
    elif request.param == "replay":
        yield replay(tmp_path)
    else:
        async with serving(tmp_path) as server:
            server.changes.add(CHANGE.number)
            yield Gerrit(gerrit_forge(server), server)


def replay(directory: Path) -> Replay:
    file = directory / "events.jsonl"
    file.write_text("".join(line + "\n" for line in LINES))
    return Replay(ReplayForge(name="review", file=file, state=directory, clock=FakeClock()))


def gerrit_forge(server: FakeGerrit) -> GerritForge:
    ssh = Ssh(host="127.0.0.1", port=server.port, user=USER, key=str(server.key), host_key=server.host_key)
    patience = Patience(settle=timedelta(milliseconds=50))
    return GerritForge(name="review", ssh=ssh, clock=FakeClock(), chance=FakeChance(), patience=patience)


async def test_lines_are_heard_once_in_order_as_they_came(place: Place) -> None:
    lines: list[Heard] = []
    enough = asyncio.Event()

    async def hear(batch: Sequence[Heard]) -> None:
        assert batch, "nothing was said"
        lines.extend(batch)
        if len(lines) >= len(LINES):
            enough.set()

    listening = asyncio.ensure_future(place.forge.listen(hear))
    await place.say(LINES)
    async with asyncio.timeout(10):
        await enough.wait()
    listening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await listening
    assert [line.raw for line in lines] == LINES
    assert [line.position for line in lines] == [0, 1, 2]
    assert {line.forge for line in lines} == {place.forge.name}
    assert len({line.session for line in lines}) == 1


async def test_it_listens_until_it_is_cancelled(place: Place) -> None:
    async def hear(batch: Sequence[Heard]) -> None:
        pass

    listening = asyncio.ensure_future(place.forge.listen(hear))
    await place.say(LINES)
    _, pending = await asyncio.wait({listening}, timeout=0.05)
    assert pending
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening


@pytest.mark.parametrize(
    "raw", ["", "junk", "17", "[]", "{}", '{"type": 7}', '{"type": "a", "change": 7}', "[" * 100_000, "\ufffd"]
)
async def test_no_line_makes_understanding_raise(place: Place, raw: str) -> None:
    heard = Heard(forge="review", session="s1", position=3, at=FakeClock().now(), raw=raw)
    event = place.forge.understand(heard)
    assert event.kind is Kind.OTHER
    assert (event.id, event.forge, event.session, event.position, event.raw) == ("", "review", "s1", 3, raw)


async def test_a_gap_is_understood_as_one(place: Place) -> None:
    raw = json.dumps(
        {"type": "gap", "from": "2026-01-01T00:00:00+00:00", "until": "2026-01-01T00:01:00+00:00", "why": "x"}
    )
    heard = Heard(forge="review", session="s1", position=0, at=FakeClock().now(), raw=raw)
    assert place.forge.understand(heard).kind is Kind.GAP


async def test_a_report_is_found_once_it_was_sent(place: Place) -> None:
    assert not await place.forge.find(CHANGE, LINK)
    await place.forge.send(REPORT)
    assert await place.forge.find(CHANGE, LINK)
    assert place.posted() == 1


async def test_another_rounds_report_is_not_this_ones(place: Place) -> None:
    await place.forge.send(REPORT)
    assert not await place.forge.find(CHANGE, "http://127.0.0.1:8080/rounds/11")
    assert not await place.forge.find(CHANGE, "http://127.0.0.1:8080/rounds/")
    assert not await place.forge.find(replace(CHANGE, number=8), LINK)


async def test_sending_twice_posts_twice_so_that_callers_must_ask(place: Place) -> None:
    await place.forge.send(REPORT)
    await place.forge.send(REPORT)
    assert place.posted() == 2


async def test_a_report_that_was_posted_before_the_answer_was_lost_is_found(place: Place) -> None:
    if isinstance(place, Replay):
        pytest.skip("a file answers at once")
    if isinstance(place, Gerrit):
        place.server.is_dying_after_review = True
    if isinstance(place, Fake):
        place.forge.die_after_accepting(Broken("review: the connection ended"))
    with pytest.raises(Broken):
        await place.forge.send(REPORT)
    assert await place.forge.find(CHANGE, LINK)
    assert place.posted() == 1


async def test_what_will_never_be_taken_is_refused_and_not_posted(place: Place) -> None:
    if isinstance(place, Replay):
        pytest.skip("a file takes everything")
    if isinstance(place, Gerrit):
        place.server.refusing = "change is closed"
    if isinstance(place, Fake):
        place.forge.refuse("change is closed")
    with pytest.raises(Refused, match="change is closed"):
        await place.forge.send(REPORT)
    assert place.posted() == 0
