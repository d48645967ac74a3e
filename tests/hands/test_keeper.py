import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from paddock.hands import trees
from paddock.hands.launcher import Exit, Full, Held, Launcher, Order, Reason, attach

Ordering = Callable[..., Order]


async def run(launcher: Launcher, order: Order) -> Exit:
    held = await launcher.fork(order)
    await held.open_gate()
    ended = await held.ended()
    held.close()
    return ended


def output(order: Order) -> str:
    return (order.directory / "output").read_text()


async def until(what: Callable[[], object]) -> None:
    """The world of processes has no clock to advance: look until it is so."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_command_runs_and_its_exit_is_recorded(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "echo out; echo err >&2; echo out again; exit 3")
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    ended = await run(launcher, order)
    assert (ended.ran, ended.exit, ended.signal, ended.reason) == (True, 3, None, Reason.EXITED)
    assert output(order) == "out\nerr\nout again\n"
    assert ended.output == len(output(order))
    assert ended.started is not None
    assert before <= ended.started <= ended.ended <= datetime.now(UTC)


async def test_a_signal_is_not_an_exit_code(launcher: Launcher, shell: Ordering) -> None:
    ended = await run(launcher, shell("task", "kill -SEGV $$"))
    assert (ended.exit, ended.signal, ended.reason) == (None, signal.SIGSEGV, Reason.EXITED)


async def test_nothing_runs_before_the_gate_is_open(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    held = await launcher.fork(shell("task", f"echo ran >> {tmp_path}/victim"))
    held.close()
    ended = await held.ended()
    assert (ended.ran, ended.reason, ended.started) == (False, Reason.GATE, None)
    assert not (tmp_path / "victim").exists()


async def test_a_cancel_before_the_gate_runs_nothing(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    held = await launcher.fork(shell("task", f"echo ran >> {tmp_path}/victim"))
    await held.cancel(timedelta(seconds=9))
    ended = await held.ended()
    assert (ended.ran, ended.reason) == (False, Reason.CANCELLED)
    await held.open_gate()
    assert not (tmp_path / "victim").exists()


async def test_only_its_maker_opens_the_gate(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    order = shell("task", f"echo ran >> {tmp_path}/victim")
    held = await launcher.fork(order)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(order.directory / "control"))
        stranger.sendall(b"go\nsing\n\n")
        assert stranger.recv(100).startswith(b"held ")
        stranger.sendall(b"x" * 10_000)
        stranger.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):  # it is shut out for its endless word
            while await asyncio.to_thread(stranger.recv, 100):
                pass
    held.close()
    assert not (await held.ended()).ran
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("path", ["/nonexistent/program", "nonexistent-program"])
async def test_a_missing_program_is_broken_not_exit_127(launcher: Launcher, ordering: Ordering, path: str) -> None:
    ended = await run(launcher, ordering("task", path))
    assert (ended.ran, ended.exit, ended.reason) == (False, None, Reason.BROKEN)
    assert ended.message == f"{path}: No such file or directory"


async def test_what_cannot_start_is_told_by_name(launcher: Launcher, ordering: Ordering, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nonexistent/interpreter\n")
    assert (await run(launcher, ordering("a", str(script)))).message == f"{script}: Permission denied"
    script.chmod(0o755)
    assert (await run(launcher, ordering("b", str(script)))).message == f"{script}: its interpreter does not exist"
    ended = await run(launcher, ordering("c", "true", cwd=tmp_path / "absent"))
    assert ended.message == f"working directory {tmp_path}/absent: No such file or directory"
    assert (await run(launcher, ordering("d", "true", user="nobody-of-that-name"))).message.startswith(
        "user nobody-of-"
    )
    ended = await run(launcher, ordering("e", "echo", "nul\0byte"))
    assert (ended.ran, ended.reason) == (False, Reason.BROKEN)
    assert "null byte" in ended.message


async def test_a_real_exit_127_is_the_tasks_own(launcher: Launcher, shell: Ordering) -> None:
    ended = await run(launcher, shell("task", "exit 127"))
    assert (ended.ran, ended.exit, ended.reason) == (True, 127, Reason.EXITED)


async def test_the_surroundings_are_those_of_the_order(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    order = shell(
        "task",
        "pwd; umask; cat; env; ls /proc/self/fd | wc -l; ps -o sid= -p $$ 2>/dev/null || true; trap",
        stdin=b"from stdin\n",
        umask=0o027,
        env={"PATH": os.environ["PATH"], "GREETING": "with spaces $HOME `id`", "PADDOCK_TEST": str(tmp_path)},
    )
    assert (await run(launcher, order)).exit == 0
    lines = output(order).splitlines()
    assert lines[:3] == [str(tmp_path), "0027", "from stdin"]
    assert "GREETING=with spaces $HOME `id`" in lines
    assert f"PADDOCK_TASK={order.task}" in lines
    assert "4" in lines  # 0, 1, 2 and the directory that ls reads
    assert not any(line.startswith("HOME=") for line in lines)


async def test_a_large_stdin_and_environment_arrive_whole(launcher: Launcher, shell: Ordering, tmp_path: Path) -> None:
    order = shell(
        "task",
        'wc -c; printf %s "$LARGE" | wc -c',
        stdin=b"x" * 3_000_000,
        env={"PATH": os.environ["PATH"], "LARGE": "y" * 100_000, "PADDOCK_TEST": str(tmp_path)},
    )
    await run(launcher, order)
    assert output(order).split() == ["3000000", "100000"]


async def test_ignored_signals_are_not_inherited(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "grep -E '^Sig(Ign|Blk)' /proc/self/status")
    await run(launcher, order)
    assert [int(line.split()[1], 16) for line in output(order).splitlines()] == [0, 0]


async def test_a_task_may_run_as_somebody_else(launcher: Launcher, shell: Ordering) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    order = shell("task", "id -un; id -G | wc -w; echo through the name > /dev/stdout", user="nobody", cwd=Path("/"))
    ended = await run(launcher, order)
    assert (ended.exit, output(order)) == (0, "nobody\n1\nthrough the name\n")


async def test_a_daemon_that_leaves_its_session_does_not_outlive_its_step(launcher: Launcher, shell: Ordering) -> None:
    daemon = "(setsid sh -c 'sleep 60 & touch up; exec sleep 61' &)"
    order = shell("task", f"{daemon}; while [ ! -e up ]; do sleep 0.01; done; exit 0")
    ended = await run(launcher, order)
    assert (ended.exit, ended.reason, ended.lingered) == (0, Reason.EXITED, 2)
    assert trees.marked("PADDOCK_TASK", order.task) == []


async def test_a_tree_that_ignores_term_is_killed_after_its_grace(launcher: Launcher, shell: Ordering) -> None:
    script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 60; sleep 60' &); echo ready; sleep 60; sleep 60"
    order = shell("task", script, grace=timedelta(seconds=60))
    held = await launcher.fork(order)
    await held.open_gate()
    await until(lambda: output(order) == "ready\n")
    await held.cancel(timedelta(milliseconds=60))
    ended = await held.ended()
    assert (ended.ran, ended.signal, ended.reason) == (True, signal.SIGKILL, Reason.CANCELLED)
    assert trees.marked("PADDOCK_TASK", order.task) == []


async def test_a_shorter_grace_wins_and_the_first_reason_stays(launcher: Launcher, shell: Ordering) -> None:
    script = "trap 'echo asked' TERM; while :; do sleep 0.01; done"
    order = shell("task", script, limit=timedelta(milliseconds=50), grace=timedelta(seconds=60))
    held = await launcher.fork(order)
    await held.open_gate()
    await until(lambda: "asked" in output(order))
    await held.cancel(timedelta(milliseconds=10))
    async with asyncio.timeout(5):
        assert (await held.ended()).reason is Reason.LIMIT


async def test_the_limit_ends_the_tree(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "trap 'echo asked; exit 9' TERM; sleep 60 & wait", limit=timedelta(milliseconds=80))
    started = time.monotonic()
    ended = await run(launcher, order)
    assert (ended.exit, ended.reason) == (9, Reason.LIMIT)
    assert 0.08 <= time.monotonic() - started < 5
    assert output(order) == "asked\n"


async def test_the_limit_is_counted_from_the_gate_not_from_the_fork(launcher: Launcher, shell: Ordering) -> None:
    held = await launcher.fork(shell("task", "exit 4", limit=timedelta(milliseconds=100)))
    await asyncio.sleep(0.15)
    await held.open_gate()
    ended = await held.ended()
    assert (ended.exit, ended.reason) == (4, Reason.EXITED)


async def test_term_to_the_keeper_ends_its_task_which_is_no_cancel(launcher: Launcher, shell: Ordering) -> None:
    held = await launcher.fork(shell("task", "sleep 60"))
    await held.open_gate()
    assert trees.send(held.identity, signal.SIGTERM)
    ended = await held.ended()
    assert (ended.signal, ended.reason) == (signal.SIGTERM, Reason.STOPPED)


@pytest.mark.slow
async def test_who_dies_of_term_right_before_the_keeper_hears_it_was_stopped_too(
    launcher: Launcher, shell: Ordering
) -> None:
    """A machine that goes down tells everybody, in no order."""
    held = await launcher.fork(shell("task", "exec sleep 60"))
    await held.open_gate()
    (child,) = trees.descendants(held.identity.pid)
    await until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
    assert trees.send(child, signal.SIGTERM)
    await until(lambda: trees.identify(child.pid) is None)
    assert trees.send(held.identity, signal.SIGTERM)
    assert (await held.ended()).reason is Reason.STOPPED


@pytest.mark.slow
async def test_who_dies_of_term_alone_has_ended_by_itself(launcher: Launcher, shell: Ordering) -> None:
    held = await launcher.fork(shell("task", "kill $$"))
    await held.open_gate()
    ended = await held.ended()
    assert (ended.signal, ended.reason) == (signal.SIGTERM, Reason.EXITED)


async def test_a_background_task_lives_on_in_its_daemon(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "(setsid sleep 60 &); exit 0", background=True)
    held = await launcher.fork(order)
    await held.open_gate()
    await held.left()
    assert len(trees.marked("PADDOCK_TASK", order.task)) == 1
    later = await attach(order.directory)
    assert later is not None
    await later.left()
    await later.cancel(timedelta(seconds=5))
    ended = await held.ended()
    assert (ended.exit, ended.reason, ended.lingered) == (0, Reason.CANCELLED, 1)
    assert trees.marked("PADDOCK_TASK", order.task) == []


async def test_a_background_task_whose_whole_tree_ended_has_ended(launcher: Launcher, shell: Ordering) -> None:
    ended = await run(launcher, shell("task", "(setsid sleep 0.05 &); exit 5", background=True))
    assert (ended.exit, ended.reason) == (5, Reason.EXITED)


async def test_a_tree_that_keeps_forking_is_ended(launcher: Launcher, ordering: Ordering) -> None:
    # Each one forks its successor and ends at once: who is signalled is mostly gone already.
    script = """
