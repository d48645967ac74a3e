"""Writes the pages of docs/ that are made from the code: the map of modules, the lifecycles."""

import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from paddock import core, settings
from paddock.core import variables
from paddock.core.table import Table
from paddock.wire import methods

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "paddock"
# From the bottom up, as a newcomer reads: what a thing is, how it speaks, who moves it, who sees it.
READING_ORDER = ("core", "wire", "hands", "ports", "engine", "adapters", "doors", "agent", "client", "web", "testing")
NOTE = "<!-- Made by `./dev docs` from the code: change it there. -->"


def caption(module: Path) -> str:
    """Return the first docstring line of a module, or "" where it has none."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"), str(module)))
    return docstring.splitlines()[0] if docstring else ""


def modules() -> list[Path]:
    """Every module of the package, as paths in the source tree."""
    return sorted(PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    """The name of the room a module stands in: its directory below the package, or its own name."""
    first = module.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def _reading_position(name: str) -> tuple[int, str]:
    return (READING_ORDER.index(name) if name in READING_ORDER else len(READING_ORDER), name)


def draw_map() -> str:
    """Return docs/map.md: one line a module, grouped by room."""
    rooms: dict[str, list[Path]] = {}
    programs = []
    for module in modules():
        if module.parent == PACKAGE:
            programs.append(module)
        else:
            rooms.setdefault(room(module), []).append(module)
    lines = ["# Map", "", NOTE, "", caption(PACKAGE / "__init__.py"), ""]
    for name in sorted(rooms, key=_reading_position):
        entrance = PACKAGE / name / "__init__.py"
        lines += [f"## {name}", ""]
        if entrance in rooms[name]:
            lines += [caption(entrance), ""]
        lines += _lines(path for path in rooms[name] if path != entrance)
    lines += ["## At the top", ""]
    lines += _lines(path for path in programs if path.name != "__init__.py")
    return "\n".join(lines).rstrip() + "\n"


def _lines(paths: Iterator[Path]) -> list[str]:
    listed = [f"- `{path.relative_to(PACKAGE).as_posix()}`: {caption(path)}" for path in paths]
    return [*listed, ""] if listed else []


def tables() -> Mapping[str, Table[StrEnum, StrEnum]]:
    """Every transition table of the core by its name; two of one name are refused."""
    import paddock.core

    found: dict[str, Table[Any, Any]] = {}
    for module in pkgutil.walk_packages(paddock.core.__path__, "paddock.core."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Table) and found.setdefault(value.name, value) is not value:
                raise SystemExit(f"{value.name}: two tables have this name")
    return dict(sorted(found.items()))


def draw_states() -> str:
    """Return docs/states.md: a drawing and a table of each lifecycle."""
    lines = ["# States", "", NOTE, ""]
    lines += ["A state changes only along these tables; whatever is not listed is refused.", ""]
    for name, table in tables().items():
        lines += [f"## {name}", "", "```mermaid", "stateDiagram-v2", f"    [*] --> {table.initial}"]
        lines += [f"    {before} --> {after}: {signal}" for (before, signal), after in table.steps.items()]
        lines += [f"    {state} --> [*]" for state in sorted(table.final)]
        lines += ["```", "", "| from | signal | to |", "|---|---|---|"]
        lines += [f"| {before} | {signal} | {after} |" for (before, signal), after in sorted(table.steps.items())]
        lines += ["", f"Final: {', '.join(sorted(table.final)) or 'none'}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def draw_glossary() -> str:
    """The words, out of the caption of the room of nouns."""
    words = [line.partition(": ") for line in (core.__doc__ or "").splitlines() if re.match(r"[a-z]+: ", line)]
    rows = [f"| **{word}** | {meaning} |" for word, _, meaning in sorted(words)]
    intro = "One word per idea: the same in code, database, API, terminal, pages and documentation."
    return "\n".join(["# Glossary", "", NOTE, "", intro, "", "| word | meaning |", "|---|---|", *rows]) + "\n"


def draw_methods() -> str:
    """The table of methods, as agents and server check it."""
    lines = [
        "# Methods",
        "",
        NOTE,
        "",
        "What the two ends of the agent protocol ask of each other; see protocol.md.",
        "",
    ]
    for row in methods.describe():
        if row["method"]:
            marks = f", {row['marks']}" if row["marks"] else ""
            lines += ["", f"## `{row['method']}`", "", row["caption"], ""]
            lines += [
                f"To the {row['toward']}; effect `{row['effect']}`{marks}; role {row['role']}. Result: {row['result']}"
            ]
            continue
        if lines[-1].startswith("To the"):
            lines += ["", "| param | kind | needed | bounds | default | what |", "|---|---|---|---|---|---|"]
        kind = f"{row['kind']}, {row['unit']}" if row["unit"] else row["kind"]
        cells = (f"`{row['param']}`", kind, row["needed"], row["bounds"], row["default"], row["doc"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/map.md": draw_map,
    "docs/states.md": draw_states,
    "docs/configuration.md": settings.reference,
    "docs/variables.md": variables.reference,
    "docs/glossary.md": draw_glossary,
    "docs/methods.md": draw_methods,
}


def main() -> int:
    for path, draw in PAGES.items():
        target = ROOT / path
        fresh = draw()
        if target.exists() and target.read_text(encoding="utf-8") == fresh:
            print(f"{path}: is current")
            continue
        target.write_text(fresh, encoding="utf-8")
        print(f"{path}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
