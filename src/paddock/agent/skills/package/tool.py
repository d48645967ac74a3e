"""What a package manager is here: how it lists, acts, and says that others hold its lock."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from paddock.agent.skills.package.names import Grammar, Wanted


class Verb(StrEnum):
    INSTALL = "install"
    REMOVE = "remove"
    UPGRADE = "upgrade"


class Among(StrEnum):
    """Which of a step's names it is given, by what is installed when it starts. Without any left it is left out."""

    ALL = "all"
    ABSENT = "absent"
    PRESENT = "present"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be true of the packages of one system. `root` is that system's directory, empty for the running one.

    `directory` is the task's own, for a manager that wants its configuration in a file.
    """

    verb: Verb
    wanted: tuple[Wanted, ...] = ()
    purge: bool = False
    refresh: bool = False
    root: str = ""
    directory: Path = Path()

    @property
    def plain(self) -> tuple[str, ...]:
        """Those of which any version will do."""
        return tuple(one.name for one in self.wanted if not one.version)

    @property
    def versioned(self) -> tuple[Wanted, ...]:
        """Those of which one version is wanted."""
        return tuple(one for one in self.wanted if one.version)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of the manager: its words, then the names that are left. Without names it runs as it is."""

    words: tuple[str, ...]
    names: tuple[str, ...] | None = None
    among: Among = Among.ALL


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One package manager. What it is made of are pieces of shell and command lines, and nothing that acts.

    `listing` prints name, architecture and version of what is installed below a root, with tabs between. `locked` is
    the condition that others hold the lock: `$1` is how the last try ended, 0 before the first one. `done` is the one
    that a try ended well. `repair` is done before the steps, once the lock is free. `joint` stands between a name and
    its architecture where both are written.
    """

    name: str
    program: str
    families: frozenset[str]
    """What `ID` or `ID_LIKE` of /etc/os-release says where it is at home."""
    grammar: Grammar
    joint: str
    steps: Callable[[Wish], tuple[Step, ...]]
    listing: Callable[[str], str]
    locked: Callable[[str], str]
    done: str = '[ "$1" -eq 0 ]'
    repair: Callable[[str], str] = lambda root: ":"
    known: Callable[[Wish], str] | None = None
    """Names of which a step may speak, where those are more than the installed ones."""
    env: Mapping[str, str] = field(default_factory=dict)
    pause: int = 1
    """Seconds between two looks at the lock."""
    files: Callable[[Wish], Mapping[str, str]] = lambda wish: {}
    """Files that it wants in the task's directory, and the variables that name them: variable to text."""