import os, time
for _ in range(5):
    if not os.fork():
        break
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    time.sleep(0.001)
"""
    order = ordering("task", "python3", "-S", "-c", script, grace=timedelta(milliseconds=20))
    async with asyncio.timeout(10):
        ended = await run(launcher, order)
    assert ended.reason is Reason.EXITED
    assert trees.marked("PADDOCK_TASK", order.task) == []


async def test_a_control_group_is_joined_and_removed(launcher: Launcher, shell: Ordering) -> None:
    home = trees.Cgroup.home()
    if home is None:
        pytest.skip("no control group of version 2 can be made here")
    path = home / f"paddock-keeper-test-{os.getpid()}"
    order = shell("task", "grep ^0:: /proc/self/cgroup; sleep 60 & trap '' TERM; sleep 60", cgroup=path)
    held = await launcher.fork(order)
    await held.open_gate()
    await until(lambda: path.name in output(order))
    await held.cancel(timedelta(0))
    assert (await held.ended()).signal == signal.SIGKILL
    assert not path.exists()


async def test_a_group_that_cannot_be_made_is_no_reason_to_fail(launcher: Launcher, shell: Ordering) -> None:
    assert (await run(launcher, shell("task", "exit 0", cgroup=Path("/proc/no/such/group")))).exit == 0


async def test_output_is_told_at_once_and_then_seldom(launcher: Launcher, shell: Ordering) -> None:
    order = shell(
        "task", "echo first; read x < /dev/zero & sleep 0.1; i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done"
    )
    held: Held = await launcher.fork(order)
    await held.open_gate()
    assert await held.more()
    await until(lambda: output(order) == "first\n")
    told = 0
    while await held.more():
        told += 1
    ended = await held.ended()
    assert ended.output == len(output(order)) == len("first\n") + sum(len(f"{i}\n") for i in range(2000))
    assert told < 100


def private_memory(pid: int) -> int:
    """What it shares with nobody, in KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty"))


