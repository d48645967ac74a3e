import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.core.errors import Broken, Refused
from paddock.hands import trees
from paddock.hands.launcher import Exit, Launcher, Lost, Order, Reason, attach, read_exit, read_keeper

Ordering = Callable[..., Order]
Agent = Callable[[str], list[str]]


async def run(launcher: Launcher, order: Order) -> Exit:
    held = await launcher.fork(order)
    await held.open_gate()
    ended = await held.ended()
    held.close()
    return ended


async def until(what: Callable[[], object]) -> None:
    """The world of processes has no clock to advance: look until it is so."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def test_the_keeper_is_named_in_the_directory_before_anybody_may_open_its_gate(
    launcher: Launcher, shell: Ordering
) -> None:
    order = shell("task", "true")
    held = await launcher.fork(order)
    assert read_keeper(order.directory) == held.identity == trees.identify(held.identity.pid)
    await held.open_gate()
    await held.ended()


@pytest.mark.parametrize("content", [b"", bytes(100)])
def test_a_power_cut_leaves_a_record_that_names_nobody(content: bytes, tmp_path: Path) -> None:
    """A name without content, or with blocks that were never written: as file systems leave what was not synced."""
    (tmp_path / "keeper").write_bytes(content)
    assert read_keeper(tmp_path) is None
    (tmp_path / "keeper").write_text("half of a rec")
    with pytest.raises(Broken, match="no keeper's record"):
        read_keeper(tmp_path)


async def test_an_agent_that_dies_before_the_gate_has_run_nothing(
    launcher: Launcher, agent: Agent, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    body = f"""
held = await launcher.fork(shell("task", "echo ran >> {victim}"))
print("forked", flush=True)
await asyncio.sleep(60)
"""
    process = await asyncio.create_subprocess_exec(*agent(body), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"forked\n"
    held = await attach(tmp_path / "task")
    assert held is not None
    process.kill()
    await process.wait()
    ended = await held.ended()
    assert (ended.ran, ended.reason) == (False, Reason.GATE)
    assert lines(victim) == []


async def test_a_task_goes_on_when_its_agent_and_launcher_are_killed(
    launcher: Launcher, agent: Agent, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    script = f"echo ran >> {victim}; echo one; while [ ! -e {tmp_path}/finish ]; do sleep 0.01; done; echo two; exit 6"
    body = f"""
