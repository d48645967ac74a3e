"""Reads the package as text: its modules, what each imports, which room each stands in."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "src" / "paddock"


@dataclass(frozen=True, kw_only=True)
class Import:
    """One name that a module brings in: `from a.b import c` is a.b and c, `import a.b` is a.b and ""."""

    path: Path
    line: int
    module: str
    name: str

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} imports {self.full}"


def room_modules(room: str, package: Path = PACKAGE) -> list[Path]:
    """Every module of a room; a room that is not there is an error, so that no guard passes on nothing."""
    directory = package / room
    found = sorted(directory.rglob("*.py")) if directory.is_dir() else []
    if not found:
        raise AssertionError(f"{room}: there is nothing to guard")
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, tree: ast.Module, package: Path = PACKAGE) -> Iterator[Import]:
    """Every import wherever it stands: at the top, in a function, under TYPE_CHECKING."""
    inside = ("paddock", *path.relative_to(package).parent.parts)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(path=path, line=node.lineno, module=alias.name, name="")
            case ast.ImportFrom(module=module, names=names, level=level):
                above = inside[: len(inside) - level + 1] if level else ()
                origin = ".".join([*above, *([module] if module else [])])
                for alias in names:
                    yield Import(path=path, line=node.lineno, module=origin, name=alias.name)
