"""What every store promises, the one in memory and the ones on disk."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from paddock.core import environment as environments
from paddock.core import event as events
from paddock.core import lease as leases
from paddock.core.environment import Machine, Spec
from paddock.core.errors import Broken, Conflict, Refused, Stale
from paddock.core.host import Host
from paddock.core.image import BuildScript, HostImage, Image, Layer
from paddock.core.job import Phase
from paddock.core.machine import MachineSettings, NetworkSettings, NicSettings, Size, Start
from paddock.ports import Store, Tables, Touched
from tests.contracts.places import Place
from tests.contracts.rows import NOW, environment, event, host, lease, transition


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    opened = await place.open()
    yield opened
    await opened.close()


class Boom(Exception):
    """Raised by a step that goes wrong."""


async def test_a_row_that_was_added_is_found_as_it_was(store: Store) -> None:
    row = environment("two-1", machines=(environments.Machine(name="one", agent="a1"),), fence=7)
    await store.write(lambda tables: tables.environments.add(row))
    assert await store.read(lambda tables: tables.environments.find("two-1")) == replace(row, version=1)


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.read(lambda tables: tables.hosts.find("nobody")) is None
    assert await store.read(lambda tables: tables.hosts.find("a\0b")) is None


async def test_the_store_counts_the_versions(store: Store) -> None:
    added = await store.write(lambda tables: tables.hosts.add(host("a", version=40)))
    swapped = await store.write(lambda tables: tables.hosts.swap(added, replace(added, reason="x", version=9)))
    assert (added.version, swapped.version) == (1, 2)
    assert await store.read(lambda tables: tables.hosts.find("a")) == swapped


async def test_an_id_is_added_once(store: Store) -> None:
    await store.write(lambda tables: tables.hosts.add(host("a")))
    with pytest.raises(Refused, match="hosts: a exists already"):
        await store.write(lambda tables: tables.hosts.add(host("a", reason="again")))
    found = await store.read(lambda tables: tables.hosts.find("a"))
    assert found is not None
    assert found.reason == ""


async def test_an_event_is_known_by_forge_session_and_position(store: Store) -> None:
    await store.write(lambda tables: tables.events.add(event("e1", 3)))
    with pytest.raises(Refused, match="review, s1, 3 exists already"):
        await store.write(lambda tables: tables.events.add(event("e2", 3)))
    await store.write(lambda tables: tables.events.add(event("e2", 3, session="s2")))


async def test_an_event_cannot_take_the_key_of_another(store: Store) -> None:
    def step(tables: Tables) -> None:
        tables.events.add(event("e1", 1))
        second = tables.events.add(event("e2", 2))
        with pytest.raises(Refused, match="exists already"):
            tables.events.swap(second, replace(second, position=1))
        tables.events.swap(second, replace(second, position=3))

    await store.write(step)
    assert await store.read(lambda tables: [row.position for row in tables.events.where()]) == [1, 3]


async def test_a_step_goes_on_after_a_refused_add(store: Store) -> None:
    def step(tables: Tables) -> int:
        added = 0
        for id, position in (("e1", 1), ("e2", 1), ("e3", 2)):
            try:
                tables.events.add(event(id, position))
                added += 1
            except Refused:
                pass
        return added

    assert await store.write(step) == 2
    assert await store.read(lambda tables: [row.id for row in tables.events.where()]) == ["e1", "e3"]


async def test_a_swap_of_an_old_version_is_a_conflict(store: Store) -> None:
    old = await store.write(lambda tables: tables.hosts.add(host("a")))
    await store.write(lambda tables: tables.hosts.swap(old, replace(old, reason="first")))
    with pytest.raises(Conflict):
        await store.write(lambda tables: tables.hosts.swap(old, replace(old, reason="second")))
    found = await store.read(lambda tables: tables.hosts.find("a"))
    assert found is not None
    assert found.reason == "first"


async def test_a_swap_of_a_row_that_is_gone_is_a_conflict(store: Store) -> None:
    old = await store.write(lambda tables: tables.hosts.add(host("a")))
    await store.write(lambda tables: tables.hosts.remove("a"))
    with pytest.raises(Conflict):
        await store.write(lambda tables: tables.hosts.swap(old, replace(old, reason="x")))


async def test_a_swap_that_changes_nothing_counts(store: Store) -> None:
    old = await store.write(lambda tables: tables.hosts.add(host("a")))
    assert (await store.write(lambda tables: tables.hosts.swap(old, old))).version == 2
    with pytest.raises(Conflict):
        await store.write(lambda tables: tables.hosts.swap(old, old))


async def test_a_row_keeps_its_id(store: Store) -> None:
    old = await store.write(lambda tables: tables.hosts.add(host("a")))
    with pytest.raises(ValueError, match="a cannot become b"):
        await store.write(lambda tables: tables.hosts.swap(old, host("b")))


async def test_removing_is_idempotent_and_the_id_is_free_again(store: Store) -> None:
    def step(tables: Tables) -> list[Host]:
        tables.hosts.add(host("a"))
        tables.hosts.remove("a")
        tables.hosts.remove("a")
        tables.hosts.add(host("b"))
        tables.hosts.add(host("a"))
        return tables.hosts.where()

    assert [row.id for row in await store.write(step)] == ["b", "a"]


@pytest.fixture
async def lent(store: Store) -> Store:
    """Six leases, added in an order that is not the alphabet's."""

    def step(tables: Tables) -> None:
        granted = leases.State.GRANTED
        tables.leases.add(lease("f", state=granted, fence=1, environment="two-1"))
        tables.leases.add(lease("b", state=granted, fence=2))
        tables.leases.add(lease("a", pool="one", run="r1"))
        tables.leases.add(lease("d", deadline=NOW))
        tables.leases.add(lease("c", state=leases.State.RELEASED))
        tables.leases.add(lease("e", run="r1", deadline=NOW + timedelta(seconds=1)))

    await store.write(step)
    return store


