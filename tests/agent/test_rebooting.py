"""A reboot: called at most once for a command, complete with a new boot id, failed without one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.agent.entry import Moment
from paddock.agent.ledger import Ledger
from paddock.agent.settings import Settings, prepare
from paddock.agent.skills import Skills
from paddock.agent.skills.skill import Place
from paddock.agent.skills.system import rebooting
from paddock.agent.worker import Worker
from paddock.core.errors import Refused
from paddock.hands import faults
from paddock.hands.keeper import boot_id
from paddock.hands.launcher import Launcher
from paddock.wire.framing import JSON
from paddock.wire.hello import Status
from paddock.wire.messages import Command, Success
from paddock.wire.methods import METHODS

pytestmark = pytest.mark.slow

AFTER = ("reboot.calling", "reboot.noted", "reboot.called")


class Machine:
    """An agent's worker on a state, that may die and be born again; who calls for a reboot is counted."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(state=directory / "state", work=directory / "work")
        self.boot = boot_id()
        self.calls: list[str] = []
        self.loaded: list[JSON] = []
        self.refusal = ""
        self.statuses: list[Status] = []
        self.called = asyncio.Event()

    def pull(self, reason: str) -> None:
        self.calls.append(reason)

    def load(self, told: JSON) -> None:
        self.loaded.append(told)
        if self.refusal:
            raise Refused(self.refusal)

    def jump(self, reason: str) -> None:
        self.calls.append(f"jump: {reason}")

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[Worker]:
        prepare(self.settings)
        ledger = Ledger.open(self.settings.ledger)
        place = Place(work=self.settings.work, temporary=self.settings.temporary, tasks=self.settings.tasks)
        deed = rebooting.deed(
            check=lambda: None, pull=self.pull, boot_id=lambda: self.boot, load=self.load, jump=self.jump
        )
        try:
            async with asyncio.TaskGroup() as group:
                worker = Worker(
                    settings=self.settings,
                    ledger=ledger,
                    launcher=Launcher(),
                    place=place,
                    skills=Skills(deeds={"system.reboot": deed}, rows=METHODS),
                    group=group,
                    tell=self.statuses.append,
                    moment=lambda: Moment(at=datetime.now(UTC), uptime=timedelta(seconds=1), boot_id=self.boot),
                )
                await worker.recover()
                yield worker
                worker.leave()
        finally:
            await ledger.close()

    async def final(self) -> Status:
        async with asyncio.timeout(10):
            while True:
                for status in self.statuses:
                    if status.state != "running":
                        return status
                await asyncio.sleep(0.005)

    async def until_called(self) -> None:
        async with asyncio.timeout(10):
            while True:
                if self.calls:
                    return
                await asyncio.sleep(0.005)

    async def die_at(self, point: str, command: Command) -> None:
        """As a kill there would: nothing after the point is done."""
        faults.arm({"PADDOCK_FAULT": point, "PADDOCK_FAULT_ACT": "raise"})
        try:
            with contextlib.suppress(BaseExceptionGroup, faults.Fault):
                async with self.alive() as worker:
                    await worker.carry_out(command)
                    await asyncio.Event().wait()
        finally:
            faults.arm({})


def reboot(**params: object) -> Command:
    found = {"delay": 0, "limit": 60, **params}
    return Command(id="r", method="system.reboot", params=found, seq=1, epoch=1)  # type: ignore[arg-type]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_it_is_accepted_before_it_is_called_and_complete_under_a_new_boot_id(machine: Machine) -> None:
    async with machine.alive() as worker:
        answer = await worker.carry_out(reboot(reason="a new kernel"))
        assert isinstance(answer, Success)
        assert answer.result["state"] == "accepted"
        await machine.until_called()
    assert machine.calls == ["a new kernel"]
    assert machine.statuses == []
    machine.boot = "another-boot"
    async with machine.alive():
        status = await machine.final()
    assert (status.state, status.result) == ("complete", {"booted": True})
    assert machine.calls == ["a new kernel"]


@pytest.mark.parametrize("point", AFTER)
async def test_it_is_never_called_twice_for_one_command(machine: Machine, point: str) -> None:
    await machine.die_at(point, reboot(limit=2))
    calls = len(machine.calls)
    assert calls == (1 if point == "reboot.called" else 0)
    async with machine.alive() as worker:
        if point == "reboot.calling":
            await machine.until_called()  # proven not to have been called
        else:
            await worker.carry_out(reboot(limit=2))
            status = await machine.final()
            assert status.code == "failed"
            assert "still has boot id" in (status.msg or "")
    assert len(machine.calls) == (1 if point != "reboot.noted" else 0)


async def test_a_machine_that_still_has_its_boot_id_when_the_limit_is_over_has_failed(machine: Machine) -> None:
    async with machine.alive() as worker:
        await worker.carry_out(reboot(limit=1))
        status = await machine.final()
    assert (status.code, machine.calls) == ("failed", [""])


async def test_one_that_the_machine_overtook_is_complete_and_not_called(machine: Machine) -> None:
    """It was accepted, and before anything was called the machine lost its power."""
    await machine.die_at("reboot.calling", reboot())
    machine.boot = "another-boot"
    async with machine.alive():
        assert (await machine.final()).state == "complete"
    assert machine.calls == []


async def test_it_can_be_cancelled_while_it_waits(machine: Machine) -> None:
    async with machine.alive() as worker:
        await worker.carry_out(reboot(delay=50))
        await worker.carry_out(Command(id="c", method="task.cancel", params={"task_id": "r"}, seq=2, epoch=1))
        assert (await machine.final()).code == "cancelled"
    assert machine.calls == []


def test_systemd_is_asked_first_where_it_runs(tmp_path: Path) -> None:
    assert all(words[0] != "systemctl" for words in rebooting.orders(tmp_path, ""))
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert rebooting.orders(tmp_path, "")[0] == ("systemctl", "--no-wall", "reboot")


async def test_a_kernel_that_is_named_is_loaded_and_gone_on_in(machine: Machine) -> None:
    async with machine.alive() as worker:
        await worker.carry_out(reboot(reason="newer", kexec={"kernel": "/boot/new"}))
        await machine.until_called()
    assert machine.loaded == [{"kernel": "/boot/new"}]
    assert machine.calls == ["jump: newer"]


async def test_a_kernel_that_cannot_be_loaded_leaves_the_machine_as_it_is(machine: Machine) -> None:
    machine.refusal = "kexec: /boot/new: no such file"
    async with machine.alive() as worker:
        await worker.carry_out(reboot(kexec={"kernel": "/boot/new"}))
        status = await machine.final()
    assert (status.code, status.msg) == ("refused", "kexec: /boot/new: no such file")
    assert machine.calls == []
