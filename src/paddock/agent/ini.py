"""A file of sections, keys and values in which every line stays as somebody wrote it.

Effects: none.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias

from paddock.core.errors import Refused

Name: TypeAlias = tuple[str, str]
"""Section and key."""

_SECTION = re.compile(r"\[([^\[\]]+)\]\s*$")
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)(\s*[=:]\s*)(.*)$")
_PLACE = "each line is [section], key = value, # comment, or indented to go on with the value above"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a value stands: lines `first` up to, without, `end`; what stands before it on the first of them."""

    first: int
    end: int
    before: str


@dataclass(frozen=True, kw_only=True)
class Ini:
    """`values` has what `lines` say. Values of several lines are joined by a space."""

    lines: tuple[str, ...]
    values: Mapping[Name, str]
    places: Mapping[Name, Place]
    ends: Mapping[str, int]
    """After which line a section's last one that is not empty stands."""

    @classmethod
    def parse(cls, text: str, *, name: str) -> Self:
        """Read it. Refused for a line that is none of an ini file's, and for a key that stands there twice."""
        lines = text.removesuffix("\n").split("\n")
        values: dict[Name, str] = {}
        places: dict[Name, Place] = {}
        ends: dict[str, int] = {}
        section, last = "", None
        for number, line in enumerate(lines):
            if not line.strip():
                last = None
                continue
            if found := _SECTION.match(line):
                section, last = found[1].strip(), None
            ends[section] = number + 1
            if found or line.lstrip().startswith(("#", ";")):
                continue
            if line[0].isspace() and last is not None:
                values[last] = f"{values[last]} {line.strip()}".strip()
                places[last] = Place(first=places[last].first, end=number + 1, before=places[last].before)
                continue
            pair = _KEY.match(line)
            if pair is None or not section:
                what = "no section stands above it" if pair is not None else f"not understood: {line.strip()[:60]!r}"
                raise Refused(f"{name}:{number + 1}: {what}", hint=_PLACE)
            last = (section, pair[1])
            if last in values:
                raise Refused(f"{name}:{number + 1}: [{section}] {pair[1]} stands there twice", hint="keep one of both")
            values[last] = pair[3].strip()
            places[last] = Place(first=number, end=number + 1, before=pair[1] + pair[2])
        return cls(lines=tuple(lines), values=values, places=places, ends=ends)

    @property
    def text(self) -> str:
        """The whole file."""
        return "\n".join(self.lines) + "\n"

    def put(self, name: Name, value: str, *, comment: str) -> "Ini":
        """With this value. A key that is there keeps its place; a new one stands last in its section, explained."""
        if self.values.get(name) == value:
            return self
        section, key = name
        lines = list(self.lines)
        place = self.places.get(name)
        if place is not None:
            lines[place.first : place.end] = [f"{place.before.rstrip()} {value}".rstrip()]
        elif section in self.ends:
            lines[self.ends[section] : self.ends[section]] = ["", *commented(comment), f"{key} = {value}".rstrip()]
        else:
            lines += ["", f"[{section}]", "", *commented(comment), f"{key} = {value}".rstrip()]
        return Ini.parse("\n".join(lines), name=f"[{section}] {key}")


def commented(text: str) -> list[str]:
    """As lines of comment."""
    return [f"# {line}".rstrip() for line in text.splitlines()]
