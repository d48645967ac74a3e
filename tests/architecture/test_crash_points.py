"""A journaled effect stands between two crash points, so that a story can kill on each side of it."""

import ast
import functools
import re
from itertools import pairwise

import pytest

from tests.architecture.source import PACKAGE, parse

ELSEWHERE = {
    "agent/ledger.py": "agent/worker.py",
    "agent/skills/config/__init__.py": "agent/worker.py",
    "agent/skills/package/__init__.py": "agent/worker.py",
    "agent/skills/script.py": "agent/worker.py",
    "agent/skills/sources.py": "agent/worker.py",
    "agent/skills/tunnel.py": "agent/worker.py",
    "hands/launcher.py": "agent/worker.py",
}
"""Journaled modules whose effect is bracketed by the one that asks for it: no point of their own would add a place."""


def is_journaled(tree: ast.Module) -> bool:
    """Whether the module's docstring says so; `idempotent or journaled by the caller` does not."""
    words = re.search(r"^Effects: (\w+)", ast.get_docstring(tree) or "", re.MULTILINE)
    return words is not None and words.group(1) == "journaled"


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, read once."""
    return {str(path.relative_to(PACKAGE)): parse(path) for path in sorted(PACKAGE.rglob("*.py"))}


def journaled() -> list[str]:
    return [name for name, tree in modules().items() if is_journaled(tree)]


def point(node: ast.AST) -> str | None:
    """The name that a call of `faults.at` passes; None for anything else. A name that is no literal is a mistake."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="faults"), attr="at"), args=[ast.Constant(value=str(name))]):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id="faults"), attr="at")):
            raise AssertionError(f"line {node.lineno}: a crash point is named by a literal")
    return None


def calls(function: ast.AST) -> list[ast.Call]:
    """The calls of a function in the order of their lines, those of functions within it left out."""
    found: list[ast.Call] = []
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            found.append(node)
        waiting += ast.iter_child_nodes(node)
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


def bracketed(tree: ast.Module) -> list[tuple[str, str]]:
    """The pairs of points that follow each other in a function with something that is done between them."""
    pairs = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        marks = [(index, name) for index, call in enumerate(calls(function)) if (name := point(call))]
        pairs += [(first[1], second[1]) for first, second in pairwise(marks) if second[0] - first[0] > 1]
    return pairs


def test_modules_with_journaled_effects_are_found() -> None:
    assert len(journaled()) >= 10
    assert set(ELSEWHERE) <= set(journaled())
    assert not set(ELSEWHERE.values()) & set(ELSEWHERE)


@pytest.mark.parametrize("module", journaled())
def test_a_journaled_effect_has_a_crash_point_on_each_side(module: str) -> None:
    where = ELSEWHERE.get(module, module)

    assert bracketed(modules()[where]), f"{module}: journaled, and no effect in {where} stands between two points"


def test_a_point_names_one_place() -> None:
    """Having passed a point proves something only if there is one place of that name."""
    places: dict[str, list[str]] = {}
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if name := point(node):
                places.setdefault(name, []).append(module)

    assert {name: found for name, found in places.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("source", "pairs"),
    [
        ("def f():\n    act()\n", []),
        ("def f():\n    faults.at('a')\n    act()\n", []),
        ("def f():\n    faults.at('a')\n    faults.at('b')\n    act()\n", []),
        ("def f():\n    faults.at('a')\n    act()\n    faults.at('b')\n", [("a", "b")]),
        ("def f():\n    faults.at('a')\n    def g():\n        act()\n    faults.at('b')\n", []),
    ],
    ids=["no point", "one side", "beside", "each side", "within another function"],
)
def test_the_guard_sees_what_stands_between_points(source: str, pairs: list[tuple[str, str]]) -> None:
    assert bracketed(ast.parse(source)) == pairs


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Effects: journaled (by an intent)", True), ("Effects: idempotent (or journaled)", False), ("Nothing.", False)],
)
def test_the_guard_reads_what_a_docstring_says(text: str, answer: bool) -> None:
    assert is_journaled(ast.parse(f'"""Caption.\n\n{text}\n"""\n')) is answer


def test_a_name_that_is_computed_is_no_point() -> None:
    with pytest.raises(AssertionError, match="literal"):
        bracketed(ast.parse("def f(name):\n    faults.at(name)\n"))
