"""Which package manager a system has: by what it says it is, and what is here to be asked.

Effects: none.
"""

import re
from contextlib import suppress
from pathlib import Path

from paddock.agent.skills import programs
from paddock.agent.skills.package.apk import APK
from paddock.agent.skills.package.apt import APT
from paddock.agent.skills.package.rpm import DNF, ZYPPER
from paddock.agent.skills.package.tool import Tool
from paddock.core.errors import Refused

TOOLS = (APT, DNF, ZYPPER, APK)
_LINE = re.compile(r"""\s*(ID|ID_LIKE)=(?:"([^"]*)"|'([^']*)'|(\S*))\s*""")


def tool_of(root: str) -> Tool:
    """The manager of the running system, or of the one in a directory. Refused if there is none."""
    kin = families(root)
    here = [tool for tool in TOOLS if programs.find(tool.program)]
    fitting = [tool for name in kin for tool in here if name in tool.families]
    if fitting:
        return fitting[0]
    wanted = [tool.program for name in kin for tool in TOOLS if name in tool.families]
    if wanted:
        raise Refused(f"{root or 'this machine'}: is {kin[0]}, and {wanted[0]} is not installed here")
    if root or not here:
        known = ", ".join(tool.program for tool in TOOLS)
        raise Refused(f"{root or 'this machine'}: no package manager that is known ({known})")
    return here[0]


def families(root: str) -> tuple[str, ...]:
    """What a system says it is, itself first and then what it is like; nothing if it does not say."""
    for place in ("etc/os-release", "usr/lib/os-release"):
        with suppress(OSError):
            return _read((Path(root or "/") / place).read_text("utf-8", "replace"))
    return ()


def _read(text: str) -> tuple[str, ...]:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if fitting := _LINE.fullmatch(line):
            found[fitting[1]] = tuple("".join(part or "" for part in fitting.groups()[1:]).lower().split())
    names = (*found.get("ID", ()), *found.get("ID_LIKE", ()))
    # openSUSE calls its editions opensuse-leap, opensuse-tumbleweed.
    return tuple(dict.fromkeys(part for name in names for part in (name, name.partition("-")[0])))