held = await launcher.fork(shell("task", {script!r}))
await held.open_gate()
await held.more()
print(launcher._warm.pid, flush=True)
await asyncio.sleep(60)
"""
    process = await asyncio.create_subprocess_exec(*agent(body), stdout=subprocess.PIPE)
    assert process.stdout is not None
    warm = trees.identify(int(await process.stdout.readline()))
    process.kill()
    await process.wait()
    assert warm is not None
    await until(lambda: not trees.is_alive(warm))  # it ended with its agent's socket
    held = await attach(tmp_path / "task")
    assert held is not None
    await held.open_gate()  # it is open already, and nobody but its maker could
    assert await held.more()
    (tmp_path / "finish").touch()
    ended = await held.ended()
    assert (ended.ran, ended.exit) == (True, 6)
    assert lines(victim) == ["ran"]
    assert lines(tmp_path / "task" / "output") == ["one", "two"]
    assert await attach(tmp_path / "task") is None
    assert read_exit(tmp_path / "task") == ended


async def test_a_killed_keeper_is_lost_and_its_orphans_are_found_by_their_mark(
    launcher: Launcher, shell: Ordering
) -> None:
    order = shell("task", "(setsid sleep 60 &); echo ready; sleep 61")
    held = await launcher.fork(order)
    await held.open_gate()
    await held.more()
    await until(lambda: len(trees.marked("PADDOCK_TASK", order.task)) == 3)
    assert trees.send(held.identity, signal.SIGKILL)
    with pytest.raises(Lost, match="died without an exit record"):
        await held.ended()
    while await held.more():
        pass  # the last news, then the end
    assert await attach(order.directory) is None
    assert read_exit(order.directory) is None
    ended = await trees.end(lambda: trees.marked("PADDOCK_TASK", order.task), grace=timedelta(seconds=5))
    assert len(ended) == 3
    assert trees.marked("PADDOCK_TASK", order.task) == []


async def test_a_keeper_killed_at_the_gate_lets_nothing_run(
    launcher: Launcher, shell: Ordering, tmp_path: Path
) -> None:
    held = await launcher.fork(shell("task", f"echo ran >> {tmp_path}/victim"))
    child = trees.descendants(held.identity.pid)
    trees.send(held.identity, signal.SIGKILL)
    await held.open_gate()
    with pytest.raises(Lost):
        await held.ended()
    await until(lambda: not any(trees.is_alive(one) for one in child))
    assert lines(tmp_path / "victim") == []


async def test_a_child_killed_at_the_gate_is_broken(launcher: Launcher, shell: Ordering) -> None:
    held = await launcher.fork(shell("task", "true"))
    (child,) = trees.descendants(held.identity.pid)
    trees.send(child, signal.SIGKILL)
    ended = await held.ended()
    assert (ended.ran, ended.reason, ended.message) == (False, Reason.BROKEN, "its process was killed at the gate")


async def test_a_dead_warm_process_is_started_anew(launcher: Launcher, shell: Ordering) -> None:
    first = await launcher.fork(shell("first", "exit 1"))
    assert launcher._warm is not None
    launcher._warm.kill()
    launcher._warm.wait()
    second = await launcher.fork(shell("second", "exit 2"))
    for held, code in ((first, 1), (second, 2)):
        await held.open_gate()
        assert (await held.ended()).exit == code


async def test_a_warm_process_that_dies_with_orders_waiting_loses_none(launcher: Launcher, shell: Ordering) -> None:
    await run(launcher, shell("first", "true"))
    assert launcher._warm is not None
    warm = launcher._warm
    warm.send_signal(signal.SIGSTOP)
    forks = [asyncio.ensure_future(launcher.fork(shell(f"task{number}", f"exit {number}"))) for number in range(4)]
    await asyncio.sleep(0.02)
    warm.kill()
    for number, held in enumerate(await asyncio.gather(*forks)):
        await held.open_gate()
        assert (await held.ended()).exit == number


async def test_a_directory_is_used_once_unless_nothing_ran(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    order = shell("task", f"while [ ! -e {tmp_path}/finish ]; do sleep 0.01; done; exit 3")
    never = await launcher.fork(order)
    never.close()
    held = await launcher.fork(order)
    await held.open_gate()
    with pytest.raises(Refused, match=rf"is held by keeper {held.identity.pid}"):
        await launcher.fork(order)
    (tmp_path / "finish").touch()
    assert (await held.ended()).exit == 3
    with pytest.raises(Refused, match="holds a task that ran before"):
        await launcher.fork(order)


async def test_an_order_without_a_command_is_refused(launcher: Launcher, ordering: Ordering) -> None:
    with pytest.raises(Refused, match="no command"):
        await launcher.fork(ordering("task"))


async def test_no_directory_is_broken(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    (tmp_path / "task").touch()
    with pytest.raises(Broken, match="task"):
        await launcher.fork(shell("task", "true"))


async def test_a_full_disk_is_told_before_anything_runs(
    launcher: Launcher, ordering: Ordering, small_disk: Path
) -> None:
    (small_disk / "ballast").write_bytes(b"x" * 60 * 1024)
    order = ordering("task", "true")
    order = Order(**{**vars(order), "directory": small_disk / "task"})
    with pytest.raises(Broken, match="no space left"):
        await launcher.fork(order)


async def test_a_long_path_has_a_socket_all_the_same(launcher: Launcher, ordering: Ordering, tmp_path: Path) -> None:
    order = ordering("/".join(["deep" * 20] * 4), "sleep", "60")
    assert len(str(order.directory)) > 300
    held = await launcher.fork(order)
    await held.open_gate()
    again = await attach(order.directory)
    assert again is not None
    await again.cancel(timedelta(seconds=5))
    assert await again.ended() == await held.ended()


@pytest.mark.slow
async def test_an_agent_held_as_a_task_takes_its_own_tasks_with_it(
    launcher: Launcher, ordering: Ordering, agent: Agent, tmp_path: Path
) -> None:
    body = """
held = await launcher.fork(shell("inner", "trap '' TERM; (setsid sleep 60 &); echo up; sleep 61; sleep 62"))
await held.open_gate()
await held.more()
print("up", flush=True)
await asyncio.sleep(60)
"""
    held = await launcher.fork(ordering("outer", *agent(body)))
    await held.open_gate()
    while lines(tmp_path / "outer" / "output") != ["up"]:
        assert await held.more()
    assert trees.marked("PADDOCK_TASK", f"{tmp_path.name}-inner")
    await held.cancel(timedelta(milliseconds=50))
    assert (await held.ended()).reason is Reason.CANCELLED
    assert trees.marked("PADDOCK_TASK", f"{tmp_path.name}-inner") == []


async def test_an_agent_that_was_dropped_by_the_keeper_comes_back(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "sleep 60")
    held = await launcher.fork(order)
    await held.open_gate()
    assert held._line.transport is not None
    held._line.transport.write(b"x" * 5000)  # a word without end: the keeper hangs up
    await held._line.over.wait()
    assert await held.more()
    await held.cancel(timedelta(seconds=5))
    assert (await held.ended()).reason is Reason.CANCELLED


async def test_descriptors_do_not_leak(launcher: Launcher, shell: Ordering) -> None:
    async def one(number: int) -> None:
        assert (await run(launcher, shell(f"task{number}", "exit 0"))).exit == 0

    await one(0)
    await asyncio.sleep(0)
    assert launcher._warm is not None
    mine, warm = Path("/proc/self/fd"), Path(f"/proc/{launcher._warm.pid}/fd")
    before = len(os.listdir(mine)), len(os.listdir(warm))
    await asyncio.gather(*(one(number) for number in range(1, 21)))
    await until(lambda: (len(os.listdir(mine)), len(os.listdir(warm))) == before)


@pytest.mark.slow
async def test_many_small_tasks_a_second(launcher: Launcher, ordering: Ordering) -> None:
    limit = asyncio.Semaphore(16)

    async def one(number: int) -> None:
        async with limit:
            assert (await run(launcher, ordering(f"task{number}", "true"))).exit == 0

    await one(0)
    started = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(1, 201)))
    rate = 200 / (time.monotonic() - started)
    print(f"tasks through keepers, each recorded and synced: {rate:.0f}/s")
    assert rate > 20  # an order of magnitude below what an idle machine does


# What was done when the process dies at the point: (how often the command ran, is the end known)
POINTS = {
    "keeper.forked": (1, True),  # nothing was answered yet: it is made anew
    "keeper.held": (1, True),
    "keeper.gate_opening": (0, False),
    "keeper.gate_opened": (1, False),
    "keeper.ended": (1, False),
    "keeper.recording": (1, False),
    "keeper.recorded": (1, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
async def test_a_keeper_dies_at_any_point_and_the_command_ran_at_most_once(
    launcher: Launcher, agent: Agent, tmp_path: Path, point: str
) -> None:
    body = f"""
