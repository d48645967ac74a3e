"""What a configuration tool is here: how it is called, and what its end means."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from paddock.wire.framing import JSON

RECORD = "results"
"""The file in the task's directory in which a tool says what it did; what it prints is for people."""


class State(StrEnum):
    """What became of the machine. With `check`, what would have."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is applied: `file` lies in `directory`, which is the task's own."""

    file: Path
    directory: Path
    variables: Mapping[str, JSON] = field(default_factory=dict)
    check: bool = False

    @property
    def record(self) -> Path:
        return self.directory / RECORD


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What an end means, and what the tool counted."""

    state: State
    counts: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One configuration tool: pieces of command lines and tables, nothing that acts."""

    name: str
    programs: tuple[str, ...]
    """Of which the first that is installed is taken."""
    origin: str
    """Where it is to be had."""
    file: str
    command: Callable[[Recipe], tuple[str, ...]]
    """The words after the program."""
    files: Callable[[Recipe], Mapping[str, str]]
    """What it needs beside the recipe, by name in the task's directory."""
    env: Callable[[Recipe], Mapping[str, str]]
    judge: Callable[[Recipe, int], Verdict]
    """From its exit code and its record."""
    refuse: Callable[[Mapping[str, JSON]], str] = lambda variables: ""
    """Why it cannot take these variables: the name of one."""


def read_record(path: Path) -> Mapping[str, JSON] | None:
    """A record that is an object of JSON; None if there is none, or something else."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def numbers(found: object) -> dict[str, JSON]:
    """The whole numbers of an object, by name."""
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {str(name): count for name, count in pairs if isinstance(count, int) and not isinstance(count, bool)}