async def ids(store: Store, **asked: object) -> str:
    return await store.read(lambda tables: "".join(row.id for row in tables.leases.where(**asked)))  # type: ignore[arg-type]


async def test_rows_come_in_the_order_in_which_they_were_added(lent: Store) -> None:
    assert await ids(lent) == "fbadce"
    assert await ids(lent, newest=True) == "ecdabf"


async def test_a_swapped_row_keeps_its_place(lent: Store) -> None:
    def step(tables: Tables) -> None:
        old = tables.leases.find("b")
        assert old is not None
        tables.leases.swap(old, replace(old, reason="x"))

    await lent.write(step)
    assert await ids(lent) == "fbadce"


async def test_rows_are_asked_for_by_the_values_of_fields(lent: Store) -> None:
    assert await ids(lent, pool="one") == "a"
    assert await ids(lent, state=leases.State.GRANTED) == "fb"
    assert await ids(lent, state="granted", fence=2) == "b"
    assert await ids(lent, deadline=NOW) == "d"
    assert await ids(lent, deadline=NOW.astimezone(timezone(timedelta(hours=5)))) == "d"
    assert await ids(lent, deadline=None) == "fbac"
    assert await ids(lent, pool="three") == ""


async def test_a_sequence_of_values_asks_for_any_of_them(lent: Store) -> None:
    assert await ids(lent, state=[leases.State.GRANTED, leases.State.RELEASED]) == "fbc"
    assert await ids(lent, id=("a", "b", "c", "nobody", "a")) == "bac"
    assert await ids(lent, deadline=[None, NOW]) == "fbadc"
    assert await ids(lent, deadline=[None]) == "fbac"
    assert await ids(lent, state=[]) == ""


async def test_a_limit_takes_the_first_of_the_order(lent: Store) -> None:
    assert await ids(lent, limit=2) == "fb"
    assert await ids(lent, limit=2, newest=True) == "ec"
    assert await ids(lent, limit=0) == ""
    assert await ids(lent, limit=100, run="r1") == "ae"


