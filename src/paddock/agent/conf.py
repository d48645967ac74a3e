"""The agent's configuration file: found, read, checked, and written with its comments kept.

Effects: none; whoever has the text writes it.
"""

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from paddock.agent.ini import Ini, Name, commented
from paddock.agent.keys import BASE, KEYS, SECTIONS, Key, seconds
from paddock.core.errors import Missing, Refused

PATH = Path("etc/agent.conf")
"""Where it is below the base."""
VARIABLE = "PADDOCK_AGENT_CONF"
_KNOWN: Mapping[Name, Key] = {key.id: key for key in KEYS}
_HEAD = """\
Configuration of this machine's Paddock agent.

`paddock agent configure -r THIS-FILE` changes values and keeps all else: comments, order, and keys that it does not
know. The agent reads the file when it starts. Neither the enrolment code nor the agent's token ever stands here."""


@dataclass(frozen=True, kw_only=True)
class Conf:
    """One configuration: the file as it is written, and its values, each as its key's check gave it."""

    ini: Ini
    values: Mapping[Name, str]

    @classmethod
    def parse(cls, text: str, *, name: str) -> Self:
        """Read it. Refused with the line for what is no ini file, and with the key for a value that cannot be meant."""
        ini = Ini.parse(text, name=name)
        values = {}
        for key in KEYS:
            written = ini.values.get(key.id, key.default)
            try:
                values[key.id] = key.checked(written)
            except Refused as exc:
                place = ini.places.get(key.id)
                raise Refused(f"{name}:{place.first + 1 if place else 0}: {exc.message}", hint=exc.hint) from exc
        return cls(ini=ini, values=values)

    @classmethod
    def fresh(cls) -> Self:
        """A new one: every key with its explanation and its default."""
        lines = commented(_HEAD)
        for section, about in SECTIONS.items():
            lines += ["", "", f"[{section}]", *commented(about)]
            for key in KEYS:
                if key.section == section:
                    lines += ["", *commented(key.doc), f"{key.name} = {key.default}".rstrip()]
        return cls.parse("\n".join(lines) + "\n", name="agent.conf")

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a file. Missing if there is none."""
        try:
            return cls.parse(path.read_text("utf-8"), name=str(path))
        except FileNotFoundError:
            hint = "paddock agent configure writes one; --config FILE names another"
            raise Missing(f"{path}: does not exist", hint=hint) from None
        except UnicodeDecodeError as exc:
            raise Refused(f"{path}: not UTF-8 at byte {exc.start}") from exc
        except OSError as exc:
            hint = "sudo" if isinstance(exc, PermissionError) else ""
            raise Refused(f"{path}: {exc.strerror}", hint=hint) from exc

    def put(self, changes: Mapping[Name, str]) -> "Conf":
        """With these values, checked; every other line stays. Refused for one that cannot be meant."""
        ini = self.ini
        for id, value in changes.items():
            checked = _KNOWN[id].writable(value)
            if checked != self.values[id]:
                ini = ini.put(id, checked, comment=_KNOWN[id].doc)
        return Conf.parse(ini.text, name="agent.conf")

    def unknown(self) -> list[str]:
        """What nobody reads, each with the line and the likeliest meaning; it is kept."""
        said = []
        for id in self.ini.values:
            if id in _KNOWN:
                continue
            near = difflib.get_close_matches(id[1], [key.name for key in KEYS], n=1)
            meant = f", {near[0]} is" if near else ""
            said.append(f"line {self.ini.places[id].first + 1}: [{id[0]}] {id[1]} is not a key of this agent{meant}")
        return said

    def __getitem__(self, id: str) -> str:
        """A value by `section.key`."""
        section, _, name = id.partition(".")
        return self.values[section, name]

    def section(self, name: str) -> dict[str, str]:
        """What stands in one section, by key."""
        return {key: value for (section, key), value in self.values.items() if section == name}

    def is_set(self, id: str) -> bool:
        """Whether a key that says yes or no says yes."""
        return self[id] == "yes"

    @property
    def base(self) -> Path:
        return Path(self["storage.base"])

    @property
    def state(self) -> Path:
        return Path(self["storage.state"] or self.base / "state")

    @property
    def work(self) -> Path:
        return Path(self["storage.work"] or self.base / "work")

    @property
    def retention(self) -> int:
        """In seconds."""
        return seconds(self["storage.retention"])

    @property
    def skills(self) -> tuple[str, ...]:
        return tuple(self["skills.enabled"].replace(",", " ").split())


def usual() -> Path:
    """Where the configuration is if nobody names it: by a variable, beside this very program, or at the usual base."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    # BASE/bin/paddock-agent.pyz belongs to BASE, wherever that is.
    beside = Path(sys.argv[0]).resolve().parents[1] / PATH if os.sep in sys.argv[0] else None
    return beside if beside is not None and is_there(beside) else Path(BASE) / PATH


def is_there(path: Path) -> bool:
    """Whether a file is there, as far as one can see: one that we may not look at is there, and reading it says why."""
    try:
        return path.is_file()
    except PermissionError:
        return True
