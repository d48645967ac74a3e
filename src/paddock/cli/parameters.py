"""Parameters as people type them: `name=value`, `name=@file`, `map.key=value`."""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from paddock.wire import methods
from paddock.wire.methods import Kind, Method, Param, Toward

_TEXTS = frozenset({Kind.TEXT, Kind.NAME, Kind.PATH, Kind.MOMENT})


def gathered(method: str, values: Iterable[str], whole: bytes = b"") -> dict[str, Any]:
    """The params of a command: those of a JSON object first, then each `name=value`.

    What does not fit the table is the server's to refuse; here only what cannot be read at all, or has no such name.
    """
    row = methods.METHODS.get(method)
    params = _whole(whole) if whole else {}
    for typed in values:
        name, equals, value = typed.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{typed!r} is not NAME=VALUE")
        base, dot, key = name.partition(".")
        param = _param(row, base if dot else name)
        if dot and (param is None or param.kind is Kind.MAP):
            entries = params.setdefault(base, {})
            if not isinstance(entries, dict):
                raise click.UsageError(f"{name}: {base} is given as something else than a map, too")
            entries[key] = _read(_element(param), name, value)
        elif param is not None and param.kind is Kind.LIST and not value.lstrip().startswith(("[", "@")):
            entries = params.setdefault(name, [])
            if not isinstance(entries, list):
                raise click.UsageError(f"{name}: it is given as something else than a list, too")
            entries.append(_read(_element(param), name, value))
        else:
            params[name] = _read(param.kind if param is not None else None, name, value)
    if row is not None and row.toward is not Toward.SERVER:
        _refuse_misspelt(row, params)
    return params


def _refuse_misspelt(row: Method, params: dict[str, Any]) -> None:
    try:
        methods.refuse_unknown(row, params)
    except methods.BadParams as exc:
        raise click.UsageError(exc.message) from exc


def _whole(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise click.UsageError(f"--json-params: it is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise click.UsageError("--json-params: it is not an object")
    return found


def _param(row: Method | None, name: str) -> Param | None:
    known = methods.params_of(row) if row is not None else ()
    return next((param for param in known if param.name == name), None)


def _element(param: Param | None) -> Kind | None:
    return param.of if param is not None else None


def _read(kind: Kind | None, name: str, value: str) -> Any:
    """One value; `None`: of a method that only its agent knows, JSON where it reads as JSON."""
    data = _content(name, value)
    if kind is Kind.BYTES:
        return base64.b64encode(data).decode()
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise click.UsageError(f"{name}: it is no text") from exc
    if kind in _TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _content(name: str, value: str) -> bytes:
    """The bytes of a value: of the file after `@`, or its own; `@@` begins one with an `@`."""
    if value.startswith("@@"):
        return value[1:].encode()
    if not value.startswith("@"):
        return value.encode("utf-8", "surrogateescape")
    try:
        return Path(value[1:]).read_bytes()
    except OSError as exc:
        raise click.UsageError(f"{name}: {value[1:]}: {exc.strerror}") from exc
