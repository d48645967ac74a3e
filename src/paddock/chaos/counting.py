"""What server and victim have in the end: outputs compared, and whatever was left behind.

Effects: none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from pathlib import Path

from paddock.agent.paths import name_for
from paddock.chaos import checks
from paddock.chaos.giving import Given
from paddock.hands.groups import Ground
from paddock.hands.trees import Cgroup

_READERS = 4
_DESCRIPTORS = 64
"""More than an agent has open that does nothing."""


async def compare(
    output: Callable[[str], Awaitable[bytes]], given: Iterable[Given], *, said_again: Collection[str]
) -> dict[str, str]:
    """What is wrong with each output that was told of, or should have been. One at a time is in memory, per reader.

    `output` gives what the server has of one, `said_again` are the ids that the proxy repeated by itself.
    """
    wanted = [one for one in given if one.end is not None and (one.order.size or one.end["outputs"].get("out"))]
    found: dict[str, str] = {}
    waiting = iter(wanted)

    async def read() -> None:
        for one in waiting:
            id = one.order.id
            found[id] = checks.misprint(await output(id), one, is_said_again=id in said_again)

    await asyncio.gather(*(read() for _ in range(_READERS)))
    return found


def left_behind(state: Path, ids: Iterable[str], *, told: Path, open_files: Iterable[str]) -> list[str]:
    """Files, control groups and descriptors of tasks that are over. `told` is the state as the victim names it."""
    found = [f"file {path.name}/" for path in (state / "tasks").iterdir()]
    found += [f"file tmp/{path.name}" for path in (state / "tmp").iterdir()]
    names = list(open_files)
    found += [f"the agent has {name} open" for name in names if f"{told}/tasks/" in name]
    if len(names) > _DESCRIPTORS:
        found.append(f"the agent has {len(names)} files open")
    home = Cgroup.home()
    if home is not None:
        groups = (Ground(path=home).group_of(told / "tasks" / name_for(id)) for id in ids)
        found += [f"control group {group}" for group in groups if group.exists()]
    return found


def files_put(state: Path) -> dict[str, bytes]:
    """Every file that was put, by its name."""
    place = state / "work" / "put"
    return {path.name: path.read_bytes() for path in place.iterdir()} if place.is_dir() else {}
