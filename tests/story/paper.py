"""Machines on paper: a driver whose machines are a directory and a process each, for stories that want many of them.

A machine is a process of sheet.py; it outlives the host's agent as QEMU does. `python -m tests.story.paper host` is the
host's agent, with this driver for QEMU's. Everything else of the skill is real: images, volumes, templates, records,
networks, and all that is said.
"""

# ruff: noqa: ASYNC110, ASYNC220 - who is looked for is another process, and must outlive us

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from paddock.agent.skills.hypervisor.drivers.qemu import process
from paddock.agent.skills.hypervisor.ports import Plan, Running, Unfit, Voice
from paddock.core.errors import Broken, Refused
from paddock.hands import faults, trees
from paddock.hands.trees import Identity

ROOT = Path(__file__).parents[2]
ORDER = "PADDOCK_PAPER_KILL"
"""A file that holds a crash point: there the host's agent kills its machines, not itself, and removes the file."""
_UP_LIMIT = 20.0
_LOOK_EVERY = 0.01


class Paper:
    """The driver `paper`; see ports.Driver."""

    name = "paper"

    def __init__(self, root: Path, *, instance: str, wanted: str = "auto") -> None:
        self._root = root
        if told := os.environ.get(ORDER):
            setattr(faults, "at", Killer(Path(told), instance, faults.at))  # noqa: B010 - as _host does with the driver

    async def check(self) -> None:
        pass

    async def stamp(self) -> str:
        return "paper 1"

    async def boot(self, plan: Plan) -> None:
        await self._begin(plan)

    async def fork(self, plan: Plan, template: Path, *, voice: Voice | None = None) -> None:
        if not (template / "template.json").is_file():
            raise Unfit(f"{template}: is no template")
        if not named(plan.name):
            await self._begin(plan, "fork")
            if voice is not None:
                await voice.listen()
                await voice.speak()

    async def freeze(self, plan: Plan, template: Path) -> None:
        if not named(plan.name):
            raise Broken(f"{plan.name}: does not run")
        await self.end(plan.directory, plan.name)
        (template / "memory").write_text("what it remembered")
        (template / "template.json").write_text(json.dumps({"name": plan.name}))

    async def power(self, plan: Plan, action: str) -> None:
        if action not in ("off", "shutdown"):
            raise Refused(f"{plan.name}: paper has no button {action}")
        await self.end(plan.directory, plan.name)

    async def wait_off(self, plan: Plan) -> None:
        for one in await asyncio.to_thread(named, plan.name):
            await process.gone(one)

    async def end(self, directory: Path, name: str) -> None:
        def everybody() -> list[Identity]:
            return [*named(name), *trees.inside(directory)]

        await trees.end(everybody, grace=timedelta())
        (directory / "channel").unlink(missing_ok=True)

    async def running(self, instance: str) -> Sequence[Running]:
        return [
            Running(name=name, directory=self._root / "making" / name, pid=one.pid, state="running")
            for one, name in machines()
            if name.startswith(f"paddock-{instance}-")
        ]

    async def screenshot(self, plan: Plan) -> bytes:
        raise Refused(f"{plan.name}: has no display")

    async def _begin(self, plan: Plan, how: str = "boot") -> None:
        if named(plan.name):
            return
        for disk in plan.disks:
            if not disk.path.exists():
                raise Broken(f"{plan.name}: {disk.path}: is not there")
        plan.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (plan.directory / "channel").unlink(missing_ok=True)
        with (plan.directory / "console.log").open("ab") as log:
            log.write(f"{plan.name} is switched on\n".encode())
            subprocess.Popen(
                [sys.executable, "-m", "tests.story.sheet", plan.name, how],
                cwd=plan.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Faults are for the host's agent.
                env={key: value for key, value in os.environ.items() if not key.startswith("PADDOCK_FAULT")},
                start_new_session=True,
            )
        async with asyncio.timeout(_UP_LIMIT):
            while not (plan.directory / "channel").exists():
                await asyncio.sleep(_LOOK_EVERY)


class Killer:
    """In the place of faults.at: kill -9 of all machines of this host, with everything in them, at one crash point."""

    def __init__(self, order: Path, instance: str, passed: Callable[[str], None]) -> None:
        self._order = order
        self._instance = instance
        self._passed = passed

    def __call__(self, point: str) -> None:
        with suppress(FileNotFoundError):
            if self._order.read_text() == point:
                self._kill()
        self._passed(point)

    def _kill(self) -> None:
        """The order is done once somebody was there to be killed."""
        ours = [one for one, name in machines() if name.startswith(f"paddock-{self._instance}-")]
        for one in ours:
            _kill(Path(os.readlink(f"/proc/{one.pid}/cwd")))
        while any(trees.is_alive(one) for one in ours):
            time.sleep(_LOOK_EVERY)
        if ours:
            self._order.unlink()


def _kill(directory: Path) -> None:
    trees.kill(lambda: trees.inside(directory))


def machines() -> list[tuple[Identity, str]]:
    """Every machine that runs, with its name."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:3] == [b"-m", b"tests.story.sheet"]:
            identity = trees.identify(int(entry.name))
            if identity is not None:
                found.append((identity, words[3].decode()))
    return found


def named(name: str) -> list[Identity]:
    """The processes of one machine's name: at most one."""
    return [one for one, called in machines() if called == name]


def _host(words: list[str]) -> None:
    from paddock.agent import __main__ as program
    from paddock.agent.skills.hypervisor import house

    setattr(house, "Qemu", Paper)  # noqa: B010 - the one seam of these stories
    sys.argv[1:] = words
    program.main()


if __name__ == "__main__":
    _host(sys.argv[2:])
