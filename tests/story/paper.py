"""Machines on paper: a driver whose machines are a directory and a process each, for stories that want many of them.

`python -m tests.story.paper machine NAME` is a machine: a port, and behind it a real agent that is parked. It outlives
the host's agent as QEMU does. `python -m tests.story.paper host ...` is the host's agent, with this driver for QEMU's.
Everything else of the skill is real: images, volumes, templates, records, networks, and all that is said.
"""

# ruff: noqa: ASYNC110, ASYNC220 - who is looked for is another process, and must outlive us

import asyncio
import json
import os
import select
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
from paddock.wire.framing import SESSION_OPENING
from tests.agent.berth import MACHINE
from tests.agent.lines import Hypervisor

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
                [sys.executable, "-m", "tests.story.paper", "machine", plan.name, how],
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
        if words[1:4] == [b"-m", b"tests.story.paper", b"machine"]:
            identity = trees.identify(int(entry.name))
            if identity is not None:
                found.append((identity, words[4].decode()))
    return found


def named(name: str) -> list[Identity]:
    """The processes of one machine's name: at most one."""
    return [one for one, called in machines() if called == name]


async def _live(how: str) -> None:
    """A machine, in the present directory: until it goes off. A fork is served once it is parked, in that session."""
    here = Path.cwd()
    root = here / "guest"
    for path, text in MACHINE.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    port = Hypervisor(Path("channel"))
    words = ["run", "--line", f"virtio:{port.device}", "--parked", "--rootfs", str(root)]
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "paddock.agent", *words, "--state", str(here / "guest-state")), cwd=here
    )
    if how == "fork":
        await asyncio.to_thread(_until_parked, port)
    async with port.open():
        told = root / "run/paddock/told"
        while agent.returncode is None and not (told.exists() and "off\n" in told.read_text()):
            await asyncio.sleep(0.05)
        if agent.returncode is None:
            agent.kill()
            await agent.wait()


def _until_parked(port: Hypervisor) -> None:
    """As its template's host left it: in a session, parked, with nothing on the line."""
    heard = b""
    os.write(port.guest_end, SESSION_OPENING.encode())
    while b'"parked"' not in heard or not heard.endswith(b"\n"):
        select.select([port.guest_end], [], [], 1)
        with suppress(BlockingIOError):
            heard += os.read(port.guest_end, 4096)


def _host(words: list[str]) -> None:
    from paddock.agent import __main__ as program
    from paddock.agent.skills.hypervisor import house

    setattr(house, "Qemu", Paper)  # noqa: B010 - the one seam of these stories
    sys.argv[1:] = words
    program.main()


if __name__ == "__main__":
    if sys.argv[1] == "machine":
        asyncio.run(_live(sys.argv[3]))
    else:
        _host(sys.argv[2:])
