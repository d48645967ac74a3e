"""Machines in QEMU processes that outlive the agent: boot, fork, freeze, power.

Effects: idempotent; process.py keeps the journal. A start that is cut short is ended and begun again, and a freeze
leaves a template that is whole or none.
"""

import asyncio
import os
import platform
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor.drivers.qemu import (
    accel,
    command,
    freezing,
    idling,
    kernels,
    process,
    qmp,
    screens,
)
from paddock.agent.skills.hypervisor.drivers.qemu.command import Accelerator, Start
from paddock.agent.skills.hypervisor.drivers.qemu.freezing import Frozen
from paddock.agent.skills.hypervisor.drivers.qemu.process import CHANNEL, CONSOLE, MONITOR, Listening, Processes
from paddock.agent.skills.hypervisor.drivers.qemu.qmp import Command, Gone, Monitor
from paddock.agent.skills.hypervisor.ports import Plan, Running, Unfit, Voice
from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock.core.machine import uniform
from paddock.hands.trees import Identity

_UP = timedelta(seconds=60)
"""Until QEMU takes commands, or has restored a machine: 25 ms, 80 ms, on a host that has time for it."""
_LOOK = timedelta(seconds=2)
_QUITTING = timedelta(seconds=60)
_IDLES_WITHIN = timedelta(seconds=10)
"""Until a machine that is to be frozen has nothing to do; one whose services never rest is frozen all the same."""
_BUTTONS = {"shutdown": "system_powerdown", "reset": "system_reset", "pause": "stop", "resume": "cont"}
_SCREEN = "screen.ppm"


