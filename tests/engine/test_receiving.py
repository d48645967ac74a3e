"""Receiving: every line is stored once, before anything acts on it."""

from datetime import timedelta

from paddock.core.event import Heard, Kind
from paddock.testing import EPOCH
from tests.engine.scene import CHANGE, Scene


def line(position: int, session: str = "s1", raw: str = '{"type": "change-merged"}') -> Heard:
    return Heard(forge="review", session=session, position=position, at=EPOCH, raw=raw)


def events(scene: Scene) -> list[tuple[str, int]]:
    return scene.look(lambda tables: [(one.session, one.position) for one in tables.events.where()])


async def test_lines_are_stored_in_their_order_under_numbers(empty: Scene) -> None:
    await empty.receiving.hear([line(0), line(1)])
    assert empty.look(lambda tables: [one.id for one in tables.events.where()]) == ["1", "2"]


async def test_the_same_line_heard_twice_is_one_event(empty: Scene) -> None:
    await empty.receiving.hear([line(0), line(1)])
    await empty.receiving.hear([line(1), line(2)])
    assert events(empty) == [("s1", 0), ("s1", 1), ("s1", 2)]


async def test_the_same_line_twice_in_one_hearing_is_one_event(empty: Scene) -> None:
    await empty.receiving.hear([line(0), line(0)])
    assert events(empty) == [("s1", 0)]


async def test_equal_lines_at_two_positions_are_two_events(empty: Scene) -> None:
    await empty.receiving.hear([line(0), line(1)])
    assert len(events(empty)) == 2


async def test_an_event_that_was_acted_on_is_not_acted_on_again_when_it_is_heard_again(scene: Scene) -> None:
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    stored = scene.look(lambda tables: tables.events.where()[0])
    await scene.receiving.hear([line(0, session=stored.session, raw=stored.raw)])
    await scene.settle()
    assert scene.look(lambda tables: tables.rounds.count()) == 1


async def test_a_gap_is_an_event_that_is_explained(empty: Scene) -> None:
    empty.forge.reconnect()
    await empty.settle()
    gap = empty.look(lambda tables: tables.events.where()[0])
    assert (gap.kind, gap.state) == (Kind.GAP, "ignored")
    assert gap.outcome


async def test_the_time_without_a_server_is_a_gap_of_a_stream_that_was_heard_before(empty: Scene) -> None:
    await empty.receiving.note_absence()
    assert events(empty) == []
    await empty.comment("thanks")
    await empty.later(minutes=5)
    await empty.receiving.note_absence()
    gap = empty.look(lambda tables: tables.events.where(newest=True)[0])
    assert gap.kind is Kind.GAP
    assert gap.heard == EPOCH + timedelta(minutes=5)


async def test_a_line_that_nobody_can_read_is_kept_and_explained(empty: Scene) -> None:
    empty.forge.say("{not json")
    await empty.settle()
    event = empty.look(lambda tables: tables.events.where()[0])
    assert (event.kind, event.state, event.raw) == (Kind.OTHER, "ignored", "{not json")


async def test_lines_that_could_not_be_stored_are_not_lost_by_a_conflict(empty: Scene) -> None:
    empty.store.conflict_once("events")
    await empty.comment("thanks", change=CHANGE)
    assert empty.look(lambda tables: tables.events.where()[0].state) == "ignored"
