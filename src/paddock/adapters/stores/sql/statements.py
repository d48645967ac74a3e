"""The statements of the store, built once and kept as the text that the driver takes.

Running a built statement through SQLAlchemy costs eight times what running its text costs.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.sql.expression import ClauseElement

from paddock.adapters.stores.sql.conversion import moment
from paddock.adapters.stores.sql.schema import (
    ASKABLE,
    COUNTERS,
    HISTORY,
    NOUNS,
    PLACE,
    SERVER,
    TABLES,
    UNIQUE,
    Kind,
    kept,
)

QUERIES_LIMIT = 2000
"""How many texts of `where` are kept for one noun; the engine's own questions are a few dozen."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One database's way to write statements, with values by position."""

    name: str
    compiler: sa.engine.Dialect
    insert: Any
    mark: str
    """What stands for a value."""

    def text(self, statement: ClauseElement, names: Sequence[str], *, is_limited: bool = False) -> str:
        """The driver's text, whose values are in the order of `names`, and a limit as the last where there is one."""
        compiled = statement.compile(dialect=self.compiler)
        order = getattr(compiled, "positiontup", None) or []
        if list(order) != list(names):
            raise AssertionError(f"values are in the order {order}, not {list(names)}")
        # By hand: the compiler for SQLite would add an offset, with a value of its own.
        return f"{compiled} LIMIT {self.mark}" if is_limited else str(compiled)


SQLITE = Dialect(name="sqlite", compiler=sqlite.dialect(paramstyle="qmark"), insert=sqlite.insert, mark="?")
POSTGRESQL = Dialect(
    name="postgresql",
    compiler=cast(Any, psycopg.PGDialect_psycopg)(paramstyle="format"),
    insert=postgresql.insert,
    mark="%s",
)


@cache
def statements_of(dialect: Dialect, table: str) -> "Statements":
    """The texts for a table: built once, however many connections use them."""
    return Statements(dialect, table)


