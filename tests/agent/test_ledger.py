"""The agent's durable memory: what is in it survives, what is corrupt is set aside, what is pruned is never run."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.agent import ledger as ledgers
from paddock.agent.admission import Act, Answer, Asked, Refuse
from paddock.agent.entry import Entry, Keeper, Moment, Outcome, State, Stream
from paddock.agent.ledger import Ledger, Unreadable, Unwritable
from paddock.core.errors import Broken, Refused
from paddock.wire.messages import Code

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(name: str, *, seq: int | None = 1, fence: int = 0, environment: str = "", epoch: int = 1) -> Entry:
    return Entry(
        id=name,
        task=name,
        method="script.run",
        digest=f"digest of {name}",
        seq=seq,
        epoch=epoch,
        environment=environment,
        fence=fence,
        accepted=Moment(at=NOW, uptime=timedelta(seconds=12), boot_id="boot"),
        params={"run": "true", "secret": "hush"},
    )


def asked(one: Entry) -> Asked:
    return Asked(
        id=one.id,
        task=one.task,
        digest=one.digest,
        seq=one.seq,
        epoch=one.epoch,
        environment=one.environment,
        fence=one.fence,
    )


async def admit(ledger: Ledger, one: Entry) -> object:
    return (await ledger.admit(asked(one), entry=one)).decision


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger")
    yield opened
    await opened.close()


async def test_a_command_is_admitted_once_and_answered_afterwards(ledger: Ledger) -> None:
    assert isinstance(await admit(ledger, entry("a")), Act)
    again = await admit(ledger, entry("a"))
    assert isinstance(again, Answer)
    assert again.entry == entry("a")


async def test_two_copies_at_once_are_carried_out_once(ledger: Ledger) -> None:
    decisions = await asyncio.gather(*(admit(ledger, entry("a")) for _ in range(20)))
    assert sum(isinstance(decision, Act) for decision in decisions) == 1


async def test_everything_survives_a_reopening(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    one = entry("a", seq=5, fence=3, environment="E", epoch=2)
    await admit(ledger, one)
    started = await ledger.start(one, keeper=Keeper(pid=7, started=70))
    outcome = Outcome(code=Code.TIMED_OUT, msg="too long", streams={"out": Stream(path="/x/output", length=9)})
    finished = await ledger.finish(started, outcome)
    name = ledger.id
    await ledger.close()
    again = Ledger.open(tmp_path / "ledger")
    assert (again.id, again.seq, again.epoch, again.fences) == (name, 5, 2, {"E": 3})
    assert await again.find("a") == finished
    assert await again.by_task("a") == finished
    assert [one.id for one in await again.unacknowledged()] == ["a"]
    await again.close()


async def test_params_are_there_until_the_start_and_then_only_what_is_needed(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    await ledger.start(entry("a"), keeper=None)
    await ledger.keep_params("a", {"background": True})
    found = await ledger.find("a")
    assert found is not None
    assert found.params == {"background": True}


async def test_an_end_takes_the_params_away(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    await ledger.finish(entry("a"), Outcome(code=Code.EXPIRED))
    found = await ledger.find("a")
    assert found is not None
    assert found.params is None


async def test_what_ended_does_not_start_again(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    await ledger.finish(entry("a"), Outcome(result={"exit": 0}))
    with pytest.raises(Refused):
        await ledger.start(entry("a"), keeper=None)
    with pytest.raises(Refused):
        await ledger.finish(entry("a"), Outcome(result={"exit": 1}))


async def test_a_step_that_is_refused_undoes_itself_alone(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    results = await asyncio.gather(
        ledger.acknowledge(["a"], now=NOW),
        ledger.put_back(entry("a")),
        admit(ledger, entry("b", seq=2)),
        return_exceptions=True,
    )
    assert isinstance(results[1], Refused)
    assert isinstance(results[2], Act)
    assert await ledger.find("b") is not None


async def test_the_highest_fence_is_durable_before_anything_acts_under_it(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    await admit(ledger, entry("a", fence=7, environment="E"))
    with sqlite3.connect(tmp_path / "ledger") as other:
        assert other.execute("SELECT fence FROM fences").fetchall() == [(7,)]
    assert isinstance(await admit(ledger, entry("b", seq=2, fence=6, environment="E")), Refuse)
    await ledger.close()


async def test_floors_are_raised_and_never_lowered(ledger: Ledger) -> None:
    await ledger.raise_fences({"E": 7}, epoch=3)
    await ledger.raise_fences({"E": 5, "F": 1}, epoch=2)
    assert (ledger.fences, ledger.epoch) == ({"E": 7, "F": 1}, 3)


async def test_pruning_takes_what_was_acknowledged_long_ago_and_no_more(ledger: Ledger) -> None:
    for number, name in enumerate("abcd", start=1):
        await admit(ledger, entry(name, seq=number))
    for name in "abd":
        await ledger.finish(entry(name, seq=1), Outcome())
    await ledger.acknowledge(["a"], now=NOW)
    await ledger.acknowledge(["b", "d"], now=NOW + timedelta(hours=1))
    assert await ledger.prune(before=NOW) == 0
    assert await ledger.prune(before=NOW + timedelta(minutes=1)) == 1
    assert ledger.pruned_below == 1
    # d is old enough too, but c below it is open: nothing above c may become unknown.
    assert await ledger.prune(before=NOW + timedelta(days=1)) == 1
    assert ledger.pruned_below == 2
    assert await ledger.find("d") is not None


async def test_a_pruned_command_is_never_run_again(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    await ledger.finish(entry("a"), Outcome())
    await ledger.acknowledge(["a"], now=NOW)
    await ledger.prune(before=NOW + timedelta(days=1))
    decision = await admit(ledger, entry("a"))
    assert isinstance(decision, Refuse)
    assert decision.code is Code.EXPIRED


async def test_an_entry_without_seq_is_kept_for_ever(ledger: Ledger) -> None:
    await admit(ledger, entry("a", seq=None))
    await ledger.finish(entry("a"), Outcome())
    await ledger.acknowledge(["a"], now=NOW)
    assert await ledger.prune(before=NOW + timedelta(days=999)) == 0
    assert isinstance(await admit(ledger, entry("a", seq=None)), Answer)


async def test_a_task_id_is_taken_by_one_command(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    second = replace(entry("b", seq=2), task="a")
    decision = await admit(ledger, second)
    assert isinstance(decision, Refuse)
    assert decision.code is Code.REFUSED


@pytest.mark.parametrize(
    "garbage", [b"no database at all, not even close to one" * 200, b"SQLite format 3\0" + b"x" * 5000]
)
async def test_a_corrupt_ledger_is_set_aside_and_a_new_one_begins(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(garbage)
    ledger = Ledger.open(path)
    assert ledger.set_aside is not None
    assert ledger.set_aside.read_bytes() == garbage
    assert await ledger.unacknowledged() == []
    await ledger.close()


@pytest.mark.slow
async def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger.open(path)
    for number in range(200):
        await admit(ledger, entry(f"command-{number}", seq=number + 1))
    before = ledger.id
    await ledger.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    again = Ledger.open(path)
    assert again.set_aside is not None
    assert again.id != before
    await again.close()


async def test_a_full_disk_takes_nothing_new_and_loses_nothing_old(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    await admit(ledger, entry("a"))
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")

    async def fill() -> None:
        for number in range(2, 2000):
            await admit(ledger, replace(entry(f"b{number}", seq=number), params={"run": "x" * 3000}))

    with pytest.raises(Unwritable):
        await fill()
    assert isinstance(await admit(ledger, entry("a")), Answer)
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    assert isinstance(await admit(ledger, entry("z", seq=5000)), Act)
    await ledger.close()


async def test_a_full_disk_makes_no_known_command_look_refused(tmp_path: Path) -> None:
    """Steps share a flush: one that finds no room must not answer for those beside it."""
    ledger = Ledger.open(tmp_path / "ledger")
    await admit(ledger, entry("a"))
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    large = [replace(entry(f"b{number}", seq=number + 2), params={"run": "x" * 20_000}) for number in range(200)]
    asking = [admit(ledger, one) for new in large for one in (new, entry("a"))]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(answer) for answer in answers[1::2]} == {Answer}
    assert {type(answer) for answer in answers[::2]} == {Unwritable}
    assert not any(isinstance(answer, Unreadable) for answer in answers)
    assert [one.id for one in await ledger.unacknowledged()] == ["a"]
    await ledger.close()


async def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    await ledger.close()
    await ledger.close()
    with pytest.raises(Unwritable):
        await admit(ledger, entry("a"))


async def test_counters_never_give_a_number_twice(ledger: Ledger) -> None:
    numbers = await asyncio.gather(*(ledger.number("machines") for _ in range(10)))
    assert sorted(numbers) == list(range(1, 11))


async def test_a_person_can_look_while_the_agent_lives(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    await admit(ledger, entry("a"))
    assert [one.id for one in ledgers.peek(tmp_path / "ledger", limit=10)] == ["a"]
    await ledger.close()


async def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    assert (tmp_path / "ledger").stat().st_mode & 0o077 == 0
    assert ledger.set_aside is None
    assert await ledger.find("nothing") is None
    await ledger.close()


async def test_states_are_stored_by_name(ledger: Ledger) -> None:
    await admit(ledger, entry("a"))
    started = await ledger.start(entry("a"), keeper=Keeper(pid=1, started=2))
    assert started.state is State.STARTED
    assert (await ledger.put_back(started)).state is State.ACCEPTED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET state = 'half done'",
        "UPDATE entries SET params = '{\"run\": '",
        "UPDATE entries SET accepted = 'yesterday'",
        "UPDATE numbers SET value = 'many' WHERE name = 'seq'",
        'UPDATE entries SET outcome = \'{"code": "who knows", "result": {}, "streams": {}}\'',
        "DELETE FROM words",
    ],
)
async def test_sound_pages_with_rows_that_are_not_ours_are_corrupt_too(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger.open(path)
    await admit(ledger, entry("a"))
    await ledger.close()
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()
    again = Ledger.open(path)
    assert again.set_aside is not None
    assert again.why
    assert ledgers.set_aside(path) == [again.set_aside]
    assert await again.unacknowledged() == []
    assert again.seq == 0
    await again.close()


@pytest.mark.slow
async def test_a_file_that_is_damaged_while_it_is_used_ends_its_agent_and_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger.open(path)
    guard = asyncio.ensure_future(ledger.guard())
    large = {"run": "x" * 4000}
    await asyncio.gather(*(admit(ledger, replace(entry(f"c{n:04}", seq=n), params=large)) for n in range(1, 1000)))
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as file:
        file.seek(4096 * 4)
        file.write(b"\xff" * (path.stat().st_size - 4096 * 4))
    refused = []
    for number in range(1, 1000):
        try:
            await ledger.find(f"c{number:04}")
        except Unwritable as exc:
            refused.append(exc)
    assert refused  # nothing is answered from what is left
    with pytest.raises(Broken, match="is corrupt"):
        await asyncio.wait_for(guard, 5)
    await ledger.close()
    assert len(ledgers.set_aside(path)) == 1
    again = Ledger.open(path)
    assert again.set_aside is None
    assert await again.unacknowledged() == []
    await again.close()


SECRET = "hush-" + "0123456789abcdef" * 400  # more than a page


def shows(place: Path, words: str) -> list[str]:
    """The ledger's files that show this."""
    return sorted(one.name for one in place.glob("ledger*") if words.encode() in one.read_bytes())


