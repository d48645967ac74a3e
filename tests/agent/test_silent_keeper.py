"""A keeper that lives and does not answer holds its task all the same: no end is told, and no output is lost."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paddock.agent.paths import name_for
from paddock.hands import held, trees
from paddock.hands.launcher import read_keeper
from paddock.wire.hello import LOG_STREAM, TaskState
from paddock.wire.messages import Code, Command
from tests.agent.test_turns import Bench, bench, blocked_by

_SAID = "a keeper does not answer"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "_ANSWERS_WITHIN", 0.05)


def keeper_of(state: Path, task: str) -> trees.Identity:
    found = read_keeper(state / "tasks" / name_for(task))
    assert found is not None
    return found


def printed(output: Path) -> bytes:
    return output.read_bytes() if output.exists() else b""


async def begun(it: Bench, output: Path, gate: Path) -> None:
    """Task `a` has printed, and waits."""
    await it.give("a", f"echo up\n{blocked_by(gate)}\necho over")
    async with asyncio.timeout(20):
        while printed(output) != b"up\n":  # noqa: ASYNC110 - a file is no event
            await asyncio.sleep(0.005)


@contextmanager
def silent(keeper: trees.Identity, gate: Path) -> Iterator[None]:
    """It is stopped; in the end nobody waits for it, nor for the gate."""
    assert trees.send(keeper, signal.SIGSTOP)
    try:
        yield
    finally:
        trees.send(keeper, signal.SIGCONT)
        gate.touch()


async def until_noticed(it: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It was asked, and did not answer."""
    async with asyncio.timeout(20):
        while _SAID not in caplog.text and not it.finals:  # noqa: ASYNC110 - a line of a log is no event
            await asyncio.sleep(0.005)
    assert it.finals == {}


@pytest.mark.slow
async def test_a_task_whose_keeper_is_silent_at_birth_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate, output = tmp_path / "gate", tmp_path / "state/tasks" / name_for("a") / "output"
    async with bench(tmp_path) as it:
        await begun(it, output, gate)
    keeper = keeper_of(tmp_path / "state", "a")
    with silent(keeper, gate):
        async with bench(tmp_path) as it:
            await it.worker.recover()
            await until_noticed(it, caplog)
            trees.send(keeper, signal.SIGCONT)
            gate.touch()
            await it.until_ended("a")
    assert it.finals["a"].state is TaskState.COMPLETE
    assert it.finals["a"].outputs == {LOG_STREAM: len("up\nover\n")}


@pytest.mark.slow
async def test_one_that_is_to_end_meanwhile_ends_once_its_keeper_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate, output = tmp_path / "gate", tmp_path / "state/tasks" / name_for("a") / "output"
    async with bench(tmp_path) as it:
        await begun(it, output, gate)
    keeper = keeper_of(tmp_path / "state", "a")
    with silent(keeper, gate):
        async with bench(tmp_path) as it:
            await it.worker.recover()
            await until_noticed(it, caplog)
            await it.worker.carry_out(Command(id="x", method="task.cancel", params={"task_id": "a", "grace": 0}))
            trees.send(keeper, signal.SIGCONT)
            await it.until_ended("a")
    assert it.finals["a"].code is Code.CANCELLED
    assert it.finals["a"].outputs == {LOG_STREAM: len("up\n")}


@pytest.mark.slow
async def test_a_task_whose_line_is_cut_while_its_keeper_is_silent_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate, output = tmp_path / "gate", tmp_path / "state/tasks" / name_for("a") / "output"
    async with bench(tmp_path) as it:
        await begun(it, output, gate)
        with silent(keeper_of(tmp_path / "state", "a"), gate):
            line = it.worker._running["a"].held
            assert line is not None
            line.close()
            await until_noticed(it, caplog)
            assert it.worker.spool.has("a")
        await it.until_ended("a")
    assert it.finals["a"].state is TaskState.COMPLETE
    assert it.finals["a"].outputs == {LOG_STREAM: len("up\nover\n")}
