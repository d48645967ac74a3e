"""From a settings file to the configuration, or to everything that is not right about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import ValidationError

from paddock.core.configuration import Configuration
from paddock.core.errors import Broken, Missing
from paddock.settings import marks, shapes
from paddock.settings.checking import check_names, check_rules
from paddock.settings.marks import Document, Path, Value
from paddock.settings.problems import Invalid, Mark, Problem, show, suggest
from paddock.settings.scene import Finding, Item, Names, Scene
from paddock.settings.translation import translate
from paddock.settings.wording import without, word


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A settings file that is in order."""

    configuration: Configuration
    text: str
    """The file as it was read, for whoever shows or compares it."""


def load(path: FilePath) -> Loaded:
    """Read and check a settings file; paths in it are relative to its directory.

    `Missing` if there is none, `Broken` if it cannot be read, `Invalid` with every problem if it is not right.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise Missing(f"{path}: no such file", hint="write one: docs/configuration.md") from exc
    except OSError as exc:
        raise Broken(f"{path}: {exc.strerror}") from exc
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        mark = Mark(line=line, column=column)
        raise Invalid(str(path), [_problem(str(path), mark, "not UTF-8")]) from exc
    return read(text, name=str(path), directory=path.absolute().parent)


def read(text: str, *, name: str = "paddock.yaml", directory: FilePath) -> Loaded:
    """Check the text of a settings file called `name`; `Invalid` with every problem if it is not right."""
    document = marks.read(text)
    reading = _Reading(document, name, directory)
    items = reading.items()
    if reading.problems:
        raise Invalid(name, sorted(reading.problems, key=lambda problem: (problem.mark, problem.message)))
    # Pages show where a decision was made, but not where on this machine the file lies.
    label = FilePath(name).name

    def where(item: Item, path: Path) -> str:
        mark = document.mark((item.index, item.kind, *path)) if path else document.mark((item.index,))
        return f"{label}:{mark.line}:{mark.column}"

    configuration = translate(items, where=where, directory=directory, path=name)
    return Loaded(configuration=configuration, text=text)


def _problem(name: str, mark: Mark, message: str) -> Problem:
    return Problem(where=f"{name}:{mark.line}:{mark.column}", mark=mark, message=message)


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """One entry of the list that is of a known kind, valid or not."""

    index: int
    kind: str
    value: Value

    @property
    def name(self) -> str:
        name = self.value.get("name") if isinstance(self.value, dict) else None
        return name if isinstance(name, str) else ""

    @property
    def title(self) -> str:
        return f"{self.kind} {show(self.name).strip(chr(34))}" if self.name else self.kind


class _Reading:
    """Collects the problems of one document on the way to its items."""

    def __init__(self, document: Document, name: str, directory: FilePath) -> None:
        self._document = document
        self._name = name
        self._directory = directory
        self.problems: list[Problem] = []
        self._maimed: list[Item] = []

    def items(self) -> list[Item]:
        """The valid items; whatever is not right was added to the problems."""
        for mark, fact in self._document.found:
            self._say(mark, fact)
        raws = list(self._raws())
        self._check_twice(raws)
        items = [item for raw in raws if (item := self._validate(raw)) is not None]
        scene = Scene(names=_names(raws), items=items, directory=self._directory)
        for item in items:
            self._say_findings(item, check_names(item, scene))
            self._say_findings(item, check_rules(item, scene))
        # What an item that is not valid names is looked at too, so that one correction is enough.
        for item in self._maimed:
            self._say_findings(item, check_names(item, scene))
        return items

    def _say_findings(self, item: Item, findings: Iterator[Finding]) -> None:
        for path, fact in findings:
            self._say(self._document.mark((item.index, item.kind, *path)), f"{item.title}: {fact}")

    def _raws(self) -> Iterator[_Raw]:
        value = self._document.value
        if not isinstance(value, list):
            if not self._document.found:
                self._say(Mark(line=1, column=1), "the file is a list of items, like `- job: {name: ...}`")
            return
        for index, entry in enumerate(value):
            if not isinstance(entry, dict) or len(entry) != 1:
                self._say(
                    self._document.mark((index,)),
                    f"an item has one key, which says what it is: {', '.join(shapes.ITEMS)}",
                )
                continue
            kind, inside = next(iter(entry.items()))
            if kind not in shapes.ITEMS:
                mark = self._document.mark((index, kind), key=True)
                self._say(mark, f"unknown item {show(kind)}{suggest(kind, shapes.ITEMS)}")
                continue
            yield _Raw(index=index, kind=kind, value=inside)

    def _check_twice(self, raws: list[_Raw]) -> None:
        """Names of one kind are unique; forges of all kinds share theirs; a project may have several entries."""
        first: dict[tuple[str, str], int] = {}
        for raw in raws:
            mark = self._document.mark((raw.index,))
            space = "forge" if raw.kind in shapes.FORGES else raw.kind
            if space == "project" or not (raw.name or space == "server"):
                continue
            if (space, raw.name) in first:
                self._say(mark, f"{raw.title}: stands here twice, first in line {first[space, raw.name]}")
            first.setdefault((space, raw.name), mark.line)

    def _validate(self, raw: _Raw) -> Item | None:
        shape = shapes.ITEMS[raw.kind]
        # `- server:` with nothing below it is an empty one.
        value = {} if raw.value is None else raw.value
        try:
            return Item(index=raw.index, kind=raw.kind, title=raw.title, shape=shape.model_validate(value))
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
        for error in errors:
            (path, fact), is_key = word(error, shape)
            mark = self._document.mark((raw.index, raw.kind, *path), key=is_key)
            self._say(mark, f"{raw.title}: {fact}")
        sound = without(value, [error["loc"] for error in errors])
        try:
            maimed = shape.model_validate(sound)
        except ValidationError:
            return None
        self._maimed.append(Item(index=raw.index, kind=raw.kind, title=raw.title, shape=maimed))
        return None

    def _say(self, mark: Mark, message: str) -> None:
        self.problems.append(_problem(self._name, mark, message))


def _names(raws: list[_Raw]) -> Names:
    def of(*kinds: str) -> frozenset[str]:
        return frozenset(raw.name for raw in raws if raw.kind in kinds and raw.name)

    return Names(
        hosts=of("host"),
        images=of("image"),
        environments=of("environment"),
        scripts=of("script"),
        jobs=of("job"),
        forges=of(*shapes.FORGES),
    )