class Qemu:
    """The driver `qemu`. `root` is the skill's directory, `wanted` the configured accelerator: auto, kvm or tcg."""

    name = "qemu"

    def __init__(self, root: Path, *, instance: str, wanted: str = "auto") -> None:
        self._root = root
        self._processes = Processes()
        self._turns: weakref.WeakValueDictionary[Path, asyncio.Lock] = weakref.WeakValueDictionary()
        self._choice = accel.Choice(root, wanted, lambda tried: self._probe(root, instance, tried))

    async def check(self) -> None:
        """Refused, saying what is missing and what to do, where it cannot run machines at all."""
        if platform.machine() != "x86_64":
            raise Refused(f"qemu: machines are x86_64 here, and this host is {platform.machine()}")
        try:
            tools.find(command.PROGRAM, package="qemu-system-x86")
        except Missing as exc:
            raise Refused(exc.message, hint=exc.hint) from exc
        self._choice.check()

    async def stamp(self) -> str:
        """What frozen memory depends on."""
        return accel.stamp((await self._choice.made()).accelerator)

    async def accelerator(self) -> accel.Chosen:
        """What machines run with, and why it is not KVM."""
        return await self._choice.made()

    # Starting

    async def boot(self, plan: Plan) -> None:
        """Power it on. Idempotent."""
        await self._boot(plan, (await self._choice.made()).accelerator)

    async def _boot(self, plan: Plan, accelerator: Accelerator) -> None:
        if not await self._is_wanted(plan):
            return
        async with self._starting(plan):
            with Listening(plan.directory) as sockets:
                self._spawn(plan, accelerator, sockets, uuid=process.identity_of(plan.directory, plan.name))
            async with self._monitor(plan) as monitor:
                await monitor.greet(limit=_UP)

    async def fork(self, plan: Plan, template: Path, *, voice: Voice | None = None) -> None:
        """Run it from a template's state. It keeps the template's UUID, which is in its memory, at its next boots too:
        an agent inside that found another one would believe that it was copied.
        """
        if not await self._is_wanted(plan):
            return
        accelerator = (await self._choice.made()).accelerator
        frozen = freezing.check(template, Frozen.of(plan, stamp=accel.stamp(accelerator)))
        async with self._starting(plan):
            with ExitStack() as given:
                state = freezing.opened(template)
                given.callback(os.close, state)
                sockets = given.enter_context(Listening(plan.directory))
                if voice is not None:
                    await voice.listen()
                self._spawn(plan, accelerator, sockets, uuid=frozen.uuid, memory=template / command.MEMORY, state=state)
            async with self._monitor(plan) as monitor:
                await self._restore(monitor, plan, state)
                if voice is not None:
                    await voice.speak()
                await monitor.ask("cont")

    async def _restore(self, monitor: Monitor, plan: Plan, state: int) -> None:
        fact = f"{plan.name}: its memory and devices cannot be restored"
        try:
            await monitor.ask_all(freezing.restoring(state), limit=_UP)
            ended = await monitor.event(freezing.is_over, limit=_UP)
        except Gone as exc:
            raise Unfit(fact) from exc
        if freezing.status_of(ended) != "completed":
            raise Unfit(fact)

    async def _is_wanted(self, plan: Plan) -> bool:
        """Whether it has to be started. What is left of a start that was cut short is ended."""
        command.check(plan)
        if self._processes.is_up(plan.directory, plan.name):
            return False
        if self._processes.find(plan.directory, plan.name) is not None:
            await self._processes.end(plan.directory, plan.name)
        await self._processes.left(plan.directory, plan.name)
        plan.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return True

    def _spawn(
        self,
        plan: Plan,
        accelerator: Accelerator,
        sockets: Listening,
        *,
        uuid: str,
        memory: Path | None = None,
        state: int | None = None,
    ) -> None:
        kernel, initrd = kernels.lean(self._root, plan)
        plan = replace(plan, kernel=kernel, initrd=initrd)
        if plan.is_template:
            (plan.directory / command.MEMORY).unlink(missing_ok=True)
        start = Start(
            accelerator=accelerator,
            uuid=uuid,
            monitor=sockets[MONITOR],
            channel=sockets[CHANNEL],
            console=sockets[CONSOLE],
            memory=memory,
        )
        self._processes.start(
            plan.directory,
            plan.name,
            command.command(plan, start),
            sockets,
            plan.environment,
            files=[] if state is None else [state],
            uuid=uuid,
        )

    @asynccontextmanager
    async def _starting(self, plan: Plan) -> AsyncIterator[None]:
        """A start that is whole, or of which nothing is left. Broken with QEMU's last words."""
        try:
            yield
            self._processes.done(plan.directory)
        except BaseException as exc:
            # Its own reason is better than that of whoever saw it go.
            await self._processes.end(plan.directory, plan.name)
            if isinstance(exc, PaddockError):
                said = self._processes.last_words(plan.directory)
                if isinstance(exc, Unfit) and not said.is_known:
                    raise Unfit(f"{exc.message}: {said.fact}") from exc
                if isinstance(exc, Gone) or said.is_known:
                    raise Broken(f"{plan.name}: does not start: {said.fact}", hint=said.hint) from exc
            raise

    # Freezing

    async def freeze(self, plan: Plan, template: Path) -> None:
        """Its memory file becomes the template's; what was in the machine's directory beside its disks stays there."""
        if not plan.is_template:
            raise Refused(f"{plan.name}: was not booted to be frozen")
        found = self._processes.find(plan.directory, plan.name)
        if found is None:
            raise Broken(f"{plan.name}: does not run")
        await idling.until_idle(found, limit=_IDLES_WITHIN)
        async with self._monitor(plan) as monitor:
            await monitor.greet()
            version = await monitor.ask("query-version")
            await freezing.freeze(monitor, template)
            with suppress(Gone):
                await monitor.ask("quit")
        await self._quit(plan)
        uuid = process.identity_of(plan.directory, plan.name)
        frozen = Frozen.of(plan, stamp=await self.stamp(), version=_shown(version), uuid=uuid)
        await asyncio.to_thread(freezing.seal, plan.directory, template, frozen)
        self._processes.forget(plan.directory)

    async def _quit(self, plan: Plan) -> None:
        """In order, so that its disks are closed, and for certain."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_QUITTING.total_seconds()):
                await self.wait_off(plan)
        await self._processes.end(plan.directory, plan.name)

    # Running

    async def power(self, plan: Plan, action: str) -> None:
        """Press a button. Refused, but for those that switch off, where it is off."""
        if action == "off":
            await self._processes.end(plan.directory, plan.name)
            return
        if action not in _BUTTONS:
            raise Refused(f"{plan.name}: there is no button {action}", hint=", ".join(["off", *_BUTTONS]))
        try:
            async with self._monitor(plan) as monitor:
                await monitor.greet()
                await monitor.ask(_BUTTONS[action])
        except Gone as exc:
            if action != "shutdown":
                raise Refused(f"{plan.name}: is off", hint="power it on first") from exc

    async def wait_off(self, plan: Plan) -> None:
        """Until its process is gone."""
        found = self._processes.find(plan.directory, plan.name)
        if found is not None:
            await process.gone(found)
        await self._processes.left(plan.directory, plan.name)

    async def end(self, directory: Path, name: str) -> None:
        """It does not run, and its process is gone, proven."""
        await self._processes.end(directory, name)
        self._processes.forget(directory)

    async def running(self, instance: str) -> Sequence[Running]:
        """Every machine of this instance that runs on the host, whoever started it."""
        ours = uniform(instance, "") + "-"
        found = await asyncio.to_thread(lambda: [one for one in process.everyone() if one[1].startswith(ours)])
        told = await asyncio.gather(*(self._running(*one) for one in found))
        return [one for one in told if one is not None]

    async def _running(self, found: Identity, name: str) -> Running | None:
        state = "running"
        try:
            directory = process.directory_of(found)
        except Missing:
            return None
        # One that does not answer is there all the same.
        with suppress(PaddockError):
            async with self._turn(directory), qmp.opened(directory / MONITOR, name) as monitor:
                await monitor.greet(limit=_LOOK)
                told = await monitor.ask("query-status", limit=_LOOK)
                state = "running" if isinstance(told, dict) and told["status"] == "running" else "paused"
        return Running(name=name, directory=directory, pid=found.pid, state=state)

    async def screenshot(self, plan: Plan) -> bytes:
        """What its display shows, as a PNG. Refused where it has none."""
        if not plan.display:
            raise Refused(f"{plan.name}: has no display", hint="display: true gives it one")
        try:
            async with self._monitor(plan) as monitor:
                await monitor.greet()
                await monitor.ask_all([Command(execute="screendump", arguments={"filename": _SCREEN})])
        except Gone as exc:
            raise Refused(f"{plan.name}: is off", hint="power it on first") from exc
        return await asyncio.to_thread(_picture, plan.directory / _SCREEN)

    @asynccontextmanager
    async def _monitor(self, plan: Plan) -> AsyncIterator[Monitor]:
        async with self._turn(plan.directory), qmp.opened(plan.directory / MONITOR, plan.name) as monitor:
            yield monitor

    def _turn(self, directory: Path) -> asyncio.Lock:
        """QEMU's monitor speaks with one client at a time."""
        return self._turns.setdefault(directory, asyncio.Lock())

    async def _probe(self, root: Path, instance: str, tried: Accelerator) -> None:
        from paddock.agent.skills.hypervisor.errands import probing  # only where it is needed

        await probing.probe(self, lambda plan: self._boot(plan, tried), root, instance)


def _picture(path: Path) -> bytes:
    try:
        return screens.png(path.read_bytes())
    finally:
        path.unlink(missing_ok=True)


def _shown(version: object) -> str:
    if not isinstance(version, dict):
        return ""
    told = version["qemu"]
    return ".".join(str(told[part]) for part in ("major", "minor", "micro")) + str(version.get("package", ""))
