"""The tables of the store: one a noun, a column a field, and the indexes that queries want."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

import sqlalchemy as sa

from paddock.core.access import Enrolment, Token
from paddock.core.agent import Agent
from paddock.core.alert import Alert
from paddock.core.command import Command
from paddock.core.environment import Environment
from paddock.core.event import Event
from paddock.core.history import Transition
from paddock.core.host import Host
from paddock.core.image import HostImage
from paddock.core.lease import Lease
from paddock.core.report import Report
from paddock.core.results import Results
from paddock.core.round import Round
from paddock.core.run import Run

PLACE = "place"
"""The column that keeps the order in which rows were added."""


class Kind(Enum):
    """How a field is kept."""

    TEXT = "text"
    WORD = "word"
    """A StrEnum, by its value."""
    NUMBER = "number"
    FLAG = "flag"
    SHARE = "share"
    MOMENT = "moment"
    """A datetime: integer microseconds since 1970, UTC."""
    SPAN = "span"
    """A timedelta: integer microseconds."""
    JSON = "json"
    """Whatever is nested, as JSON text."""


ASKABLE = frozenset({Kind.TEXT, Kind.WORD, Kind.NUMBER, Kind.FLAG, Kind.MOMENT})

_TYPES: Mapping[Kind, type[sa.types.TypeEngine[Any]]] = {
    Kind.TEXT: sa.Text,
    Kind.WORD: sa.Text,
    Kind.NUMBER: sa.BigInteger,
    Kind.FLAG: sa.Boolean,
    Kind.SHARE: sa.Double,
    Kind.MOMENT: sa.BigInteger,
    Kind.SPAN: sa.BigInteger,
    Kind.JSON: sa.Text,
}


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a noun and how it is kept."""

    name: str
    kind: Kind
    hint: Any
    """Its type, as Python knows it, without None."""
    is_optional: bool


def kept(noun: type) -> tuple[Field, ...]:
    """The fields of a noun in their order, each with how it is kept."""
    hints = get_type_hints(noun)
    return tuple(_field(field.name, hints[field.name]) for field in fields(noun))


def _field(name: str, hint: Any) -> Field:
    is_optional = isinstance(hint, UnionType) and NoneType in get_args(hint)
    if is_optional:
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    return Field(name=name, kind=_kind(hint), hint=hint, is_optional=is_optional)


def _kind(hint: Any) -> Kind:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Kind.WORD
    scalars = {
        str: Kind.TEXT,
        int: Kind.NUMBER,
        bool: Kind.FLAG,
        float: Kind.SHARE,
        datetime: Kind.MOMENT,
        timedelta: Kind.SPAN,
    }
    return scalars.get(hint, Kind.JSON)


NOUNS: Mapping[str, type] = {
    "events": Event,
    "rounds": Round,
    "runs": Run,
    "results": Results,
    "reports": Report,
    "leases": Lease,
    "environments": Environment,
    "hosts": Host,
    "images": HostImage,
    "agents": Agent,
    "commands": Command,
    "alerts": Alert,
    "tokens": Token,
    "enrolments": Enrolment,
}
"""Table → the class of its rows."""

UNIQUE: Mapping[str, tuple[str, ...]] = {"events": ("forge", "session", "position")}
"""What else than the id names a row."""

INDEXES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "events": (("state",), ("forge", "number"), ("round",)),
    "rounds": (("state",), ("forge", "number"), ("event",)),
    "runs": (("state",), ("round",), ("forge", "number"), ("environment",)),
    "results": (),
    "reports": (("state",),),
    "leases": (("state", "pool"), ("run",)),
    "environments": (("state", "pool"), ("host",)),
    "hosts": (("agent",),),
    "images": (("host",), ("image",)),
    "agents": (("host",), ("environment",), ("token",)),
    "commands": (("agent", "state"), ("run",), ("environment",)),
    "alerts": (("agent", "state"), ("state",)),
    "tokens": (("digest",),),
    "enrolments": (),
    "history": (("noun", "id"), ("noun", "at")),
}
"""Few, because each is written with every row: the state comes first where it is asked for alone, too."""

METADATA = sa.MetaData()


def _place() -> sa.Column[int]:
    # SQLite gives out row numbers by itself only to a column of exactly this type.
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column(PLACE, number, sa.Identity(), primary_key=True)


def _columns(noun: type) -> list[sa.Column[Any]]:
    return [sa.Column(field.name, _TYPES[field.kind](), nullable=field.is_optional) for field in kept(noun)]


def _indexes(table: str) -> list[sa.Index]:
    return [sa.Index(f"{table}_by_{'_'.join(names)}", *names) for names in INDEXES[table]]


def _rows(table: str, noun: type) -> sa.Table:
    uniques = [sa.UniqueConstraint("id", name=f"{table}_id")]
    if table in UNIQUE:
        uniques.append(sa.UniqueConstraint(*UNIQUE[table], name=f"{table}_key"))
    return sa.Table(table, METADATA, _place(), *_columns(noun), *uniques, *_indexes(table))


TABLES: Mapping[str, sa.Table] = {table: _rows(table, noun) for table, noun in NOUNS.items()}
HISTORY = sa.Table("history", METADATA, _place(), *_columns(Transition), *_indexes("history"))
COUNTERS = sa.Table(
    "counters",
    METADATA,
    sa.Column("name", sa.Text(), primary_key=True),
    sa.Column("value", sa.BigInteger(), nullable=False),
)
SERVER = sa.Table(
    "server",
    METADATA,
    sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.BigInteger(), nullable=False),
    sa.Column("birth", sa.Text(), nullable=False),
)
"""One row, of id 1."""