async def test_above_and_below_are_places_in_the_order(lent: Store) -> None:
    assert await ids(lent, above="a") == "dce"
    assert await ids(lent, below="a") == "fb"
    assert await ids(lent, below="c", newest=True, limit=2) == "da"
    assert await ids(lent, above="f", below="e", run="r1") == "a"
    assert await ids(lent, above="nobody") == ""
    assert await ids(lent, below="nobody") == ""


async def test_rows_are_counted(lent: Store) -> None:
    def step(tables: Tables) -> tuple[int, int, int]:
        rows = tables.leases
        return rows.count(), rows.count(state=["granted", "released"]), rows.count(deadline=None, pool="one")

    assert await lent.read(step) == (6, 3, 1)


async def test_only_scalar_fields_can_be_asked_for(store: Store) -> None:
    for name in ("machines", "nonsense"):
        with pytest.raises(TypeError, match=f"environments: {name}"):
            await store.read(lambda tables, name=name: tables.environments.where(**{name: "x"}))  # type: ignore[misc]


async def test_flags_and_missing_words_can_be_asked_for(store: Store) -> None:
    await store.write(lambda tables: tables.environments.add(environment("a", retiring=True)))
    await store.write(lambda tables: tables.environments.add(environment("b")))
    assert await store.read(lambda tables: [row.id for row in tables.environments.where(retiring=True)]) == ["a"]
    assert await store.read(lambda tables: tables.commands.where(phase=[Phase.MAIN, None])) == []


async def test_an_exception_undoes_the_whole_step(store: Store) -> None:
    kept = await store.write(lambda tables: tables.hosts.add(host("kept")))

    def step(tables: Tables) -> None:
        tables.hosts.swap(kept, replace(kept, reason="lost"))
        tables.hosts.add(host("lost"))
        tables.events.add(event("e1"))
        tables.history.add(transition("lost"))
        tables.hosts.remove("kept")
        raise Boom

    with pytest.raises(Boom):
        await store.write(step)
    assert await store.read(lambda tables: tables.hosts.where()) == [kept]
    assert await store.read(lambda tables: tables.history.of("leases", "lost")) == []
    await store.write(lambda tables: tables.events.add(event("e2")))
    await store.write(lambda tables: tables.hosts.swap(kept, replace(kept, reason="later")))


async def test_a_failing_step_does_not_touch_the_others_of_its_group(store: Store) -> None:
    def step(number: int) -> Callable[[Tables], int]:
        def run(tables: Tables) -> int:
            tables.hosts.add(host(f"h{number}"))
            if number % 3 == 0:
                raise Boom(number)
            return number

        return run

    answers = await asyncio.gather(*(store.write(step(n)) for n in range(30)), return_exceptions=True)
    assert [isinstance(answer, Boom) for answer in answers] == [number % 3 == 0 for number in range(30)]
    found = await store.read(lambda tables: [row.id for row in tables.hosts.where()])
    assert found == [f"h{number}" for number in range(30) if number % 3]


async def test_a_step_sees_what_earlier_ones_wrote(store: Store) -> None:
    writes = [store.write(lambda tables: tables.hosts.add(host("a")))]
    sees = store.write(lambda tables: tables.hosts.find("a"))
    await asyncio.gather(*writes)
    assert await sees is not None


async def test_a_read_cannot_write(store: Store) -> None:
    for step in (
        lambda tables: tables.hosts.add(host("a")),
        lambda tables: tables.hosts.remove("a"),
        lambda tables: tables.history.add(transition("a")),
        lambda tables: tables.number("runs"),
    ):
        with pytest.raises(RuntimeError, match="written inside a read"):
            await store.read(step)
    assert await store.read(lambda tables: tables.hosts.count()) == 0


