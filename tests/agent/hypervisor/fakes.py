"""A driver without machines: what it runs are tasks, and it misbehaves on request.

It keeps the promises of `ports.Driver` and passes the contract suite of all drivers (test_driver_contract.py). Its
machines live as long as the `Host`, so that a second `FakeDriver` on the same host is an agent that came back.
"""

import asyncio
import errno
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path

from paddock.agent.skills.hypervisor.ports import Plan, Running, Unfit, Voice
from paddock.core.errors import Broken, Refused
from paddock.core.machine import uniform


class Woe(Enum):
    """What goes wrong, once, at the call it was asked for."""

    DIE = auto()
    """It starts and is gone at once: Broken, with its last words."""
    HANG = auto()
    """The call does not come back until it is cancelled; nothing runs afterwards."""
    VANISH = auto()
    """The call succeeds, and right after it the machine's process is gone. Nobody is told."""
    FAIL = auto()
    """Broken, and everything stays as it was."""
    FULL = auto()
    """An OSError: no space is left on the device."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a machine came to run: what its inside is told. `memory` is what it remembers, shared with nobody."""

    plan: Plan
    how: str
    """boot | fork"""
    memory: dict[str, str]
    listens: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by `serve` when its channel may be dialled."""


Inside = Callable[[Start], Awaitable[None]]
"""What runs in a machine: serves its `channel`. When it returns, the machine has powered itself off."""


@dataclass(kw_only=True)
class Machine:
    """One that runs."""

    start: Start
    pid: int
    state: str = "running"
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Host:
    """Processes that outlive agents, by name."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.pids = 4_000_000

    def vanish(self, name: str) -> None:
        """Its process dies, as by kill -9. Idempotent."""
        machine = self.machines.pop(name, None)
        if machine is None:
            return
        for task in machine.tasks:
            task.cancel()
        for socket in ("channel", "console"):
            (machine.start.plan.directory / socket).unlink(missing_ok=True)
        machine.gone.set()

    async def close(self) -> None:
        """No machine is left, and no task of one."""
        tasks = [task for machine in self.machines.values() for task in machine.tasks]
        for name in list(self.machines):
            self.vanish(name)
        await asyncio.gather(*tasks, return_exceptions=True)


