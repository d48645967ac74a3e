"""Rows to columns and back: three functions a noun, written when the store is first opened.

Reflection per field and row would cost more than the database does, so the functions are made from source text, as
dataclasses make `__init__`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from paddock.adapters.stores.sql.schema import Field, Kind, kept
from paddock.core.errors import Refused

START = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
LARGEST = 2**63 - 1
"""What a database keeps in an integer column."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How rows of one noun are written to and read from columns, in the order of its fields."""

    fields: tuple[Field, ...]
    encode: Callable[[Any], tuple[Any, ...]]
    """Row → values of all columns. `Refused` for text or numbers that a database cannot keep."""
    changes: Callable[[Any, Any], tuple[tuple[str, ...], list[Any]]]
    """Old row, new row → names and values of the columns that may differ, without version."""
    decode: Callable[[Sequence[Any]], Any]
    """Values of all columns → row."""
    versioned: Callable[[Any, int], Any]
    """The same row with another version."""


@cache
def conversion(noun: type) -> Conversion:
    """The conversion of a noun: a frozen dataclass without slots."""
    fields = kept(noun)
    names = _names(noun, fields)
    exec(_source(fields), names)
    return Conversion(
        fields=fields,
        encode=names["encode"],
        changes=names["changes"],
        decode=names["decode"],
        versioned=names["versioned"],
    )


def moment(value: datetime) -> int:
    """Microseconds since 1970."""
    return (value - START) // TICK


def check_text(noun: str, text: str) -> None:
    """Refuse what no database keeps in a text: NUL, and halves of surrogate pairs."""
    if "\0" in text:
        raise Refused(f"{noun}: a text with a NUL cannot be stored")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise Refused(f"{noun}: a text with half of a surrogate pair cannot be stored") from exc


def _dumper(noun: str) -> Callable[[Any], str]:
    def dump(value: Any) -> str:
        try:
            return to_json(value, inf_nan_mode="constants").decode()
        except PydanticSerializationError as exc:
            raise Refused(f"{noun}: {exc}") from exc

    return dump


def _number_check(noun: str) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not -LARGEST <= value <= LARGEST:
            raise Refused(f"{noun}: {value} is too large to be stored")
        return value

    return check


def _names(noun: type, fields: tuple[Field, ...]) -> dict[str, Any]:
    """What the source text refers to."""
    names: dict[str, Any] = {
        "NOUN": noun,
        "new": object.__new__,
        "START": START,
        "TICK": TICK,
        "span": timedelta,
        "check_text": check_text,
        "LABEL": noun.__name__.lower(),
        "dump": _dumper(noun.__name__.lower()),
        "number": _number_check(noun.__name__.lower()),
    }
    for field in fields:
        if field.kind is Kind.WORD:
            names[f"words_{field.name}"] = {word.value: word for word in field.hint}
        if field.kind is Kind.JSON:
            names[f"load_{field.name}"] = TypeAdapter(field.hint).validate_json
    return names


_ENCODE = {
    Kind.TEXT: "str({v})",
    Kind.WORD: "{v}._value_",
    Kind.NUMBER: "number({v})",
    Kind.FLAG: "{v}",
    Kind.SHARE: "{v}",
    Kind.MOMENT: "({v} - START) // TICK",
    Kind.SPAN: "{v} // TICK",
    Kind.JSON: "dump({v})",
}
_DECODE = {
    Kind.TEXT: "{v}",
    Kind.WORD: "words_{f}[{v}]",
    Kind.NUMBER: "{v}",
    Kind.FLAG: "{v} == 1",
    Kind.SHARE: "{v}",
    Kind.MOMENT: "START + span(0, 0, {v})",
    Kind.SPAN: "span(0, 0, {v})",
    Kind.JSON: "load_{f}({v})",
}


def _source(fields: tuple[Field, ...]) -> str:
    texts = "".join(f"{{row.{field.name}}}" for field in fields if field.kind is Kind.TEXT)
    encode = [
        "def encode(row):",
        f"    check_text(LABEL, f'{texts}')",
        "    return (",
        *(f"        {_expression(_ENCODE, field, f'row.{field.name}')}," for field in fields),
        "    )",
    ]
    changes = [
        "def changes(old, row):",
        "    names = []",
        "    values = []",
        *(line for field in fields if field.name != "version" for line in _change(field)),
        "    return tuple(names), values",
    ]
    # The constructor of a frozen dataclass sets field by field through object.__setattr__: three times the price.
    decode = [
        "def decode(values):",
        f"    {', '.join(f'v{place}' for place in range(len(fields)))} = values",
        "    row = new(NOUN)",
        "    row.__dict__.update({",
        *(f"        '{field.name}': {_expression(_DECODE, field, f'v{place}')}," for place, field in enumerate(fields)),
        "    })",
        "    return row",
    ]
    versioned = [
        "def versioned(old, version):",
        "    row = new(NOUN)",
        "    row.__dict__.update(old.__dict__)",
        "    row.__dict__['version'] = version",
        "    return row",
    ]
    return "\n".join([*encode, *changes, *decode, *versioned])


def _expression(table: dict[Kind, str], field: Field, value: str) -> str:
    plain = table[field.kind].format(v=value, f=field.name)
    return f"None if {value} is None else {plain}" if field.is_optional else plain


def _change(field: Field) -> list[str]:
    name = field.name
    # By identity: `replace` hands on what it does not change, and comparing two large jobs costs more than writing one.
    lines = [f"    if row.{name} is not old.{name}:"]
    if field.kind is Kind.TEXT:
        lines.append(f"        check_text(LABEL, row.{name})")
    return [
        *lines,
        f"        names.append('{name}')",
        f"        values.append({_expression(_ENCODE, field, f'row.{name}')})",
    ]
