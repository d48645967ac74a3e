"""Whether this agent runs out of one file that holds all of it, and which.

Effects: none.
"""

import sys

from paddock.agent.upgrade.program import running

ARCHIVE = "paddock-agent.pyz"
STANDALONE = "paddock-agent"
PROGRAM = "PADDOCK_AGENT_PROGRAM"
"""Variable with the file that was started, where that unpacked what runs now."""


def program() -> tuple[str, bytes] | None:
    """The file that this process was started from, under the name that it has where it is installed.

    None where Paddock is installed as a package: then nothing else is needed.
    """
    found = running()
    if found is None:
        return None
    return STANDALONE if getattr(sys, "frozen", False) else ARCHIVE, found.path.read_bytes()
