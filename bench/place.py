"""A Paddock of its own for a bench: server and host agent as processes, in a directory that is gone afterwards."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.story.house import LINES, House, house

PATCHSET = next(line for line in LINES if line["type"] == "patchset-created")


@contextlib.contextmanager
def place() -> Iterator[House]:
    """An empty house in a short path (a machine's socket must fit into 108 bytes), on the disk of TMPDIR."""
    with (
        tempfile.TemporaryDirectory(prefix="pb", ignore_cleanup_errors=True) as directory,
        house(Path(directory)) as it,
    ):
        yield it


def start(it: House, rest: str, *, ready: int, **environment: str) -> None:
    """Write the settings, start both (the agent with `environment`), and wait until that many are ready."""
    it.configure(rest)
    it.start_server()
    it.start_agent(**environment)
    it.until(lambda: states(it).count("ready") >= ready, f"{ready} environments are ready", limit=180)


def states(it: House) -> list[str]:
    """The states of all environments."""
    return [one["state"] for one in it.get("environments", limit=200)["items"]]


def token(it: House) -> str:
    return (it.state / "operator.token").read_text().strip()


def port(it: House) -> int:
    return int(it.url.rpartition(":")[2])


def patchset(project: str, number: int) -> Mapping[str, Any]:
    """The event of a new patch set, shaped as Gerrit's."""
    event: dict[str, Any] = json.loads(json.dumps(PATCHSET))
    event["change"] |= {"project": project, "branch": "master", "number": str(number), "id": f"I{number:040x}"}
    event["patchSet"] |= {"number": "1", "ref": f"refs/changes/{number % 100:02}/{number}/1"}
    return event


def resident(pid: int) -> float:
    """Resident memory of a process, in MB (10⁶ bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6
