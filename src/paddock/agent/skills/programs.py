"""Where the machine's programs are that a skill runs: package managers, configuration tools.

Effects: none.
"""

import os
import shutil
import sys

_SYSTEM = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def path() -> str:
    """As the agent was started, and what a service manager or a cron may have left out: dpkg wants /sbin.

    Last is where this Python's own programs are: what was installed beside the agent is found.
    """
    known = [place for place in os.environ.get("PATH", "").split(":") if place]
    more = [*_SYSTEM, os.path.dirname(sys.executable)]
    return ":".join(dict.fromkeys([*known, *more]))


def find(*names: str) -> str:
    """The first of these programs that is here, with its path; nothing if none is."""
    return next((found for name in names if (found := shutil.which(name, path=path()))), "")
