"""What a package may be called, as each manager writes it; whatever else is refused."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from paddock.wire.fields import BadParams


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """How a manager writes names and versions. Neither can be taken for an option or for anything but a package."""

    manager: str
    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A package that was asked for; without a version any will do."""

    name: str
    version: str = ""


# apt takes `name-` for a removal, `name^` for a task and `*` for many: a last minus, `^` and `*` are no part of a name.
DEBIAN = Grammar(
    manager="apt",
    name=r"[a-z0-9](?:[a-z0-9+.-]*[a-z0-9+.])?(?::[a-z0-9][a-z0-9-]*)?",
    version=r"[0-9][A-Za-z0-9.+:~-]*",
)
# zypper takes a leading `-`, `~` or `!` for a removal, dnf `@` for a group and `/` for a file.
RPM = Grammar(manager="rpm", name=r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", version=r"[A-Za-z0-9_][A-Za-z0-9_.+:~^-]*")
# apk takes `!name` for a conflict, `name@tag` for a repository, `~`, `<` and `>` for ranges.
ALPINE = Grammar(manager="apk", name=r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", version=r"[0-9][A-Za-z0-9_.-]*")


def read(names: Iterable[str], grammar: Grammar, *, versions: bool) -> tuple[Wanted, ...]:
    """The packages that these texts ask for, each once. Raises BadParams, which names the first that is none."""
    found: dict[str, Wanted] = {}
    for index, text in enumerate(names):
        path = f"params.names[{index}]"
        name, sign, version = text.partition("=")
        if not re.fullmatch(grammar.name, name):
            raise BadParams(path, f"{text!r} is no package's name for {grammar.manager}")
        if sign and not versions:
            raise BadParams(path, f"{text!r} names a version, which is not asked here")
        if sign and not re.fullmatch(grammar.version, version):
            raise BadParams(path, f"{text!r} names no version for {grammar.manager}")
        if name in found and found[name].version != version:
            raise BadParams(path, f"{text!r} was named before with another version")
        found[name] = Wanted(name=name, version=version)
    return tuple(found.values())
