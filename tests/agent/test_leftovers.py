"""Ten thousand commands leave no descriptor, no file and no child behind."""

import asyncio
import os
from pathlib import Path

import pytest

from bench import victim
from bench.clerk import Clerk
from paddock.hands import trees

NOOPS, PUTS, SCRIPTS = 9_000, 500, 500
SETTLED_WITHIN = 20.0


def traces(pid: int, place: Path) -> tuple[int, list[str], list[str]]:
    """Descriptors, names of the files of its state and work, and the processes below it."""
    files = sorted(str(path.relative_to(place)) for path in place.rglob("*") if "skills" not in path.parts)
    names = sorted(trees.name(one) for one in trees.descendants(pid))
    return len(os.listdir(f"/proc/{pid}/fd")), files, names


@pytest.mark.slow
async def test_ten_thousand_commands_leave_no_descriptor_no_file_and_no_child() -> None:
    async with Clerk.open() as clerk:
        with victim.directory() as place, victim.running(clerk, place) as process:
            async with asyncio.timeout(30):
                await clerk.welcomed.wait()
            put = {"path": str(place / "put"), "data": "aGVsbG8="}
            await clerk.answers(20, 5, victim.NOOP, {})
            await clerk.answers(20, 5, "file.put", put)
            await clerk.tasks(20, 5, "script.run", {"run": "echo hello"})
            before = await _settled(process.pid, place)

            await clerk.answers(NOOPS, 100, victim.NOOP, {})
            await clerk.answers(PUTS, 20, "file.put", put)
            await clerk.tasks(SCRIPTS, 16, "script.run", {"run": "sleep 0.01 & echo hello"})

            assert await _settled(process.pid, place) == before


async def _settled(pid: int, place: Path) -> tuple[int, list[str], list[str]]:
    """Once the last acknowledged task is cleared away; what stays is found by the comparison."""
    tasks = place / "state" / "tasks"
    deadline = asyncio.get_running_loop().time() + SETTLED_WITHIN
    while asyncio.get_running_loop().time() < deadline:
        if not any(tasks.iterdir()) and not any(trees.name(one) == "paddock-keeper" for one in trees.descendants(pid)):
            break
        await asyncio.sleep(0.05)
    return traces(pid, place)