async def test_a_thousand_increments_at_once_lose_none(store: Store) -> None:
    await store.write(lambda tables: tables.environments.add(environment("two-1")))

    def step(tables: Tables) -> None:
        old = tables.environments.find("two-1")
        assert old is not None
        tables.environments.swap(old, replace(old, fence=old.fence + 1))

    await asyncio.gather(*(store.write(step) for _ in range(1000)))
    found = await store.read(lambda tables: tables.environments.find("two-1"))
    assert found is not None
    assert (found.fence, found.version) == (1000, 1001)


async def test_numbers_rise_and_are_never_given_twice(place: Place) -> None:
    store = await place.open()
    given: list[int] = []

    def undone(tables: Tables) -> None:
        given.append(tables.number("run"))
        raise Boom

    given.append(await store.write(lambda tables: tables.number("run")))
    with pytest.raises(Boom):
        await store.write(undone)
    given += await asyncio.gather(*(store.write(lambda tables: tables.number("run")) for _ in range(20)))
    assert await store.write(lambda tables: tables.number("lease")) == 1
    await store.close()
    later = await place.open()
    given.append(await later.write(lambda tables: tables.number("run")))
    assert given[0] == 1
    assert sorted(set(given)) == given


async def test_history_is_kept_in_order(store: Store) -> None:
    def step(tables: Tables) -> None:
        for minutes in (2, 0, 1):
            tables.history.add(transition("l1", minutes=minutes, fence=minutes, note=f"{minutes}"))
            tables.history.add(transition("l2", minutes=minutes))
            tables.history.add(transition("l1", noun="runs", minutes=minutes))

    await store.write(step)
    of = await store.read(lambda tables: tables.history.of("leases", "l1"))
    assert of == [transition("l1", minutes=n, fence=n, note=f"{n}") for n in (2, 0, 1)]
    last = await store.read(lambda tables: tables.history.of("leases", "l1", limit=2))
    assert last == of[1:]
    since = await store.read(lambda tables: tables.history.since("leases", NOW + timedelta(minutes=1)))
    assert [(line.id, line.at) for line in since] == [
        (id, NOW + timedelta(minutes=n)) for n in (1, 2) for id in ("l1", "l2")
    ]
    first = await store.read(lambda tables: tables.history.since("runs", NOW, limit=1))
    assert first == [transition("l1", noun="runs")]


async def test_history_is_pruned_by_age(store: Store) -> None:
    for minutes in range(4):
        await store.write(lambda tables, minutes=minutes: tables.history.add(transition("l1", minutes=minutes)))  # type: ignore[misc]
    assert await store.write(lambda tables: tables.history.prune(NOW + timedelta(minutes=2))) == 2
    left = await store.read(lambda tables: tables.history.of("leases", "l1"))
    assert left == [transition("l1", minutes=2), transition("l1", minutes=3)]


async def test_subscribers_are_told_the_last_state_of_each_row(store: Store) -> None:
    told: list[Touched] = []
    store.subscribe(told.extend)

    def step(tables: Tables) -> None:
        first = tables.hosts.add(host("a"))
        tables.hosts.swap(first, replace(first, reason="last"))
        tables.hosts.add(host("b"))
        tables.hosts.remove("b")

    await store.write(step)
    assert told == [
        Touched(noun="hosts", id="a", row=host("a", reason="last", version=2)),
        Touched(noun="hosts", id="b", row=None),
    ]


async def test_subscribers_are_told_before_the_writer_goes_on_and_can_stop(store: Store) -> None:
    told: list[Sequence[Touched]] = []
    stop = store.subscribe(told.append)
    await store.write(lambda tables: tables.hosts.add(host("a")))
    assert len(told) == 1
    stop()
    stop()
    await store.write(lambda tables: tables.hosts.add(host("b")))
    assert len(told) == 1


async def test_subscribers_hear_nothing_of_what_was_undone(store: Store) -> None:
    told: list[Sequence[Touched]] = []
    store.subscribe(told.append)

    def step(tables: Tables) -> None:
        tables.hosts.add(host("a"))
        raise Boom

    with pytest.raises(Boom):
        await store.write(step)
    await store.write(lambda tables: tables.hosts.find("a"))
    assert told == []


