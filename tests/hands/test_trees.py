import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.core.errors import Broken
from paddock.hands import trees


@contextmanager
def running(
    *argv: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that says something when it is ready, and is killed at the end."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **(env or {})}, cwd=cwd
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def shell(script: str) -> tuple[str, str, str]:
    return ("/bin/sh", "-c", script)


def identity(process: subprocess.Popen[bytes]) -> trees.Identity:
    found = trees.identify(process.pid)
    assert found is not None
    return found


def test_a_process_is_told_from_a_later_one_of_its_pid() -> None:
    own = trees.identify(os.getpid())
    assert own is not None
    assert trees.is_alive(own)
    assert not trees.is_alive(trees.Identity(pid=own.pid, started=own.started - 1))


def test_a_zombie_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert trees.identify(pid) is None
    os.waitpid(pid, 0)
    assert trees.identify(pid) is None


def test_a_name_with_brackets_and_spaces_hides_nothing(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sh")
    with running(str(program), "-c", "echo; read x") as process:
        assert trees.is_alive(identity(process))


@pytest.mark.parametrize("by_scan", [False, True])
def test_descendants_are_found_at_every_depth(monkeypatch: pytest.MonkeyPatch, by_scan: bool) -> None:
    if by_scan:
        monkeypatch.setattr(trees, "_HAS_CHILDREN", False)
    with running(*shell("sh -c 'sleep 60 & echo; wait' & wait")) as process:
        pids = {one.pid for one in trees.descendants(process.pid)}
        assert len(pids) == 2
        assert process.pid not in pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_a_mark_in_the_environment_is_found_whole_or_not_at_all(tmp_path: Path) -> None:
    with running(*shell("echo; read x"), env={"PADDOCK_MARK": str(tmp_path)}) as process:
        assert trees.marked("PADDOCK_MARK", str(tmp_path)) == [identity(process)]
        assert trees.marked("PADDOCK_MARK", str(tmp_path)[:-1]) == []
        assert trees.marked("MARK", str(tmp_path)) == []


def test_who_stands_in_a_directory_is_found_but_not_in_its_namesakes(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in-between").mkdir()
    with (
        running(*shell("echo; read x"), cwd=tmp_path / "in" / "deep") as deep,
        running(*shell("echo; read x"), cwd=tmp_path / "in-between"),
    ):
        assert trees.inside(tmp_path / "in") == [identity(deep)]
        (tmp_path / "in" / "deep").rmdir()
        assert trees.inside(tmp_path / "in") == [identity(deep)]


def test_a_signal_reaches_only_the_very_process() -> None:
    with running(*shell("echo; read x")) as process:
        own = identity(process)
        assert not trees.send(trees.Identity(pid=own.pid, started=own.started + 1), signal.SIGKILL)
        assert trees.is_alive(own)
        assert trees.send(own, signal.SIGKILL)
        process.wait()
        assert not trees.send(own, signal.SIGKILL)


def with_mark(tmp_path: Path) -> Callable[[], list[trees.Identity]]:
    return lambda: trees.marked("PADDOCK_MARK", str(tmp_path))


async def test_ending_asks_first(tmp_path: Path) -> None:
    with running(
        *shell("trap 'exit 7' TERM; echo; while :; do sleep 0.02; done"), env={"PADDOCK_MARK": str(tmp_path)}
    ) as process:
        ended = await trees.end(with_mark(tmp_path), grace=timedelta(seconds=10))
        assert process.pid in {one.pid for one in ended}
        assert process.wait() == 7


async def test_ending_wakes_the_stopped(tmp_path: Path) -> None:
    with running(*shell("echo; read x"), env={"PADDOCK_MARK": str(tmp_path)}) as process:
        process.send_signal(signal.SIGSTOP)
        await trees.end(with_mark(tmp_path), grace=timedelta(seconds=10))
        assert process.wait() == -signal.SIGTERM


async def test_ending_kills_what_does_not_listen_and_what_lost_its_mark(tmp_path: Path) -> None:
    script = "trap '' TERM; env -i sleep 61 & echo; while :; do sleep 0.02; done"
    with running(*shell(script), env={"PADDOCK_MARK": str(tmp_path)}) as process:
        below = trees.descendants(process.pid)
        await trees.end(with_mark(tmp_path), grace=timedelta(milliseconds=50))
        assert process.wait() == -signal.SIGKILL
        assert not any(trees.is_alive(one) for one in below)


@pytest.mark.slow
async def test_ending_outruns_a_tree_that_keeps_forking(tmp_path: Path) -> None:
    # Each one forks its successor and ends: whoever is looked at is gone by the time it is signalled.
    script = """
import os, time
print(flush=True)
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    time.sleep(0.001)
"""
    with running(sys.executable, "-S", "-c", script, env={"PADDOCK_MARK": str(tmp_path)}):
        await trees.end(with_mark(tmp_path), grace=timedelta(0))
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            assert with_mark(tmp_path)() == []


async def test_who_would_not_die_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Signals that reach nobody stand in for a process stuck in the kernel, which no test can make and unmake.
    monkeypatch.setattr(trees, "send", lambda *_: True)
    with (
        running(*shell("echo; read x")) as process,
        pytest.raises(Broken, match=rf"would not die: {process.pid} \(sh\)"),
    ):
        await trees.end(lambda: [identity(process)], grace=timedelta(0), bound=timedelta(milliseconds=30))


async def test_nobody_ends_himself() -> None:
    own = trees.identify(os.getpid())
    assert own is not None
    assert await trees.end(lambda: [own], grace=timedelta(0)) == []


def test_a_control_group_holds_and_kills() -> None:
    group = trees.Cgroup.create(f"paddock-test-{os.getpid()}")
    if group is None:
        pytest.skip(f"no control group of version 2 can be made here: home is {trees.Cgroup.home()}")
    try:
        with running(*shell("echo; read x; sleep 60")) as process:
            group.add(process.pid)
            assert [one.pid for one in group.procs()] == [process.pid]
            group.kill()
            assert process.wait() == -signal.SIGKILL
        deadline = time.monotonic() + 2
        while group.procs() and time.monotonic() < deadline:
            time.sleep(0.005)
    finally:
        group.remove()
    assert not group.path.exists()
    assert group.procs() == []
    group.remove()
