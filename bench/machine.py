"""The machine that the figures were taken on, in words that name nobody."""

import os
import platform
import sys
import tempfile
from pathlib import Path

BUSY = 0.5
"""Load for each core above which figures say more about the neighbours than about Paddock."""


def describe() -> str:
    """Cores, processor, memory, kernel, Python, and the file system that is synced to."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kernel = f"{platform.system()} {platform.release().split('-')[0]}"
    python = ".".join(str(part) for part in sys.version_info[:3])
    return f"{cores} cores ({_processor()}), {memory:.0f} GiB, {kernel}, Python {python}, {_file_system()}"


def load() -> float:
    """Processes that wanted to run for each core, over the last minute."""
    return os.getloadavg()[0] / len(os.sched_getaffinity(0))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _file_system() -> str:
    """The kind of the file system that holds the benches' directories."""
    directory = Path(tempfile.gettempdir()).resolve()
    kinds = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        kinds[Path(where)] = kind
    return next((kinds[each] for each in (directory, *directory.parents) if each in kinds), "unknown")
