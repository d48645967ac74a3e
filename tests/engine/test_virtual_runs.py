"""Runs on virtual machines: consoles are logs, boots are steps, who holds a machine presses its buttons."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from paddock.core.access import Identity, Role
from paddock.core.errors import Missing, NotAllowed, Refused, Stale
from paddock.core.job import Job, Kexec, Step, StepKind
from paddock.core.run import Run
from paddock.engine.ordering import Wish
from paddock.wire.fields import BadParams
from paddock.wire.hello import LOG_STREAM, Output
from tests.engine.fake_agent import FakeAgent, Reply
from tests.engine.scene import ANNA, BO, GREET, PROJECT, ROOT, Scene
from tests.engine.virtual import DEBIAN, ROOM, Virtual, hosts, open_virtual, pool_of

WITHIN = timedelta(minutes=5)
BOOT = Step(name="reboot", run="", kind=StepKind.REBOOT, within=WITHIN, on=("one",))
RESET = Step(name="reset", run="", kind=StepKind.POWER, power="reset", boot=("network",), within=WITHIN, on=("one",))
PAIR = pool_of("pair", machines=("one", "two"))


@pytest.fixture
async def room() -> AsyncIterator[Virtual]:
    async with open_virtual(pools={"pair": PAIR}) as scene:
        carrier = await scene.host_arrives("vm-1", capacity=ROOM)
        carrier.on("machine.console", Reply(is_running=True))
        yield scene


async def begin(scene: Virtual, *steps: Step) -> None:
    job = Job(name="pair-job", environment="pair", steps=steps)
    scene.configure(
        hosts=hosts("vm-1"),
        images={"debian": DEBIAN},
        pools={"pair": PAIR},
        jobs={"pair-job": job},
        projects=(replace(PROJECT, jobs=PROJECT.jobs[1:]),),
    )
    await scene.comment()


def last(scene: Scene) -> Run:
    return scene.runs()[-1]


def one(scene: Virtual) -> FakeAgent:
    return scene.machine("one")


async def test_the_console_of_each_machine_is_followed_from_the_first_step_to_the_last(room: Virtual) -> None:
    await begin(room, GREET)
    consoles = room.orders("machine.console")
    run = last(room)
    assert [command.archive for command in consoles] == [
        f"{run.archive}/logs/console-1-one",
        f"{run.archive}/logs/console-1-two",
    ]
    assert {command.run for command in consoles} == {run.id}
    assert sorted(room.carrier("vm-1").cancelled) == sorted(command.id for command in consoles)
    assert run.verdict == "success"


async def test_what_it_says_is_a_log_of_the_run(room: Virtual) -> None:
    room.machine_replies = {"greet": (Reply(is_running=True),)}
    await begin(room, GREET)
    (console, _) = room.orders("machine.console")
    output = Output(task_id=console.id, stream=LOG_STREAM, offset=0, data=b"Linux version 6\n")
    await room.desk.output(room.carrier("vm-1").id, output)
    assert await room.archive.read(f"{last(room).archive}/logs/console-1-one.log") == b"Linux version 6\n"


async def test_a_host_that_follows_no_console_costs_no_verdict(room: Virtual) -> None:
    room.carrier("vm-1").on("machine.console", Reply(code="unknown_method", is_refused=True))
    await begin(room, GREET)
    assert last(room).verdict == "success"


async def test_a_console_that_never_ends_keeps_no_run(room: Virtual) -> None:
    room.carrier("vm-1").on("machine.console", Reply(is_silent=True))
    await begin(room, GREET)
    assert last(room).verdict == "success"
    assert {command.state for command in room.commands(method="machine.console")} == {"failed"}


async def test_a_reboot_is_ordered_from_the_machine_and_done_when_it_is_back(room: Virtual) -> None:
    room.machine_replies = {"system.reboot": (Reply(is_running=True),)}
    await begin(room, BOOT, GREET)
    (order,) = [command for command in one(room).received if command.method == "system.reboot"]
    assert order.params["limit"] == 300
    await one(room).leave()
    await room.later(minutes=4)
    assert last(room).state == "running"
    one(room).boot_id = "boot-2"
    one(room).running.clear()
    await one(room).say_hello()
    await room.settle()
    assert last(room).verdict == "success"


async def test_one_that_never_comes_back_times_the_run_out(room: Virtual) -> None:
    room.machine_replies = {"system.reboot": (Reply(is_running=True),)}
    await begin(room, BOOT, GREET)
    await one(room).leave()
    await room.later(minutes=12)
    run = last(room)
    assert (run.verdict, run.reason) == ("timed_out", "main 1 (reboot): one did not come back within 5m 00s")


async def test_a_button_is_pressed_by_the_host_under_the_fence_of_the_run(room: Virtual) -> None:
    room.carrier("vm-1").on("machine.power", Reply(result={"power": "on"}))
    await begin(room, RESET, GREET)
    (order,) = room.orders("machine.power")
    run = last(room)
    assert (order.environment, order.fence, order.machine) == (run.environment, run.fence, "one")
    assert (order.params["action"], order.params["boot"]) == ("reset", ["network"])
    assert one(room).scripts() == []
    await one(room).leave()
    one(room).boot_id = "boot-2"
    await one(room).say_hello()
    await room.settle()
    assert one(room).scripts() == ["greet"]
    assert last(room).verdict == "success"


async def test_a_kernel_to_go_on_with_is_told(room: Virtual) -> None:
    kexec = Step(
        name="kexec", run="", kind=StepKind.KEXEC, kexec=Kexec(kernel="/boot/new", cmdline="quiet"), on=("one",)
    )
    room.machine_replies = {"system.reboot": (Reply(is_running=True),)}
    await begin(room, kexec)
    (order,) = [command for command in one(room).received if command.method == "system.reboot"]
    assert order.params["kexec"] == {"kernel": "/boot/new", "cmdline": "quiet"}


# --- what people do with machines that they hold ---


async def press(scene: Virtual, method: str, who: Identity = ANNA, fence: int | None = None, **params: object) -> str:
    wish = Wish(id="", method=method, params=params)
    ordered = await scene.people.press("pair-1", "one", wish, fence=fence, identity=who)
    await scene.settle()
    return ordered.command.id


async def test_who_holds_a_machine_presses_its_buttons(room: Virtual) -> None:
    lease = await room.acquire("pair")
    id = await press(room, "machine.power", action="reset", fence=lease.fence)
    command = room.command(id)
    assert (command.state, command.by, command.fence, command.environment) == (
        "complete",
        "anna",
        lease.fence,
        "pair-1",
    )
    assert command.params == {"machine": "one", "action": "reset", "environment": "pair-1", "fence": lease.fence}


async def test_an_old_fence_is_refused_in_the_store(room: Virtual) -> None:
    lease = await room.acquire("pair")
    with pytest.raises(Stale, match=f"fence {lease.fence - 1} is over"):
        await press(room, "machine.power", action="off", fence=lease.fence - 1)
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    with pytest.raises(Stale):
        await press(room, "machine.power", action="off", fence=lease.fence)
    assert room.orders("machine.power") == []


async def test_nobody_else_does(room: Virtual) -> None:
    await room.acquire("pair")
    with pytest.raises(NotAllowed, match="pair-1 is not lent to you"):
        await press(room, "machine.screenshot", BO)
    await press(room, "machine.screenshot", Identity(name="op", role=Role.OPERATOR))


async def test_an_operator_looks_at_a_free_one_but_leaves_its_buttons_alone(room: Virtual) -> None:
    lease = await room.acquire("pair")
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    with pytest.raises(Refused, match="it is free, and clean for whoever borrows it next"):
        await press(room, "machine.type", ROOT, data="Cg==")
    await press(room, "machine.console", ROOT)


async def test_the_same_id_is_the_same_command(room: Virtual) -> None:
    await room.acquire("pair")
    wish = Wish(id="mine", method="machine.power", params={"action": "off"})
    first = await room.people.press("pair-1", "one", wish, fence=None, identity=ANNA)
    again = await room.people.press("pair-1", "one", wish, fence=None, identity=ANNA)
    assert (first.is_new, again.is_new, again.command.id) == (True, False, "mine")
    with pytest.raises(Refused, match="this id was given to another command"):
        await room.people.press("pair-1", "two", wish, fence=None, identity=ANNA)


async def test_what_cannot_be_is_refused_before_anything_is_ordered(room: Virtual) -> None:
    await room.acquire("pair")
    with pytest.raises(BadParams):
        await press(room, "machine.power", action="explode")
    wish = Wish(id="", method="machine.power", params={"action": "off"})
    with pytest.raises(Missing, match="no machine three") as missing:
        await room.people.press("pair-1", "three", wish, fence=None, identity=ANNA)
    assert missing.value.hint == "it has one, two"


async def test_a_lease_that_ends_takes_what_was_ordered_under_it(room: Virtual) -> None:
    lease = await room.acquire("pair")
    id = await press(room, "machine.console")
    await room.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await room.settle()
    assert room.command(id).code == "stale"


async def test_a_process_has_no_buttons(scene: Scene) -> None:
    await scene.acquire("pair")
    wish = Wish(id="", method="machine.power", params={"action": "off"})
    with pytest.raises(Refused, match="its machines are processes on host local"):
        await scene.people.press("pair-1", "one", wish, fence=None, identity=ANNA)