async def test_each_start_raises_the_epoch_and_the_birth_stays(place: Place) -> None:
    first = await place.open()
    seen = (first.epoch, first.birth)
    await first.close()
    second = await place.open()
    assert (second.epoch, second.birth) == (seen[0] + 1, seen[1])
    assert seen[1]


async def test_the_epoch_can_be_raised_above_one_that_an_agent_saw(place: Place) -> None:
    store = await place.open()
    assert await store.raise_epoch(41) == 42
    assert await store.raise_epoch(7) == 42
    assert store.epoch == 42
    await store.write(lambda tables: tables.hosts.add(host("a")))
    await store.close()
    assert (await place.open()).epoch == 43


async def test_a_wedged_old_server_cannot_write_after_a_new_one_started(place: Place) -> None:
    old = await place.open()
    await old.write(lambda tables: tables.hosts.add(host("a")))
    new = await place.steal()
    writes = [old.write(lambda tables: tables.hosts.add(host("b"))) for _ in range(3)]
    assert [type(answer) for answer in await asyncio.gather(*writes, return_exceptions=True)] == [Stale] * 3
    with pytest.raises(Stale):
        await old.write(lambda tables: tables.hosts.add(host("c")))
    await new.write(lambda tables: tables.hosts.add(host("d")))
    assert await new.read(lambda tables: [row.id for row in tables.hosts.where()]) == ["a", "d"]


async def test_a_failed_flush_fails_its_whole_group_and_every_write_after_it(place: Place) -> None:
    store = await place.open()
    await store.write(lambda tables: tables.hosts.add(host("kept")))
    told: list[Sequence[Touched]] = []
    store.subscribe(told.append)
    place.fail_commit(store)
    writes = [store.write(lambda tables, n=n: tables.hosts.add(host(f"h{n}"))) for n in range(5)]  # type: ignore[misc]
    assert [type(answer) for answer in await asyncio.gather(*writes, return_exceptions=True)] == [Broken] * 5
    with pytest.raises(Broken, match="nothing more is written"):
        await store.write(lambda tables: tables.hosts.add(host("later")))
    assert told == []
    assert await store.read(lambda tables: [row.id for row in tables.hosts.where()]) == ["kept"]
    await store.close()
    again = await place.open()
    await again.write(lambda tables: tables.hosts.add(host("later")))
    assert await again.read(lambda tables: [row.id for row in tables.hosts.where()]) == ["kept", "later"]


async def test_what_was_answered_is_there_after_a_restart(place: Place) -> None:
    store = await place.open()
    rows = await asyncio.gather(
        *(store.write(lambda tables, n=n: tables.leases.add(lease(f"l{n}", fence=n))) for n in range(50))  # type: ignore[misc]
    )
    await store.close()
    again = await place.open()
    assert await again.read(lambda tables: tables.leases.where()) == rows


async def test_closing_finishes_what_waits_and_refuses_what_comes_after(place: Place) -> None:
    store = await place.open()
    writes = [
        asyncio.create_task(store.write(lambda tables, n=n: tables.hosts.add(host(f"h{n}"))))  # type: ignore[misc]
        for n in range(9)
    ]
    await asyncio.gather(*writes)
    await store.close()
    await store.close()
    with pytest.raises(Broken, match="closed"):
        await store.write(lambda tables: tables.hosts.add(host("late")))
    assert await (await place.open()).read(lambda tables: tables.hosts.count()) == 9