order = shell("task", "echo ran >> {tmp_path}/victim; sleep 0.02")
held = await launcher.fork(order)
await held.open_gate()
try:
    ended = await held.ended()
    print("ended", ended.exit)
except Lost:
    print("lost")
"""
    environment = {**os.environ, "PADDOCK_FAULT": point, "PADDOCK_FAULT_ONCE": str(tmp_path / "once")}
    process = await asyncio.create_subprocess_exec(*agent(body), env=environment, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    ran, is_known = POINTS[point]
    assert (tmp_path / "once").exists()
    assert said.decode().split() == (["ended", "0"] if is_known else ["lost"])
    task = f"{tmp_path.name}-task"
    await until(lambda: not trees.marked("PADDOCK_TASK", task))
    assert len(lines(tmp_path / "victim")) == ran


async def test_a_keeper_that_died_at_its_gate_makes_room_for_whoever_knows_that_nothing_ran(
    launcher: Launcher, shell: Ordering
) -> None:
    order = shell("again", "echo ran")
    held = await launcher.fork(order)
    trees.send(held.identity, signal.SIGKILL)
    with pytest.raises(Lost):
        await held.ended()
    with pytest.raises(Refused, match="holds a task that ran before"):
        await launcher.fork(order)
    again = await launcher.fork(order, unopened=True)
    await again.open_gate()
    assert (await again.ended()).exit == 0
    assert (order.directory / "output").read_text() == "ran\n"
    with pytest.raises(Refused, match="holds a task that ran before"):
        await launcher.fork(order, unopened=True)
    again.close()


@pytest.fixture
async def stopped(launcher: Launcher, shell: Ordering) -> AsyncIterator[tuple[Launcher, trees.Identity]]:
    """A launcher of little patience whose warm process somebody has stopped. (`launcher` cleans up after it.)"""
    async with Launcher(answers_within=1) as patient:
        await run(patient, shell("first", "true"))
        assert patient._warm is not None
        warm = trees.identify(patient._warm.pid)
        assert warm is not None
        assert trees.send(warm, signal.SIGSTOP)
        yield patient, warm
        trees.send(warm, signal.SIGKILL)


@pytest.mark.slow
async def test_a_warm_process_that_was_stopped_is_replaced_and_each_order_runs_once(
    stopped: tuple[Launcher, trees.Identity], shell: Ordering, tmp_path: Path
) -> None:
    launcher, warm = stopped
    ends = await asyncio.gather(
        *(run(launcher, shell(f"task-{number}", f"echo {number} >> {tmp_path}/ran")) for number in range(20))
    )
    assert {(ended.ran, ended.exit) for ended in ends} == {(True, 0)}
    assert sorted(map(int, lines(tmp_path / "ran"))) == list(range(20))
    assert not trees.is_alive(warm)
    assert launcher._warm is not None
    assert launcher._warm.pid != warm.pid


@pytest.mark.slow
async def test_whoever_gives_up_waiting_for_a_stopped_warm_process_has_run_nothing(
    stopped: tuple[Launcher, trees.Identity], shell: Ordering, tmp_path: Path
) -> None:
    launcher, warm = stopped
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run(launcher, shell("early", f"echo ran >> {tmp_path}/ran"))
    assert trees.send(warm, signal.SIGCONT)
    ended = await run(launcher, shell("late", "exit 3"))  # by the same process, behind the order that was given up
    assert ended.exit == 3
    assert lines(tmp_path / "ran") == []
