"""Every row of every noun comes back from the columns as it was."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paddock.adapters.stores.sql.conversion import conversion, moment
from paddock.adapters.stores.sql.rows import SqlTables, Transaction
from paddock.adapters.stores.sql.schema import METADATA, NOUNS
from paddock.adapters.stores.sql.statements import SQLITE
from paddock.core.environment import Environment, Machine, State
from paddock.core.errors import Refused
from paddock.core.history import Transition
from tests.adapters.stores.sql.rows import values

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def tables() -> Iterator[SqlTables]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in _ddl():
        connection.execute(statement)
    yield SqlTables(Transaction(connection.cursor()), SQLITE)
    connection.close()


def _ddl() -> list[str]:
    from sqlalchemy.schema import CreateTable

    return [str(CreateTable(table).compile(dialect=SQLITE.compiler)) for table in METADATA.tables.values()]


@pytest.mark.slow
@pytest.mark.parametrize("noun", NOUNS)
@QUICK
@given(data=st.data())
def test_a_row_that_is_stored_comes_back_equal(tables: SqlTables, noun: str, data: st.DataObject) -> None:
    rows, row = getattr(tables, noun), data.draw(values(NOUNS[noun]))
    try:
        assert rows.add(row) == replace(row, version=1)
        assert rows.find(row.id) == replace(row, version=1)
    finally:
        tables.transaction.undo()


@pytest.mark.slow
@pytest.mark.parametrize("noun", NOUNS)
@QUICK
@given(data=st.data())
def test_a_swapped_row_comes_back_equal_whatever_changed(tables: SqlTables, noun: str, data: st.DataObject) -> None:
    rows = getattr(tables, noun)
    old, new = data.draw(values(NOUNS[noun])), data.draw(values(NOUNS[noun]))
    try:
        stored = rows.add(old)
        rows.swap(stored, replace(new, id=old.id))
        assert rows.find(old.id) == replace(new, id=old.id, version=2)
    finally:
        tables.transaction.undo()


@QUICK
@given(line=values(Transition))
def test_a_transition_comes_back_equal(line: Transition) -> None:
    convert = conversion(Transition)
    assert convert.decode(convert.encode(line)) == line


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(at=st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.timezones()))  # noqa: DTZ001
def test_a_moment_is_the_same_in_every_time_zone(at: datetime) -> None:
    assert moment(at) == moment(at.astimezone(UTC))


def test_only_what_changed_is_written() -> None:
    old = Environment(id="a-1", pool="a", host="h", since=NOW, machines=(Machine(name="one", agent="x"),), version=4)
    new = replace(old, state=State.BUILDING, fence=1000, version=9)
    assert conversion(Environment).changes(old, new) == (("state", "fence"), ["building", 1000])


def test_a_row_is_decoded_as_the_constructor_would_have_made_it() -> None:
    convert = conversion(Environment)
    row = Environment(id="a-1", pool="a", host="h", since=NOW)
    decoded = convert.decode(convert.encode(row))
    assert vars(decoded) == vars(row)
    assert type(decoded.state) is State
    with pytest.raises(AttributeError):
        decoded.state = State.READY


@pytest.mark.parametrize("facts", [{"a": "\ud800"}, {"a": object()}])
def test_what_json_cannot_say_is_refused(facts: dict[str, Any], tables: SqlTables) -> None:
    from paddock.core.agent import Agent, Kind

    try:
        with pytest.raises(Refused, match="agent"):
            tables.agents.add(Agent(id="a", name="a", kind=Kind.HOST, facts=facts))
    finally:
        tables.transaction.undo()