async def test_the_keeper_is_small(launcher: Launcher, shell: Ordering) -> None:
    held = await launcher.fork(shell("task", "sleep 60"))
    await held.open_gate()
    own = private_memory(held.identity.pid)
    handles = os.listdir(f"/proc/{held.identity.pid}/fd")
    print(f"a keeper's own memory: {own} KiB, {len(handles)} descriptors")
    assert own < 6 * 1024
    assert len(handles) < 20
    await held.cancel(timedelta(0))
    await held.ended()


@pytest.mark.slow
async def test_an_exit_that_finds_no_space_waits_for_it(
    launcher: Launcher, shell: Ordering, small_disk: Path, fill: Callable[[Path], None]
) -> None:
    directory, ballast = small_disk / "task", small_disk / "ballast"
    order = replace(shell("waits", f"while ! test -e {ballast}; do :; done; exit 3"), directory=directory)
    held = await launcher.fork(order)
    await held.open_gate()
    (directory / "exit.new").unlink()  # the room that was set aside for it is gone
    fill(small_disk / "filled")
    (small_disk / "filled").rename(ballast)
    await until(lambda: (directory / "exit.new").exists())
    found = await attach(directory)  # a keeper that waits for its disk answers
    assert found is not None
    assert not (directory / "exit").exists()
    ballast.unlink()
    assert (await found.ended()).exit == 3
    assert (await held.ended()).exit == 3
    found.close()
    held.close()


async def test_a_disk_without_room_for_records_runs_nothing_and_says_that_it_may_be_tried_again(
    launcher: Launcher, shell: Ordering, small_disk: Path, fill: Callable[[Path], None]
) -> None:
    order = replace(shell("full", "true"), directory=small_disk / "task")
    fill(small_disk / "ballast")
    with pytest.raises(Full, match="No space left"):
        await launcher.fork(order)
    (small_disk / "ballast").unlink()
    assert (await run(launcher, order)).exit == 0
