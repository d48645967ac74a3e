"""What the validator found, in words for an operator: path, fact, suggestion."""

from collections.abc import Iterable, Mapping
from typing import get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from paddock.settings.marks import Path, Value
from paddock.settings.problems import show, suggest
from paddock.settings.scene import Finding, spell

KEY = "[key]"
"""What the validator appends to a path where a mapping's key is wrong, not its value."""


def word(error: ErrorDetails, shape: type[BaseModel]) -> tuple[Finding, bool]:
    """The place below the item and the fact; True where the key is to blame, not its value."""
    path: Path = error["loc"]
    if path and path[-1] == KEY:
        path = path[:-1]
        return (path, f"{spell(path[:-1])}: {_fact(error)}"), True
    name = spell(path)
    if error["type"] == "extra_forbidden":
        known = _keys(shape, path[:-1])
        around = f"{spell(path[:-1])}: " if path[:-1] else ""
        return (path, f"{around}unknown key {show(path[-1])}{suggest(path[-1], known)}"), True
    if error["type"] == "missing":
        return (path[:-1], f"{name} is missing"), False
    return (path, f"{name} {_fact(error)}".strip()), False


def without(value: Value, paths: Iterable[Path]) -> Value:
    """A copy without the fields that are to blame; a list that holds one goes whole, so that no index moves."""
    return _drop(value, (), {_nearest_key(path) for path in paths})


def _nearest_key(path: Path) -> Path:
    path = path[:-1] if path and path[-1] == KEY else path
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path


def _drop(value: Value, path: Path, dropped: set[Path]) -> Value:
    match value:
        case dict():
            kept = {key: inside for key, inside in value.items() if (*path, key) not in dropped}
            return {key: _drop(inside, (*path, key), dropped) for key, inside in kept.items()}
        case list():
            return [_drop(inside, (*path, index), dropped) for index, inside in enumerate(value)]
    return value


def _fact(error: ErrorDetails) -> str:
    given = show(error["input"])
    context: Mapping[str, object] = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            words = str(context["expected"])
            known = [word.strip("'") for word in words.replace(" or ", ", ").split(", ")]
            wanted = f"one of {', '.join(known)}" if len(known) > 1 else f"{known[0]}, the only choice"
            return f"{given} is not {wanted}{suggest(error['input'], known)}"
        case "list_type":
            return f"{given} is not a list: put it into [ ]"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{given} is not a mapping of keys and values"
        case "bool_type":
            return f"{given} is not true or false"
        case "int_type":
            return f"{given} is not a whole number"
        case "greater_than_equal":
            return f"{given} is less than {context['ge']}"
        case "less_than_equal":
            return f"{given} is more than {context['le']}"
        case "too_short":
            return "is empty"
        case "too_long":
            return f"has more than {context['max_length']} entries"
        case "string_pattern_mismatch":
            return f"{given} does not match {context['pattern']}"
        case _:
            return f"{given}: {error['msg']}"


def _keys(shape: type[BaseModel], path: Path) -> list[str]:
    """The keys that the mapping at `path` below a shape may have."""
    at: type[BaseModel] | None = shape
    for part in path:
        if isinstance(part, str) and at is not None:
            fields = {field.alias or name: field for name, field in at.model_fields.items()}
            at = _shape_within(fields[part].annotation) if part in fields else None
    return [field.alias or name for name, field in at.model_fields.items()] if at else []


def _shape_within(annotation: object) -> type[BaseModel] | None:
    """The shape in `Shape`, `Shape | None`, `list[Shape]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _shape_within(part))), None)
