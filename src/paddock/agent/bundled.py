"""Whether this agent runs out of one file that holds all of it, and which.

Effects: none.
"""

import sys
from pathlib import Path

ARCHIVE = "paddock-agent.pyz"
STANDALONE = "paddock-agent"
PROGRAM = "PADDOCK_AGENT_PROGRAM"
"""Variable with the file that was started, where that unpacked what runs now."""


def program() -> tuple[str, bytes] | None:
    """The file that this process was started from, under the name that it has where it is installed.

    None where Paddock is installed as a package: then nothing else is needed.
    """
    file = Path(sys.argv[0])
    if getattr(sys, "frozen", False):
        return STANDALONE, file.read_bytes()
    if file.suffix == ".pyz" and file.is_file():
        return ARCHIVE, file.read_bytes()
    return None
