"""Real agents as processes of their own, and the small server that they speak with."""

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from paddock.agent import identity
from paddock.agent.skills.local.machines import _short
from paddock.hands import trees
from paddock.hands.launcher import read_keeper
from tests import warm
from tests.agent.desk import CODE, Desk

SOURCE = Path(__file__).resolve().parents[2] / "src"


class Host:
    """A host's agent as a process; it can be killed and started again on its state."""

    def __init__(self, desk: Desk, state: Path) -> None:
        self.desk = desk
        self.state = state
        self.process: warm.Process | None = None
        self.log = state.parent / "host.log"
        self.env: dict[str, str] = {}

    def start(self, *more: str, **env: str) -> None:
        """On our desk, if no other server or line is among the words; no cloud is asked if none is named."""
        words = ["run", *more, "--state", str(self.state)]
        words += [] if {"--server", "--line"} & set(more) else ["--server", self.desk.url]
        words += [] if {"--cloud", "--metadata-url"} & set(more) else ["--cloud", "none"]
        words += [] if "--code" in more else ["--code", CODE]
        with self.log.open("ab") as log:
            self.process = warm.start(
                [sys.executable, "-m", "paddock.agent", *words],
                env={**os.environ, "PYTHONPATH": str(SOURCE), **self.env, **env},
                log=log,
                is_mute=True,
            )

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def machine(self, environment: str, machine: str) -> Path:
        return self.state / "machines" / environment / machine

    def machine_state(self, environment: str, machine: str) -> Path:
        return self.machine(environment, machine) / "agent"

    def machine_agent(self, environment: str, machine: str) -> trees.Identity | None:
        return identity.signed_in(self.machine_state(environment, machine))

    def clear(self) -> None:
        """End whatever is left of it, by what stands in our own directory, and remove its machines' control groups."""
        self.kill()
        self._end_processes()
        for directory in self.state.glob("machines/*/*"):
            _remove(trees.Cgroup(path=group_of(directory)))

    def _end_processes(self) -> None:
        for _ in range(50):
            left = trees.inside(self.state)
            for signed in self.state.glob("machines/*/*/agent"):
                found = identity.signed_in(signed)
                if found is not None:
                    left += [found, *trees.descendants(found.pid)]
            for directory in (*self.state.glob("tasks/*"), *self.state.glob("machines/*/*/agent/tasks/*")):
                keeper = read_keeper(directory)
                if keeper is not None and trees.is_alive(keeper):
                    left += [keeper, *trees.descendants(keeper.pid)]
            if not left:
                return
            trees.kill(lambda found=left: found)  # type: ignore[misc]


def _remove(group: trees.Cgroup) -> None:
    """Until the last of its processes is reaped, it is not empty."""
    deadline = time.monotonic() + 5
    while group.path.exists() and time.monotonic() < deadline:
        group.remove()
        time.sleep(0.005)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk().open() as opened:
        yield opened


@pytest.fixture
def host(desk: Desk, tmp_path: Path) -> Iterator[Host]:
    made = Host(desk, tmp_path / "state")
    yield made
    made.clear()
    assert [trees.name(one) for one in trees.inside(tmp_path) if one.pid != os.getpid()] == []
    assert [group for name in ("one", "two") if (group := group_of(made.machine("e-1", name))).exists()] == []


def group_of(directory: Path) -> Path:
    """Where the control group of a machine would be."""
    return (trees.Cgroup.home() or Path("/nowhere")) / f"paddock-{_short(str(directory))}"