async def test_a_caller_that_gives_up_does_not_disturb_the_others(store: Store) -> None:
    given_up = asyncio.create_task(store.write(lambda tables: tables.hosts.add(host("a"))))
    patient = asyncio.create_task(store.write(lambda tables: tables.hosts.add(host("b"))))
    await asyncio.sleep(0)
    given_up.cancel()
    assert (await patient).id == "b"
    assert (await store.write(lambda tables: tables.hosts.add(host("c")))).id == "c"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_that_no_database_keeps_is_refused(store: Store, text: str) -> None:
    with pytest.raises(Refused, match="cannot be stored"):
        await store.write(lambda tables: tables.hosts.add(host("a", reason=text)))
    stored = await store.write(lambda tables: tables.hosts.add(host("a")))
    with pytest.raises(Refused, match="cannot be stored"):
        await store.write(lambda tables: tables.hosts.swap(stored, replace(stored, reason=text)))
    assert await store.read(lambda tables: tables.hosts.where()) == [stored]


async def test_numbers_that_no_database_keeps_are_refused(store: Store) -> None:
    with pytest.raises(Refused, match="too large"):
        await store.write(lambda tables: tables.environments.add(environment("a", fence=2**63)))
    await store.write(lambda tables: tables.environments.add(environment("a", fence=2**63 - 1)))


async def test_an_event_keeps_its_words_whatever_they_are(store: Store) -> None:
    change = events.Change(
        forge="review", project="ünï/\u2028 \x1b[31m", branch="b", number=9, patchset=2, ref="r", revision="v"
    )
    whys = (events.Why(job="noop", runs=False, reason="'; DROP TABLE events; --"),)
    row = event("e1", raw='{"a": "\U0001f9a5"}', change=change, whys=whys, state=events.State.IGNORED)
    await store.write(lambda tables: tables.events.add(row))
    assert await store.read(lambda tables: tables.events.where(number=0)) == [replace(row, version=1)]


async def test_virtual_machines_come_back_as_they_were_stored(store: Store) -> None:
    node = MachineSettings(
        name="node", image="debian", disks=(5,), nets=(NicSettings(network="private"), NicSettings()), boot=("network",)
    )
    private = NetworkSettings(name="private", latency=timedelta(milliseconds=20), loss=0.05)
    spec = Spec(machines=(node,), networks=(private,), egress=("a.org:80",), start=Start.BOOT, images={"debian": "d1"})
    machine = Machine(
        name="node", agent="two-1.node", addresses=("192.168.80.10",), start="boot", host_key="ssh-ed25519 A"
    )
    size = Size(memory=1 << 40, vcpus=2, disk=3)
    stored = [
        environment(
            "two-1",
            machines=(machine,),
            spec=spec,
            size=size,
            full_disk=3,
            for_templates=1 << 40,
            maker="b1",
            has_saved=True,
            fork_of="two-0",
        ),
        environment("two-2", held_by="run 7 of j", held_for=environments.Left(run="7", job="j")),
    ]
    script = BuildScript(name="greet", run="echo \U0001f9a5", env={"A": "1"}, files={"/etc/motd": "hello\n"})
    chain = (
        Image(name="debian", path="/d", limit=timedelta(minutes=5)),
        Image(name="s", parent="debian", scripts=(script,), egress=("a.org:443",)),
    )
    layer = Layer(digest="d1", image="debian", bytes=5, seconds=1.5, built=NOW)
    image = HostImage(
        id="s@vm-1", image="s", host="vm-1", since=NOW, chain=chain, serving=chain[:1], layers=(layer,), built=NOW
    )

    def add(tables: Tables) -> None:
        for row in stored:
            tables.environments.add(row)
        tables.images.add(image)
        tables.hosts.add(host("vm-1", capacity=size))
        tables.leases.add(lease("l1", fork_of="two-1"))

    await store.write(add)
    assert [replace(row, version=0) for row in await store.read(lambda tables: tables.environments.where())] == stored
    found = await store.read(lambda tables: tables.images.where(host="vm-1"))
    assert [replace(row, version=0) for row in found] == [image]
    assert (await store.read(lambda tables: tables.hosts.where()))[0].capacity == size
    assert await store.read(lambda tables: tables.environments.count(fork_of="two-0")) == 1
    assert await store.read(lambda tables: tables.leases.where(fork_of="")) == []