class Statements:
    """The texts for the rows of one noun."""

    def __init__(self, dialect: Dialect, table: str) -> None:
        self._dialect = dialect
        self._name = table
        self._table = TABLES[table]
        fields = kept(NOUNS[table])
        self._columns = [self._table.c[field.name] for field in fields]
        self._askable = {field.name: field.kind for field in fields if field.kind in ASKABLE}
        self._updates: dict[tuple[str, ...], str] = {}
        self._queries: dict[object, str] = {}
        names = [field.name for field in fields]
        self.insert = dialect.text(
            dialect.insert(self._table).values({name: sa.bindparam(name) for name in names}).on_conflict_do_nothing(),
            names,
        )
        by_id = self._table.c.id == sa.bindparam("id")
        self.find = dialect.text(sa.select(*self._columns).where(by_id), ["id"])
        self.remove = dialect.text(sa.delete(self._table).where(by_id), ["id"])
        self.unique = UNIQUE.get(table, ())
        self.taken = self._taken() if self.unique else ""

    def update(self, names: tuple[str, ...]) -> str:
        """Set the named columns; then version, id and the version that is expected."""
        text = self._updates.get(names)
        if text is None:
            values: dict[Any, Any] = {self._table.c[name]: sa.bindparam(f"new_{name}") for name in (*names, "version")}
            statement = (
                sa.update(self._table)
                .where(self._table.c.id == sa.bindparam("old_id"), self._table.c.version == sa.bindparam("old_version"))
                .ordered_values(*values.items())
            )
            order = [*(f"new_{name}" for name in names), "new_version", "old_id", "old_version"]
            text = self._updates[names] = self._dialect.text(statement, order)
        return text

    def where(
        self,
        equal: Mapping[str, Any],
        *,
        limit: int | None,
        newest: bool,
        above: str | None,
        below: str | None,
    ) -> tuple[str, list[Any]] | None:
        """The text of a query and its values; None where no row can match."""
        shape, values = self._shape(equal)
        if _NOTHING in {wanted[1:] for wanted in shape}:
            return None
        bounds = (limit is not None, newest, above is not None, below is not None)
        text = self._queries.get((shape, bounds)) or self._keep((shape, bounds), self._where(shape, *bounds))
        values += [value for value in (above, below, limit) if value is not None]
        return text, values

    def count(self, equal: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
        """The text of a count and its values; None where no row can match."""
        shape, values = self._shape(equal)
        if _NOTHING in {wanted[1:] for wanted in shape}:
            return None
        return self._queries.get(shape) or self._keep(shape, self._count(shape)), values

    def _shape(self, equal: Mapping[str, Any]) -> tuple[tuple[tuple[str, int, bool], ...], list[Any]]:
        """What makes the text of a query: name, how many values, and whether None is one of them, for each field."""
        shape: list[tuple[str, int, bool]] = []
        values: list[Any] = []
        for name, wanted in equal.items():
            kind = self._askable.get(name)
            if kind is None:
                raise TypeError(f"{self._name}: {name} is no field that can be asked for")
            if type(wanted) in _AS_IT_IS:
                shape.append((name, 1, False))
                values.append(wanted)
                continue
            asked = _asked(kind, wanted)
            given = [value for value in asked if value is not None]
            shape.append((name, len(given), len(given) < len(asked)))
            values += given
        return tuple(shape), values

    def _keep(self, key: object, text: str) -> str:
        if len(self._queries) >= QUERIES_LIMIT:
            self._queries.clear()
        self._queries[key] = text
        return text

    def _where(
        self,
        shape: tuple[tuple[str, int, bool], ...],
        is_limited: bool,
        newest: bool,
        has_above: bool,
        has_below: bool,
    ) -> str:
        place = self._table.c[PLACE]
        conditions, names = self._conditions(shape)
        statement = sa.select(*self._columns).where(*conditions)
        if has_above:
            statement = statement.where(place > self._place_of("above"))
        if has_below:
            statement = statement.where(place < self._place_of("below"))
        statement = statement.order_by(place.desc() if newest else place)
        bounds = [name for name, is_wanted in (("above", has_above), ("below", has_below)) if is_wanted]
        return self._dialect.text(statement, names + bounds, is_limited=is_limited)

    def _count(self, shape: tuple[tuple[str, int, bool], ...]) -> str:
        conditions, names = self._conditions(shape)
        return self._dialect.text(sa.select(sa.func.count()).select_from(self._table).where(*conditions), names)

    def _conditions(self, shape: tuple[tuple[str, int, bool], ...]) -> tuple[list[sa.ColumnElement[bool]], list[str]]:
        conditions: list[sa.ColumnElement[bool]] = []
        names: list[str] = []
        for name, count, or_none in shape:
            column = self._table.c[name]
            params = [f"{name}_{number}" for number in range(count)]
            names += params
            bound = [sa.bindparam(param, type_=column.type) for param in params]
            choices: list[sa.ColumnElement[bool]] = []
            if bound:
                choices.append(column == bound[0] if len(bound) == 1 else column.in_(bound))
            if or_none:
                choices.append(column.is_(None))
            conditions.append(sa.or_(*choices))
        return conditions, names

    def _place_of(self, name: str) -> sa.ScalarSelect[Any]:
        other = self._table.alias(name)
        return sa.select(other.c[PLACE]).where(other.c.id == sa.bindparam(name)).scalar_subquery()

    def _taken(self) -> str:
        matches = [self._table.c[name] == sa.bindparam(name) for name in self.unique]
        statement = sa.select(self._table.c.id).where(*matches, self._table.c.id != sa.bindparam("id"))
        return self._dialect.text(statement, [*self.unique, "id"])


_NOTHING = (0, False)
"""The shape of a field that is asked for by an empty sequence."""
_AS_IT_IS = (str, int)
"""Types whose values the drivers take as they are, whatever field is asked for."""


def _asked(kind: Kind, wanted: Any) -> list[Any]:
    """The wanted values as the database keeps them; several are filled up to a power of two, so that texts are few."""
    if not isinstance(wanted, Collection) or isinstance(wanted, str):
        return [_kept_value(kind, wanted)]
    values = list(dict.fromkeys(_kept_value(kind, value) for value in wanted))
    given = [value for value in values if value is not None]
    if given:
        values += [given[-1]] * ((1 << (len(given) - 1).bit_length()) - len(given))
    return values


def _kept_value(kind: Kind, value: Any) -> Any:
    if value is None:
        return None
    if kind is Kind.MOMENT:
        return moment(value) if isinstance(value, datetime) else value
    if kind is Kind.FLAG:
        return bool(value)
    return value.value if isinstance(value, Enum) else value


class HistoryStatements:
    """The texts for the history."""

    def __init__(self, dialect: Dialect) -> None:
        columns = [column for column in HISTORY.c if column.name != PLACE]
        names = [column.name for column in columns]
        place = HISTORY.c[PLACE]
        of_noun = HISTORY.c.noun == sa.bindparam("noun")
        at = sa.bindparam("at", type_=sa.BigInteger())
        lines = sa.select(*columns)
        self.insert = dialect.text(sa.insert(HISTORY).values({name: sa.bindparam(name) for name in names}), names)
        self.of = dialect.text(
            lines.where(of_noun, HISTORY.c.id == sa.bindparam("id")).order_by(place.desc()),
            ["noun", "id"],
            is_limited=True,
        )
        self.since = dialect.text(
            lines.where(of_noun, HISTORY.c.at >= at).order_by(HISTORY.c.at, place),
            ["noun", "at"],
            is_limited=True,
        )
        self.prune = dialect.text(sa.delete(HISTORY).where(HISTORY.c.at < at), ["at"])


class ServerStatements:
    """The texts for counters and for the store's own row."""

    def __init__(self, dialect: Dialect) -> None:
        name: Any = sa.bindparam("name")
        value: Any = sa.bindparam("value", type_=sa.BigInteger())
        epoch: Any = sa.bindparam("epoch", type_=sa.BigInteger())
        upsert = dialect.insert(COUNTERS).values(name=name, value=value)
        self.count = dialect.text(
            upsert.on_conflict_do_update(index_elements=["name"], set_={"value": upsert.excluded.value}),
            ["name", "value"],
        )
        self.counted = dialect.text(sa.select(COUNTERS.c.value).where(COUNTERS.c.name == name), ["name"])
        # For update: on PostgreSQL nobody raises the epoch between this look and our commit. SQLite has one writer.
        self.look = dialect.text(sa.select(SERVER.c.epoch, SERVER.c.birth).with_for_update(), [])
        self.found = dialect.text(
            sa.insert(SERVER).values(id=sa.literal_column("1"), epoch=epoch, birth=sa.bindparam("birth")),
            ["epoch", "birth"],
        )
        self.raise_epoch = dialect.text(sa.update(SERVER).values(epoch=epoch), ["epoch"])
