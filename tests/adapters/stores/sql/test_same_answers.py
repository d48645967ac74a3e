"""Whatever is done to both, the store on SQL and the one in memory give the same answers."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from paddock.adapters.stores.sql import SqlStore
from paddock.adapters.stores.sql.sqlite import Sqlite
from paddock.core.errors import PaddockError
from paddock.core.event import Event, Kind, State
from paddock.core.history import Transition
from paddock.core.lease import Lease
from paddock.core.lease import State as Held
from paddock.ports import Store, Tables
from paddock.testing import MemoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = st.sampled_from("abcdef")
SMALL = st.integers(0, 3)


class Undo(Exception):
    """The step is to be undone."""


def add_lease(id: str, pool: int, has_deadline: bool) -> Callable[[Tables], object]:
    deadline = NOW + timedelta(minutes=pool) if has_deadline else None
    return lambda tables: tables.leases.add(Lease(id=id, pool=str(pool), holder="x", asked=NOW, deadline=deadline))


def swap_lease(id: str, state: Held, version: int) -> Callable[[Tables], object]:
    def act(tables: Tables) -> object:
        old = tables.leases.find(id)
        if old is None:
            return None
        # Now and then with a version that is over.
        shown = replace(old, version=version) if version else old
        return tables.leases.swap(shown, replace(old, state=state))

    return act


def add_event(id: str, position: int) -> Callable[[Tables], object]:
    row = Event(
        id=id,
        forge="f",
        session="s",
        position=position,
        heard=NOW,
        kind=Kind.OTHER,
        type="x",
        raw="",
        state=State.HEARD,
    )
    return lambda tables: tables.events.add(row)


def move_event(id: str, position: int) -> Callable[[Tables], object]:
    def act(tables: Tables) -> object:
        old = tables.events.find(id)
        return None if old is None else tables.events.swap(old, replace(old, position=position))

    return act


def remove(noun: str, id: str) -> Callable[[Tables], object]:
    return lambda tables: getattr(tables, noun).remove(id)


def remember(id: str, minutes: int) -> Callable[[Tables], object]:
    at = NOW + timedelta(minutes=minutes)
    return lambda tables: tables.history.add(Transition(noun="leases", id=id, at=at, before="a", after="b", signal="c"))


def recall(id: str, limit: int) -> Callable[[Tables], object]:
    return lambda tables: tables.history.of("leases", id, limit=limit)


def look(noun: str, asked: dict[str, Any]) -> Callable[[Tables], object]:
    return lambda tables: (getattr(tables, noun).where(**asked), getattr(tables, noun).count(**_equal(asked)))


def _equal(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if name not in ("limit", "newest", "above", "below")}


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "pool": st.sampled_from("0123") | st.lists(st.sampled_from("0123")),
        "state": st.sampled_from(Held) | st.lists(st.sampled_from(Held)),
        "deadline": st.none() | SMALL.map(lambda n: NOW + timedelta(minutes=n)) | st.just([None, NOW]),
        "limit": st.none() | st.integers(0, 4),
        "newest": st.booleans(),
        "above": IDS,
        "below": IDS,
    },
)
ACTS = st.one_of(
    st.builds(add_lease, IDS, SMALL, st.booleans()),
    st.builds(swap_lease, IDS, st.sampled_from(Held), SMALL),
    st.builds(add_event, IDS, SMALL),
    st.builds(move_event, IDS, SMALL),
    st.builds(remove, st.sampled_from(["leases", "events"]), IDS),
    st.builds(remember, IDS, SMALL),
    st.builds(lambda n: lambda tables: tables.history.prune(NOW + timedelta(minutes=n)), SMALL),
    st.builds(recall, IDS, SMALL),
    st.builds(
        lambda n, limit: lambda tables: tables.history.since("leases", NOW + timedelta(minutes=n), limit=limit),
        SMALL,
        SMALL,
    ),
    st.builds(look, st.just("leases"), ASKED),
    st.just(lambda tables: tables.number("n")),
)
STEPS = st.lists(st.tuples(st.lists(ACTS, max_size=4), st.booleans()), min_size=1, max_size=5)


class SameAnswers(RuleBasedStateMachine):
    """Groups of steps of several acts each, some of them undone, on both stores at once."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.mkdtemp(prefix="paddock-store-")
        path = Path(self.directory) / "store.db"
        shutil.copy(self.template, path)
        self.database = Sqlite(path)
        self.memory: MemoryStore = MemoryStore()
        self.sql = self.runner.run(SqlStore.open(self.database))

    def teardown(self) -> None:
        self.runner.run(self.sql.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    @rule(steps=STEPS)
    def write(self, steps: list[tuple[list[Callable[[Tables], object]], bool]]) -> None:
        assert self.runner.run(_write(self.sql, steps)) == self.runner.run(_write(self.memory, steps))

    @rule(asked=ASKED)
    def ask(self, asked: dict[str, Any]) -> None:
        self._same(look("leases", asked))

    @rule()
    def restart(self) -> None:
        self.runner.run(self.sql.close())
        self.sql = self.runner.run(SqlStore.open(self.database))
        self.memory = self.memory.reopen()
        assert self.sql.epoch == self.memory.epoch

    @invariant()
    def everything_is_the_same(self) -> None:
        self._same(lambda tables: (tables.leases.where(), tables.events.where(), tables.history.since("leases", NOW)))

    def _same(self, step: Callable[[Tables], object]) -> None:
        assert self.runner.run(self.sql.read(step)) == self.runner.run(self.memory.read(step))


async def _write(store: Store, steps: list[tuple[list[Callable[[Tables], object]], bool]]) -> list[object]:
    """What each step of a group was told, and what subscribers heard of all of them."""
    heard: dict[tuple[str, str], object] = {}
    stop = store.subscribe(lambda touched: heard.update({(one.noun, one.id): one.row for one in touched}))

    def step(acts: list[Callable[[Tables], object]], *, is_undone: bool) -> Callable[[Tables], object]:
        def run(tables: Tables) -> object:
            told = [_told(act, tables) for act in acts]
            if is_undone:
                raise Undo
            return told

        return run

    waiting = [store.write(step(acts, is_undone=is_undone)) for acts, is_undone in steps]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    stop()
    return [*(_plain(answer) for answer in answers), heard]


def _told(act: Callable[[Tables], object], tables: Tables) -> object:
    try:
        return act(tables)
    except PaddockError as exc:
        return _plain(exc)


def _plain(answer: object) -> object:
    return (type(answer), str(answer)) if isinstance(answer, Exception) else answer


@pytest.mark.slow
def test_both_stores_give_the_same_answers(template: Path) -> None:
    SameAnswers.template = template
    SameAnswers.TestCase.settings = settings(
        max_examples=30, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
    )
    SameAnswers.TestCase().runTest()