async def until_gone(place: Path) -> None:
    async with asyncio.timeout(10):
        while shows(place, "hush-0123"):  # noqa: ASYNC110 - the bytes of a file are no event
            await asyncio.sleep(0.01)


async def carried_out(ledger: Ledger, number: int) -> None:
    one = replace(entry(f"c{number}", seq=number), params={"run": SECRET, "limit": 5})
    await admit(ledger, one)
    one = await ledger.start(one, keeper=Keeper(pid=1, started=2))
    await ledger.keep_params(one.id, {"limit": 5})
    await ledger.finish(one, Outcome(result={"exit": 0}))


async def test_params_are_gone_from_the_files_once_the_ledger_is_quiet(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_QUIET", 0.05)
    await asyncio.gather(*(carried_out(ledger, number) for number in range(1, 21)))
    await until_gone(tmp_path)
    assert (tmp_path / "ledger-wal").stat().st_size == 0
    assert len(await ledger.unacknowledged()) == 20


async def test_params_are_gone_from_the_files_though_the_ledger_is_never_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_EMPTIED_EVERY", 0.1)
    ledger = Ledger.open(tmp_path / "ledger")
    await carried_out(ledger, 1)
    async with asyncio.timeout(10):
        while shows(tmp_path, "hush-0123"):
            await ledger.number("busy")
    await ledger.close()


async def test_params_that_a_dead_process_has_left_in_the_log_are_gone_after_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_QUIET", 0.05)
    (tmp_path / "first").mkdir()
    ledger = Ledger.open(tmp_path / "first" / "ledger")
    await carried_out(ledger, 1)
    for one in (tmp_path / "first").iterdir():  # as a kill leaves it
        (tmp_path / one.name).write_bytes(one.read_bytes())
    await ledger.close()
    assert shows(tmp_path, "hush-0123") != []
    again = Ledger.open(tmp_path / "ledger")
    await until_gone(tmp_path)
    await again.close()


async def test_whoever_reads_the_ledger_keeps_nobody_waiting(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_QUIET", 0.01)
    await carried_out(ledger, 1)
    reader = sqlite3.connect(tmp_path / "ledger", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM entries").fetchall()
    async with asyncio.timeout(2):
        for number in range(2, 6):
            await carried_out(ledger, number)
            await asyncio.sleep(0.02)
    reader.close()
    await until_gone(tmp_path)


@pytest.mark.slow
async def test_a_blank_one_becomes_somebodys_while_somebody_looks_at_it(tmp_path: Path) -> None:
    """The watchdog's look is a transaction of the writer's thread; a fork may begin in the middle of one."""
    for number in range(30):
        ledger = Ledger.blank(tmp_path / f"ledger-{number}")
        looks = [asyncio.ensure_future(ledger.find("")) for _ in range(50)]
        await asyncio.sleep(0)
        ledger.become("ledger-wake", {"lab-1": 7})
        assert (ledger.id, ledger.fence("lab-1")) == ("ledger-wake", 7)
        await asyncio.gather(*looks)
        assert ledger.fence("lab-1") == 7
        await ledger.stamp()
        await ledger.close()
        again = Ledger.open(tmp_path / f"ledger-{number}")
        assert (again.id, again.fence("lab-1")) == ("ledger-wake", 7)
        await again.close()
