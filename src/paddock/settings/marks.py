"""YAML as plain values, each with its place; what is ambiguous in YAML is refused.

Only `true`, `false`, `null` and decimal integers are more than text: `on` is a word, `1.10` keeps its nought, and no
tag makes an object.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from paddock.settings.problems import Mark, show

SIZE_MAX = 1024 * 1024
DEPTH_MAX = 20
VALUES_MAX = 50_000
"""Values after aliases are followed: a few lines of aliases of aliases can stand for billions."""

Path = tuple[str | int, ...]
Value = str | int | bool | None | list["Value"] | dict[str, "Value"]


class _Loader(yaml.SafeLoader):
    """Composes nodes; resolves nothing but what `_PLAIN` lists."""


_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "bool": re.compile(r"true|false"),
    "null": re.compile(r"null|~|"),
    "int": re.compile(r"-?(?:0|[1-9][0-9]{0,17})"),
}
_Loader.yaml_implicit_resolvers = {
    None: [(_TAG + name, re.compile(rf"(?:{pattern.pattern})\Z")) for name, pattern in _PLAIN.items()]
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A file's values, and where they stand."""

    value: Value
    values: Mapping[Path, Mark] = field(default_factory=dict)
    keys: Mapping[Path, Mark] = field(default_factory=dict)
    """Where the key of a mapping's entry stands: what is wrong with a key is shown there."""
    found: tuple[tuple[Mark, str], ...] = ()
    """What is wrong already: duplicate keys, tags, keys that are no text."""

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """Where a value (or its key) stands; the nearest value around it where there is none."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Mark(line=1, column=1))


def read(text: str) -> Document:
    """Parse one YAML document. What is not YAML at all is in `found`, with an empty value."""
    if len(text) > SIZE_MAX:
        return _unreadable(Mark(line=1, column=1), f"longer than {SIZE_MAX // 1024} KiB")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        place = exc.problem_mark or exc.context_mark
        mark = Mark(line=place.line + 1, column=place.column + 1) if place else Mark(line=1, column=1)
        return _unreadable(mark, f"not YAML: {exc.problem or exc.context}")
    except yaml.reader.ReaderError as exc:
        # Said to be a character, but it is its number.
        return _unreadable(_mark_of(text, exc.position), f"not YAML: character U+{int(exc.character):04X}")
    except RecursionError:
        return _unreadable(Mark(line=1, column=1), f"nested deeper than {DEPTH_MAX} levels")
    if node is None:
        return _unreadable(Mark(line=1, column=1), "empty")
    reading = _Reading()
    value = reading.convert(node, ())
    return Document(value=value, values=reading.values, keys=reading.keys, found=tuple(reading.found))


def _unreadable(mark: Mark, fact: str) -> Document:
    return Document(value=None, found=((mark, fact),))


def _mark_of(text: str, position: int) -> Mark:
    before = text[:position]
    return Mark(line=before.count("\n") + 1, column=position - (before.rfind("\n") + 1) + 1)


class _Reading:
    """One walk through the nodes of a document."""

    def __init__(self) -> None:
        self.values: dict[Path, Mark] = {}
        self.keys: dict[Path, Mark] = {}
        self.found: list[tuple[Mark, str]] = []
        self._count = 0

    def convert(self, node: yaml.Node, path: Path) -> Value:
        mark = Mark(line=node.start_mark.line + 1, column=node.start_mark.column + 1)
        self.values[path] = mark
        self._count += 1
        if self._count > VALUES_MAX or len(path) > DEPTH_MAX:
            # Once is enough: aliases of aliases would say it a million times.
            if self._count <= VALUES_MAX + 1:
                self._note(mark, f"nested deeper than {DEPTH_MAX} levels or more than {VALUES_MAX} values")
            self._count = max(self._count, VALUES_MAX + 1)
            return None
        match node:
            case yaml.MappingNode():
                return self._convert_mapping(node, path)
            case yaml.SequenceNode():
                return [self.convert(child, (*path, index)) for index, child in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._convert_scalar(node, mark)
        raise AssertionError("YAML has three kinds of nodes")

    def _convert_mapping(self, node: yaml.MappingNode, path: Path) -> Value:
        made: dict[str, Value] = {}
        for key, child in node.value:
            mark = Mark(line=key.start_mark.line + 1, column=key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                self._note(mark, "a key is a word, not a list or a mapping")
                continue
            # As text whatever it looks like: `on` is a key here, not a yes.
            name = str(key.value)
            if name in made:
                self._note(mark, f"key {show(name)} stands here twice, first in line {self.keys[(*path, name)].line}")
                continue
            self.keys[(*path, name)] = mark
            made[name] = self.convert(child, (*path, name))
        return made

    def _convert_scalar(self, node: yaml.ScalarNode, mark: Mark) -> Value:
        text = str(node.value)
        match str(node.tag).removeprefix(_TAG):
            case "str":
                return text
            case "null":
                return None
            case "bool" if text in ("true", "false"):
                return text == "true"
            case "int" if _PLAIN["int"].fullmatch(text):
                return int(text)
            case tag:
                self._note(mark, f"tag {show(tag)} is not taken here")
                return text

    def _note(self, mark: Mark, fact: str) -> None:
        self.found.append((mark, fact))
