"""An agent as a process of its own, for a bench, with a skill of the bench beside it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.clerk import CODE, Clerk

NOOP = "bench.noop"

_SKILL = '''
"""Does nothing, as a command that is journaled."""
from paddock.agent.entry import Outcome
from paddock.agent.skills.skill import Work
from paddock.core.access import Role
from paddock.wire.methods import Effect, Method, Toward

METHODS = (
    Method(name="bench.noop", caption="Nothing.", toward=Toward.AGENT, effect=Effect.ONCE, role=Role.OPERATOR),
)

async def _noop(call):
    return Outcome(result={})

def methods(place):
    return {"bench.noop": Work(act=_noop)}
'''
_POINT = "[paddock.skills]\nbench = paddock_bench_skill\n"


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """An empty directory on the disk of TMPDIR that is gone afterwards, with the skill in it."""
    with tempfile.TemporaryDirectory(prefix="pb", ignore_cleanup_errors=True) as name:
        made = Path(name)
        info = made / "skills" / "paddock_bench_skill-1.dist-info"
        info.mkdir(parents=True)
        (made / "skills" / "paddock_bench_skill.py").write_text(_SKILL)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: paddock-bench-skill\nVersion: 1\n")
        (info / "entry_points.txt").write_text(_POINT)
        yield made


@contextlib.contextmanager
def running(
    clerk: Clerk, place: Path, *, skills: str = "script,file,system,bench"
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that dials the clerk; it is ended by our own hand."""
    words = ["run", "--server", clerk.url, "--state", str(place / "state"), "--code", CODE, "--skills", skills]
    paths = os.pathsep.join([str(place / "skills"), os.environ.get("PYTHONPATH", "")])
    with (place / "agent.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "paddock.agent", *words, "--log-level", "warning"],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)
