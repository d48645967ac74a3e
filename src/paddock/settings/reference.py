"""The settings file described: a JSON Schema for editors, a page for people."""

import inspect
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paddock.settings import scalars, shapes

INTRODUCTION = """# Configuration

<!-- Made by `./dev docs` from the code: change it there. -->

One YAML file is a list of items; each item has one key, which says what it is. Their order does not matter. Paths are
relative to the file. `paddock validate FILE` finds everything that is not right, with line and column; unknown keys are
errors. `paddock explain EVENT.json` says which jobs an event would start, and which line decided. `paddock schema`
prints a JSON Schema for editors.

Durations are `90s 10m 2h 7d`, sizes `64KiB 512MiB 2GiB`. Only `true`, `false`, `null` and whole numbers are more than
text. A limit is between 1s and 7d. Names are letters, digits, `.`, `_` and `-`.
"""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a settings file."""
    definitions: dict[str, Any] = {}
    for kind, shape in shapes.ITEMS.items():
        made = shape.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
        definitions.update(made.pop("$defs", {}))
        definitions[kind] = made
    items = [
        {
            "type": "object",
            "properties": {kind: {"$ref": f"#/$defs/{kind}"}},
            "required": [kind],
            "additionalProperties": False,
        }
        for kind in shapes.ITEMS
    ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "paddock.yaml",
        "type": "array",
        "items": {"oneOf": items},
        "$defs": definitions,
    }


def reference() -> str:
    """docs/configuration.md: every item, every key, its default and its meaning."""
    lines = [INTRODUCTION]
    for kind, shape in shapes.ITEMS.items():
        lines += [f"## {kind}", "", inspect.cleandoc(shape.__doc__ or ""), ""]
        lines += ["| key | default | meaning |", "|---|---|---|", *_rows(shape, ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(shape: type[BaseModel], prefix: str) -> Iterator[str]:
    for key, field in _fields(shape):
        inside, many = _inside(field.annotation)
        name = f"{prefix}{key}{'[]' if many else ''}"
        yield f"| `{name}` | {_default(field)} | {_escape(field.description or '')} |"
        # The three lists of steps have one shape: it is told once.
        if inside is not None and not (inside is shapes.Step and key != "before"):
            yield from _rows(inside, f"{name}.")


def _fields(shape: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """A name stands first, wherever it was inherited from."""
    fields = [(field.alias or name, field) for name, field in shape.model_fields.items()]
    return iter(sorted(fields, key=lambda pair: pair[0] != "name"))


def _inside(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """The shape within a field's type, and whether there is a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in get_args(annotation):
        found, _ = _inside(part)
        if found is not None:
            return found, getattr(annotation, "__origin__", None) is list
    return None, False


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ([], {}) or isinstance(value, BaseModel):
        return ""
    return f"`{_escape(_spell(value, is_size=_is_size(field)))}`"


def _is_size(field: FieldInfo) -> bool:
    return any(getattr(part, "func", None) is scalars.parse_size for part in field.metadata)


def _spell(value: object, *, is_size: bool) -> str:
    """A default as one would write it in the file."""
    match value:
        case bool():
            return str(value).lower()
        case timedelta():
            return _largest(int(value.total_seconds()), scalars.SECONDS)
        case int() if is_size:
            return _largest(value, scalars.BYTES)
        case list():
            return f"[{', '.join(str(one) for one in value)}]"
        case _:
            return str(value)


def _largest(amount: int, units: Mapping[str, int]) -> str:
    unit = max((unit for unit in units if amount % units[unit] == 0), key=lambda unit: units[unit])
    return f"{amount // units[unit]}{unit}"


def _escape(text: str) -> str:
    return text.replace("|", r"\|")
