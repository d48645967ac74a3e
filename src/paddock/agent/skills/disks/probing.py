"""What is on a device: its signature, and whether a file system on it is whole.

Effects: none; devices are only read.
"""

import shlex
from dataclasses import dataclass

from paddock.agent.skills import tools

_NOTHING, _AMBIVALENT = 2, 8
_LIMIT = 3600.0
_CHECKS = {
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What libblkid finds at the device itself, not at its pieces. `kind` is ext4, crypto_LUKS, LVM2_member..."""

    kind: str
    label: str = ""
    uuid: str = ""
    table: str = ""
    """The kind of its partition table, if it has one."""

    def __str__(self) -> str:
        named = f" {self.label!r}" if self.label else ""
        return f"{self.kind}{named}"


def signature(path: str) -> Signature | None:
    """None for a device without any. One that looks like two things at once has a signature too."""
    ran = tools.attempt("blkid", "--probe", "--output", "export", path)
    if ran.code == _NOTHING:
        return None
    if ran.code == _AMBIVALENT:
        return Signature(kind="more than one signature")
    if ran.code != 0:
        # Unreadable is not blank.
        return Signature(kind=f"unreadable ({ran.last_words})")
    fields = dict(line.partition("=")[::2] for line in ran.out.splitlines())
    read = {key: "".join(shlex.split(value)) if "\\" in value else value for key, value in fields.items()}
    table = read.get("PTTYPE", "")
    kind = read.get("TYPE") or (f"a partition table ({table})" if table else "")
    if not kind:
        return Signature(kind="an unknown signature") if set(read) - {"DEVNAME", *_OF_A_PIECE} else None
    return Signature(kind=kind, label=read.get("LABEL", ""), uuid=read.get("UUID", ""), table=table)


_OF_A_PIECE = {
    *("PART_ENTRY_SCHEME", "PART_ENTRY_NAME", "PART_ENTRY_UUID", "PART_ENTRY_TYPE", "PART_ENTRY_FLAGS"),
    *("PART_ENTRY_NUMBER", "PART_ENTRY_OFFSET", "PART_ENTRY_SIZE", "PART_ENTRY_DISK"),
    *("BLOCK_SIZE", "FSSIZE", "MINIMUM_IO_SIZE", "OPTIMAL_IO_SIZE", "PHYSICAL_SECTOR_SIZE", "LOGICAL_SECTOR_SIZE"),
    *("DISKSEQ", "ALIGNMENT_OFFSET"),
}
"""What the table of its disk says of a piece, and what the hardware says: no signature."""


def is_whole(path: str, kind: str) -> bool:
    """Whether its own checker finds nothing to mend: what a killed mkfs has left is not whole."""
    return tools.attempt(*_CHECKS[kind], path, limit=_LIMIT).code == 0
