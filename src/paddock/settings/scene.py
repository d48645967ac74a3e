"""All items of a file at once, for the checks that look at several; how a field is named."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TypeVar

from paddock.settings import shapes
from paddock.settings.marks import Path
from paddock.settings.problems import show, suggest

S = TypeVar("S", bound=shapes.Shape)

Finding = tuple[Path, str]
"""A place below an item, and the fact."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of the list whose shape is right."""

    index: int
    """Its place in the file's list, from 0."""
    kind: str
    title: str
    """`job dsvm`, as messages name it."""
    shape: shapes.Shape


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the file defines, items that are not valid included: one mistake is told once."""

    hosts: frozenset[str]
    images: frozenset[str]
    environments: frozenset[str]
    scripts: frozenset[str]
    jobs: frozenset[str]
    forges: frozenset[str]


NOTHING = Names(
    hosts=frozenset(),
    images=frozenset(),
    environments=frozenset(),
    scripts=frozenset(),
    jobs=frozenset(),
    forges=frozenset(),
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All valid items by kind and name, for the checks that look at several."""

    names: Names
    items: Sequence[Item]
    directory: FilePath
    """What relative paths in the file are relative to."""

    def of(self, kind: type[S]) -> list[S]:
        return [item.shape for item in self.items if isinstance(item.shape, kind)]

    def environment(self, name: str) -> shapes.Environment | None:
        return next((one for one in self.of(shapes.Environment) if one.name == name), None)

    def host(self, name: str | None) -> shapes.Host | None:
        return next((one for one in self.of(shapes.Host) if one.name == name), None)

    def image(self, name: str | None) -> shapes.Image | None:
        return next((one for one in self.of(shapes.Image) if one.name == name), None)

    def projects_of(self, job: str) -> list[shapes.Project]:
        return [one for one in self.of(shapes.Project) if job in (*one.jobs, *one.non_voting_jobs)]

    def forges_of(self, project: shapes.Project) -> list[shapes.Triggers]:
        """The forges whose changes reach a project."""
        return [one for one in self.of(shapes.Triggers) if project.forge in (None, one.name)]


def check_name(path: Path, what: str, name: str, known: frozenset[str]) -> Iterator[Finding]:
    if name not in known:
        yield path, f"{spell(path)}: no {what} {show(name)}{suggest(name, known)}"


def check_unique(what: str, names: Iterable[tuple[Path, str]]) -> Iterator[Finding]:
    seen: set[str] = set()
    for path, name in names:
        if name in seen:
            yield path, f"{spell(path)}: {what} {show(name)} is listed twice"
        seen.add(name)


def spell(path: Path) -> str:
    """`steps[0].on[1]`, as a message names a field."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
