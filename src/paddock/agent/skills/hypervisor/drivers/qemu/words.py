"""QEMU's last words, translated: what is wrong, and what to do about it.

Effects: none.
"""

import re
from dataclasses import dataclass

_READABLE = "name one that this host has and may read"
_KNOWN = (
    (r"[Cc]ould not open '([^']*)': No such file", r"there is no disk \1", "whoever made its disks has to do so again"),
    (r"[Ff]ailed to get .*lock", "one of its disks is in use by another process", "is it running twice?"),
    (r"[Ii]s another process using the image", "one of its disks is in use by another process", "is it running twice?"),
    (r"Image is not in (\w+) format", r"one of its disks is no \1", ""),
    (r"could not (?:load kernel|open kernel file) '([^']*)'", r"there is no kernel \1", _READABLE),
    (r"error reading initrd (\S+): ", r"there is no initrd \1", _READABLE),
    (r"(?:Could not access KVM|failed to initialize kvm|kvm\.c:\d+: .*Assertion)", "KVM is not to be had here",
     "is the agent's user in the group kvm? accel = auto takes TCG where there is no KVM"),
    (r"(?:cannot set up guest memory|Cannot allocate memory|failed to allocate)", "the host has no memory for it",
     "let it have less, or book less on this host"),
    (r"(?:Address already in use|Could not set up host forwarding rule)",
     "an address of one of its cards is in use", "which other process has it?"),
    (r"No space left on device", "the disk is full", "what takes the space: paddock image gc"),
    (r"failed to find romfile \"([^\"]*)\"", r"there is no \1 to boot from the network with",
     "on Debian: apt-get install ipxe-qemu"),
)  # fmt: skip
_NOISE = re.compile(r"^(?:\S+: )?(?:warning|info): |^$")
_LONGEST = 500


@dataclass(frozen=True, kw_only=True)
class LastWords:
    """`is_known`: it was translated, and says more than whoever saw the process go."""

    fact: str
    hint: str = ""
    is_known: bool = False


def translate(said: str) -> LastWords:
    """The first line that is known, else the last one that is no warning."""
    for pattern, fact, hint in _KNOWN:
        if found := re.search(pattern, said):
            return LastWords(fact=found.expand(fact), hint=hint, is_known=True)
    left = [line for line in said.strip().splitlines() if not _NOISE.match(line)]
    return LastWords(fact=re.sub(r"^qemu-system-\S+: ", "", left[-1])[:_LONGEST] if left else "it said nothing")
