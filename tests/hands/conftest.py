"""Real keepers in a directory of their own; whatever a test leaves behind is ended and makes it fail."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paddock.hands import trees
from paddock.hands.launcher import Launcher, Order, read_group

PATH = os.environ.get("PATH", "/usr/bin:/bin")
SRC = Path(trees.__file__).parents[2]

Ordering = Callable[..., Order]


@pytest.fixture
def ordering(tmp_path: Path) -> Ordering:
    """Makes orders: `ordering("task", "sh", "-c", ...)`; each task has a directory and a mark of its own."""

    def order(task: str, *argv: str, **fields: Any) -> Order:
        fields.setdefault("env", {"PATH": PATH, "PADDOCK_TEST": str(tmp_path)})
        fields.setdefault("cwd", tmp_path)
        fields.setdefault("grace", timedelta(seconds=5))
        return Order(task=f"{tmp_path.name}-{task}", directory=tmp_path / task, argv=argv, **fields)

    return order


@pytest.fixture
def shell(ordering: Ordering) -> Callable[..., Order]:
    """`shell("task", "echo hello")`."""
    return lambda task, script, **fields: ordering(task, "/bin/sh", "-c", script, **fields)


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[Launcher]:
    async with Launcher() as launcher:
        yield launcher
    left = await trees.end(lambda: trees.marked("PADDOCK_TEST", str(tmp_path)), grace=timedelta(0))
    _remove_groups(tmp_path)
    assert left == [], "processes outlived their test"


def _remove_groups(place: Path) -> None:
    """Of keepers that a test has killed."""
    for directory in place.iterdir():
        if (group := read_group(directory)) is not None:
            trees.Cgroup(path=group).remove()


@pytest.fixture
def agent(tmp_path: Path) -> Callable[[str], list[str]]:
    """The command line of an agent that can be killed: `body` runs in a coroutine with `launcher` and `directory`."""

    def command(body: str) -> list[str]:
        lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
        script = tmp_path / "agent.py"
        script.write_text(
            f"""import asyncio, os, sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, {str(SRC)!r})
from paddock.hands.launcher import *
directory = Path({str(tmp_path)!r})
def shell(task, script):
    return Order(task=directory.name + "-" + task, directory=directory / task, argv=("/bin/sh", "-c", script),
        env={{"PATH": {PATH!r}, "PADDOCK_TEST": str(directory)}}, cwd=directory)
async def main():
    async with Launcher() as launcher:
{lines}
asyncio.run(main())
"""
        )
        return [sys.executable, str(script)]

    return command


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "paddock-test", str(place)], check=False)
    if mounted.returncode != 0:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def fill() -> Callable[[Path], None]:
    """Writes a file until its disk is full."""

    def until_full(path: Path) -> None:
        with path.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 1024):
                pass

    return until_full
