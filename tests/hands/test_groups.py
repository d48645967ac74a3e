"""Limits of a task: what a control group enforces, what it refuses, and what is left of it afterwards."""

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.core.errors import Refused
from paddock.hands import groups, trees
from paddock.hands.exit import Exit
from paddock.hands.groups import Ground
from paddock.hands.launcher import Launcher, Order, read_group
from paddock.hands.order import NO_LIMITS, Limits

Ordering = Callable[..., Order]
MEMORY_HOG = "exec python3 -c 'x = bytearray(200 << 20); print(len(x))'"


def _handed_down() -> set[str]:
    """Controllers that groups of tasks get here. At the root of all groups, what is there can be had."""
    home = trees.Cgroup.home()
    if home is None:
        return set()
    names = "cgroup.subtree_control" if (home / "cgroup.type").exists() else "cgroup.controllers"
    return set((home / names).read_text().split())


limited = pytest.mark.skipif(
    not {"memory", "pids", "cpu"} <= _handed_down(), reason="no control groups of version 2 with limits on this machine"
)
grouped = pytest.mark.skipif(trees.Cgroup.home() is None, reason="no control groups of version 2 to write to")
unlimited = pytest.mark.skipif("memory" in _handed_down(), reason="here memory can be limited")


async def run(launcher: Launcher, order: Order) -> Exit:
    held = await launcher.fork(order)
    await held.open_gate()
    return await held.ended()


def output(order: Order) -> str:
    return (order.directory / "output").read_text()


@grouped
async def test_each_task_has_a_group_of_its_own_that_is_gone_when_it_ended(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "grep ^0:: /proc/self/cgroup")
    held = await launcher.fork(order)
    group = read_group(order.directory)
    assert group is not None
    assert group.is_dir()
    await held.open_gate()
    await held.ended()
    assert output(order).strip().endswith(f"/{group.name}")
    assert not group.exists()


@grouped
async def test_a_daemon_stays_in_its_tasks_group_and_ends_with_it(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", "setsid sh -c 'setsid sleep 60 & echo $!; grep ^0:: /proc/self/cgroup' & wait; sleep 0.1")
    ended = await run(launcher, order)
    pid, group = output(order).split()
    assert ended.exit == 0
    assert not trees.identify(int(pid))
    assert "paddock-t-" in group


async def test_where_no_scope_can_be_had_tasks_run_all_the_same(
    launcher: Launcher, shell: Ordering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "scope", lambda: ["false"])
    assert (await run(launcher, shell("task", "exit 3"))).exit == 3


async def test_without_grouping_there_is_no_group(shell: Ordering) -> None:
    async with Launcher(grouping=False) as launcher:
        order = shell("task", "cat /proc/self/cgroup")
        await run(launcher, order)
    assert "paddock-t-" not in output(order)


@unlimited
@pytest.mark.parametrize("limit", [{"memory": 1 << 30}, {"pids": 10}, {"cpus": 0.5}])
async def test_a_limit_that_would_not_hold_is_refused_and_nothing_runs(
    launcher: Launcher, shell: Ordering, tmp_path: Path, limit: dict[str, float]
) -> None:
    order = shell("task", f"touch {tmp_path}/ran", limits=Limits(**limit))  # type: ignore[arg-type]
    with pytest.raises(Refused, match=f"{next(iter(limit))}: cannot be limited"):
        await launcher.fork(order)
    assert not (tmp_path / "ran").exists()
    home = trees.Cgroup.home()
    assert home is None or not Ground(path=home).group_of(order.directory).exists()


async def test_a_group_that_cannot_be_made_is_refused_only_with_limits(launcher: Launcher, shell: Ordering) -> None:
    nowhere = Path("/proc/no/such/group")
    assert (await run(launcher, shell("one", "exit 3", cgroup=nowhere))).exit == 3
    with pytest.raises(Refused, match="memory: cannot be limited, /proc/no/such/group"):
        await launcher.fork(shell("two", "exit 3", cgroup=nowhere, limits=Limits(memory=1 << 30)))


async def test_limits_of_each_process_are_those_of_the_order(launcher: Launcher, shell: Ordering) -> None:
    each = {"nofile": 50, "core": 0, "fsize": 1 << 20}
    order = shell("task", "ulimit -n; ulimit -c; ulimit -Hf", limits=Limits(each=each))
    assert (await run(launcher, order)).exit == 0
    assert output(order).split() == ["50", "0", "2048"]


async def test_a_limit_of_each_process_that_cannot_be_had_is_told_by_name(launcher: Launcher, shell: Ordering) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may begin with more than it has")
    ended = await run(launcher, shell("task", "true", limits=Limits(each={"nofile": 1 << 40})))
    assert not ended.ran
    assert "limits.nofile" in ended.message


def test_limits_travel_with_the_order(shell: Ordering) -> None:
    order = shell("task", "true", limits=Limits(memory=5, pids=6, cpus=1.5, each={"nofile": 7}))
    assert Order.decode(order.encode()).limits == order.limits
    assert Order.decode(shell("task", "true").encode()).limits == NO_LIMITS


@grouped
def test_a_group_whose_keeper_was_killed_is_swept_once_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    home = trees.Cgroup.home()
    assert home is not None
    group = Ground(path=home).group_of(Path(f"/no/such/task/{os.getpid()}"))
    group.mkdir()
    try:
        groups._sweep(home)
        assert group.exists()
        monkeypatch.setattr(groups, "_STALE", -1.0)
        monkeypatch.setattr(groups, "_TASK", group.name)  # and nobody else's
        groups._sweep(home)
        assert not group.exists()
    finally:
        with suppress(OSError):
            group.rmdir()


@limited
async def test_a_tree_over_its_memory_is_killed_whole_and_says_so(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", f"sleep 60 & {MEMORY_HOG}", limits=Limits(memory=64 << 20))
    ended = await run(launcher, order)
    assert (ended.exit, ended.signal) == (None, 9)
    assert ended.oom_kills >= 1
    assert (await run(launcher, shell("other", MEMORY_HOG, limits=Limits(memory=1 << 30)))).oom_kills == 0


@limited
async def test_a_daemon_that_left_its_session_is_under_the_same_limit(launcher: Launcher, shell: Ordering) -> None:
    order = shell("task", f'setsid sh -c "{MEMORY_HOG}" & wait', limits=Limits(memory=64 << 20))
    assert (await run(launcher, order)).oom_kills >= 1


@limited
async def test_a_tree_has_no_more_processes_than_it_may(launcher: Launcher, shell: Ordering) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; exit 0"
    order = shell("task", script, limits=Limits(pids=4), grace=timedelta(0))
    assert (await run(launcher, order)).exit != 0
    assert "fork" in output(order).lower()


@limited
async def test_a_tree_gets_the_processor_time_that_it_may(launcher: Launcher, shell: Ordering) -> None:
    script = 'cat $(awk -F: \'$1 == 0 { print "/sys/fs/cgroup" $3 "/cpu.max" }\' /proc/self/cgroup)'
    order = shell("task", script, limits=Limits(cpus=0.5))
    await run(launcher, order)
    assert output(order).strip() == "50000 100000"