class FakeDriver:
    """`calls` has every call, as `boot NAME`, `power NAME off`, in order.

    With `is_dialled` a machine is up when what is inside listens, as a real one's channel does from the start.
    """

    name = "fake"

    def __init__(self, host: Host, inside: Inside | None = None, *, is_dialled: bool = False) -> None:
        self.host = host
        self._is_dialled = is_dialled
        self.calls: list[str] = []
        self._inside = inside or _nothing
        self._woes: list[tuple[str, Woe]] = []

    def misbehave(self, call: str, woe: Woe, *, times: int = 1) -> None:
        """The next `times` calls of this method go wrong: `boot`, `fork`, `freeze`, `power`, `end`, `check`."""
        self._woes += [(call, woe)] * times

    async def check(self) -> None:
        self.calls.append("check")
        if self._woe("check"):
            raise Refused("fake: there is no fake here", hint="install fake")

    async def stamp(self) -> str:
        return "fake 1"

    async def boot(self, plan: Plan) -> None:
        self.calls.append(f"boot {plan.name}")
        await self._begin("boot", plan, {})

    async def fork(self, plan: Plan, template: Path, *, voice: Voice | None = None) -> None:
        self.calls.append(f"fork {plan.name}")
        is_new = plan.name not in self.host.machines
        try:
            memory = json.loads((template / "memory").read_text())
            json.loads((template / "template.json").read_text())
        except (FileNotFoundError, ValueError) as exc:
            raise Unfit(f"{template}: is no template") from exc
        await self._begin("fork", plan, memory)
        if is_new and voice is not None:
            await voice.listen()
            await voice.speak()

    async def freeze(self, plan: Plan, template: Path) -> None:
        self.calls.append(f"freeze {plan.name}")
        machine = self.host.machines.get(plan.name)
        if machine is None:
            raise Broken(f"{plan.name}: does not run")
        if not plan.is_template:
            raise Refused(f"{plan.name}: was not booted to be frozen")
        match self._woe("freeze"):
            case Woe.HANG:
                await asyncio.Event().wait()
            case Woe.FAIL | Woe.DIE:
                raise Broken(f"{plan.name}: cannot be frozen: no space left on device")
            case Woe.FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case Woe.VANISH:
                self.host.vanish(plan.name)
                raise Broken(f"{plan.name}: its process ended while it was frozen")
        _put(template, machine.start)
        self.host.vanish(plan.name)

    async def power(self, plan: Plan, action: str) -> None:
        self.calls.append(f"power {plan.name} {action}")
        if self._woe("power") is Woe.FAIL:
            raise Broken(f"{plan.name}: does not answer its monitor")
        if action not in ("off", "shutdown", "reset", "pause", "resume"):
            raise Refused(f"{plan.name}: there is no button {action}")
        machine = self.host.machines.get(plan.name)
        if action in ("off", "shutdown"):
            self.host.vanish(plan.name)
        elif machine is None:
            raise Refused(f"{plan.name}: is off")
        elif action == "reset":
            await self._reset(machine)
        else:
            machine.state = "paused" if action == "pause" else "running"

    async def wait_off(self, plan: Plan) -> None:
        self.calls.append(f"wait_off {plan.name}")
        machine = self.host.machines.get(plan.name)
        if machine is not None:
            await machine.gone.wait()

    async def end(self, directory: Path, name: str) -> None:
        self.calls.append(f"end {name}")
        match self._woe("end"):
            case Woe.HANG:
                await asyncio.Event().wait()
            case Woe.FAIL | Woe.DIE:
                raise Broken(f"processes: would not die: {name}")
        self.host.vanish(name)
        for socket in ("channel", "console"):
            (directory / socket).unlink(missing_ok=True)

    async def running(self, instance: str) -> Sequence[Running]:
        self.calls.append(f"running {instance}")
        ours = uniform(instance, "") + "-"
        return [
            Running(name=name, directory=machine.start.plan.directory, pid=machine.pid, state=machine.state)
            for name, machine in self.host.machines.items()
            if name.startswith(ours)
        ]

    async def screenshot(self, plan: Plan) -> bytes:
        self.calls.append(f"screenshot {plan.name}")
        if not plan.display:
            raise Refused(f"{plan.name}: has no display")
        if plan.name not in self.host.machines:
            raise Refused(f"{plan.name}: is off")
        return PNG

    def _woe(self, call: str) -> Woe | None:
        found = next((one for one in self._woes if one[0] == call), None)
        if found is not None:
            self._woes.remove(found)
        return found[1] if found else None

    async def _begin(self, how: str, plan: Plan, memory: dict[str, str]) -> None:
        if plan.name in self.host.machines:
            return
        for disk in plan.disks:
            if not disk.path.exists():
                raise Broken(f"{plan.name}: {disk.path}: No such file or directory")
        woe = self._woe(how)
        match woe:
            case Woe.DIE | Woe.FAIL:
                raise Broken(f"{plan.name}: ended at once: cannot set up guest memory")
            case Woe.HANG:
                await asyncio.Event().wait()
        plan.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (plan.directory / "console.log").open("ab") as log:
            log.write(f"{how} of {plan.name}\n".encode())
        self.host.pids += 1
        machine = Machine(start=Start(plan=plan, how=how, memory=dict(memory)), pid=self.host.pids)
        self.host.machines[plan.name] = machine
        self._live(machine)
        if self._is_dialled:
            await machine.start.listens.wait()
        if woe is Woe.VANISH:
            asyncio.get_running_loop().call_soon(self.host.vanish, plan.name)

    def _live(self, machine: Machine) -> None:
        machine.tasks = [asyncio.get_running_loop().create_task(self._inhabit(machine), name=machine.start.plan.name)]

    async def _inhabit(self, machine: Machine) -> None:
        with suppress(asyncio.CancelledError):
            await self._inside(machine.start)
            if self.host.machines.get(machine.start.plan.name) is machine:
                machine.tasks = []
                self.host.vanish(machine.start.plan.name)

    async def _reset(self, machine: Machine) -> None:
        for task in machine.tasks:
            task.cancel()
        await asyncio.gather(*machine.tasks, return_exceptions=True)
        machine.start = replace(machine.start, how="boot", memory={})
        self._live(machine)


def _put(template: Path, start: Start) -> None:
    """`template.json` comes last: without it there is no template."""
    template.mkdir(mode=0o700, parents=True, exist_ok=True)
    (template / "memory").write_text(json.dumps(start.memory))
    (template / "template.json").write_text(json.dumps({"name": start.plan.name}))


async def _nothing(start: Start) -> None:
    await asyncio.Event().wait()


async def serve(start: Start, answer: Callable[[str], str | None]) -> None:
    """An inside that answers lines on the machine's channel, one client after another; None powers it off."""
    off = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            said = answer(line.decode().strip())
            if said is None:
                off.set()
                break
            writer.write(said.encode() + b"\n")
        writer.close()

    handle = os.open(start.plan.directory, os.O_PATH | os.O_DIRECTORY)  # paths of unix sockets are short
    try:
        (start.plan.directory / "channel").unlink(missing_ok=True)
        server = await asyncio.start_unix_server(talk, f"/proc/self/fd/{handle}/channel")
    finally:
        os.close(handle)
    start.listens.set()
    try:
        await off.wait()
    finally:
        server.close()


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f6173855"
    "0000000049454e44ae426082"
)
"""One black pixel."""
