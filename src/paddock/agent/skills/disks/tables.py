"""fstab and crypttab as text: one entry by its exact field, everything else as it is.

Effects: none; who writes them replaces the whole file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from paddock.agent.skills import drafts
from paddock.agent.skills.disks.devices import unescape

FSTAB, CRYPTTAB = Path("/etc/fstab"), Path("/etc/crypttab")


def escape(field: str) -> str:
    """As it may stand in a line."""
    return "".join(f"\\{ord(one):03o}" if one in " \t\n\\#" else one for one in field)


def fields_of(line: str) -> list[str]:
    """The fields of an entry; none for a comment or an empty line."""
    return [] if line.lstrip().startswith("#") else [unescape(field) for field in line.split()]


def entry(text: str, *, column: int, value: str) -> list[str] | None:
    """The entry with exactly this value in a column; the last one counts, as for mount."""
    found = None
    for line in text.splitlines():
        fields = fields_of(line)
        if len(fields) > column and _plain(fields[column]) == _plain(value):
            found = fields
    return found


def with_entry(text: str, fields: Sequence[str], *, column: int) -> str:
    """The table with this entry, in place of those that have the same value in a column; comments stay."""
    wanted = " ".join(escape(field) for field in fields)
    lines, is_there = [], False
    for line in text.splitlines():
        known = fields_of(line)
        if len(known) > column and _plain(known[column]) == _plain(fields[column]):
            if not is_there:
                lines.append(line if known == list(fields) else wanted)
            is_there = True
        else:
            lines.append(line)
    return "".join(f"{line}\n" for line in (lines if is_there else [*lines, wanted]))


def without_entry(text: str, *, column: int, value: str) -> str:
    """The table without the entries that have exactly this value in a column."""
    kept = [
        line
        for line in text.splitlines()
        if len(fields := fields_of(line)) <= column or _plain(fields[column]) != _plain(value)
    ]
    return "".join(f"{line}\n" for line in kept)


def _plain(value: str) -> str:
    return value.rstrip("/") or value


def read(path: Path) -> str:
    """A table's text; empty if there is none. Refused for a link: it would be replaced, and what it names not."""
    with drafts.entered(path.parent) as directory:
        return (drafts.read(directory, path.name) or b"").decode("utf-8", "surrogateescape")


def change(path: Path, edit: Callable[[str], str]) -> bool:
    """Replace a table by what becomes of it, if that is something else; whether it is."""
    before = read(path)
    if (after := edit(before)) == before:
        return False
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    with drafts.entered(path.parent) as directory:
        drafts.replace(directory, path.name, after.encode("utf-8", "surrogateescape"), mode=mode)
    return True
