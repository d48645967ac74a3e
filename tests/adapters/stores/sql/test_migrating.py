"""The tables that the migrations make are those of the code, and old rows outlive every migration."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from paddock.adapters.stores.sql.migrating import HEAD, known, migrate, scripts, upgrade
from paddock.adapters.stores.sql.schema import METADATA
from paddock.adapters.stores.sql.sqlite import Sqlite
from paddock.core.errors import Refused

pytestmark = pytest.mark.slow  # Alembic takes its time to be imported


@pytest.fixture
def database(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path / "store.db")


@pytest.fixture
def connection(database: Sqlite) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database.migration_url(), creator=database.connect, poolclass=sa.NullPool)
    with engine.connect() as opened:
        yield opened


def test_the_newest_migration_is_the_one_that_is_named() -> None:
    config = Config()
    config.set_main_option("script_location", str(scripts()))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
    assert known()[-1] == HEAD


def test_migrated_tables_are_those_of_the_code(connection: sa.Connection) -> None:
    upgrade(connection)
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    differences = compare_metadata(context, METADATA)
    assert differences == [], "write the migration: ./dev run python tools/migration.py"


@pytest.mark.parametrize("version", known())
def test_rows_of_every_older_version_outlive_the_way_to_the_newest(connection: sa.Connection, version: str) -> None:
    upgrade(connection, version)
    before = _filled(connection)
    upgrade(connection)
    after = {name: _rows(connection, name) for name in before}
    for name, rows in before.items():
        assert [row | after[name][place] for place, row in enumerate(rows)] == after[name]


def test_what_the_words_of_a_holder_said_of_its_run_is_a_field_from_then_on(connection: sa.Connection) -> None:
    upgrade(connection, "0004")
    found = sa.MetaData()
    found.reflect(connection)
    table = found.tables["environments"]
    blank = {column.name: _value(column) for column in table.columns}
    for place, held_by in enumerate(["run 7 of nightly", "anna", ""]):
        connection.execute(sa.insert(table).values(blank | {"place": place, "id": str(place), "held_by": held_by}))
    upgrade(connection)
    told = [row["held_for"] for row in _rows(connection, "environments")]
    assert told == ['{"run": "7", "job": "nightly"}', None, None]


def test_migrating_twice_changes_nothing(database: Sqlite, connection: sa.Connection) -> None:
    migrate(database)
    before = _filled(connection)
    connection.commit()
    migrate(database)
    assert {name: _rows(connection, name) for name in before} == before


def test_tables_of_a_later_paddock_are_refused_and_left_alone(database: Sqlite, connection: sa.Connection) -> None:
    migrate(database)
    connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    connection.commit()
    with pytest.raises(Refused, match="of version 9999, this Paddock knows up to"):
        migrate(database)


def _filled(connection: sa.Connection) -> dict[str, list[dict[str, Any]]]:
    """One row in each table, made from the columns that are there."""
    found = sa.MetaData()
    found.reflect(connection)
    tables = [table for table in found.sorted_tables if table.name != "alembic_version"]
    for table in tables:
        connection.execute(sa.insert(table).values({column.name: _value(column) for column in table.columns}))
    return {table.name: _rows(connection, table.name) for table in tables}


def _value(column: sa.Column[Any]) -> Any:
    if isinstance(column.type, sa.Boolean):
        return True
    return "[]" if isinstance(column.type, sa.Text) else 7


def _rows(connection: sa.Connection, name: str) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in connection.execute(sa.text(f"SELECT * FROM {name}"))]
