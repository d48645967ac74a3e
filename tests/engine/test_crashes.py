"""The server dies, meets a conflict or a full disk at any write: the main job ends right all the same."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from paddock.core.command import OPEN
from paddock.core.errors import Broken
from paddock.core.run import Verdict
from paddock.ports import Touched
from tests.engine.scene import CHANGE, Scene, open_scene

NOUNS = ("events", "rounds", "runs", "leases", "environments", "commands", "reports")


def check(scene: Scene) -> None:
    """What has to be true in the end, whatever happened on the way."""
    assert [(run.job, run.verdict) for run in scene.runs()] == [
        ("noop", Verdict.SUCCESS),
        ("pair-job", Verdict.SUCCESS),
    ]
    assert len(scene.forge.sent) == 1
    for agent in scene.agents.values():
        assert len(agent.executed) == len(set(agent.executed)), agent.id
    assert [one.state for one in scene.environments()] == ["ready"]
    assert scene.commands(state=sorted(OPEN)) == []
    assert {lease.state for lease in scene.look(lambda tables: tables.leases.where())} == {"released"}
    for machine in ("one", "two"):
        environment = scene.environments()[0].id
        assert scene.machine(machine, environment).scripts().count("greet") == 1


async def done(scene: Scene) -> None:
    def is_done() -> bool:
        return bool(scene.forge.sent) and [str(one.state) for one in scene.environments()] == ["ready"]

    await scene.until(is_done)
    await scene.settle()


async def writes_of_the_main_job() -> int:
    """How many writes the main job takes, from the comment to the clean environment."""
    async with open_scene() as scene:
        await scene.host_arrives()
        counted: list[Sequence[Touched]] = []
        scene.store.subscribe(counted.append)
        await scene.comment()
        await done(scene)
        check(scene)
        return len(counted)


async def begin_again(scene: Scene) -> None:
    await scene.begin_again()
    await done(scene)
    check(scene)


async def die_at(number: int) -> None:
    """Kill the server after its `number`-th write from the comment on, start it again, and see it through."""
    async with open_scene() as scene:
        await scene.host_arrives()
        scene.die_at(number)
        scene.forge.say_comment(CHANGE, "recheck")
        await scene.until_dead()
        await begin_again(scene)


async def fail_at(number: int) -> None:
    """The `number`-th write does not reach the disk: nothing more is written until an operator starts it again."""
    async with open_scene() as scene:
        await scene.host_arrives()
        left, write, store = number, scene.store.write, scene.store

        async def write_or_fail(step: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                store.fail_commit()
            return await write(step)

        scene.store.write = write_or_fail  # type: ignore[method-assign]
        scene.is_dying = True
        scene.forge.say_comment(CHANGE, "recheck")
        for _ in range(3000):
            await asyncio.sleep(0.0001)
            if left <= 0:
                break
        for _ in range(50):
            await asyncio.sleep(0)
        await begin_again(scene)


@pytest.mark.slow
async def test_the_server_may_die_after_any_write_of_the_main_job() -> None:
    total = await writes_of_the_main_job()
    assert total > 30
    for number in range(1, total):
        try:
            await die_at(number)
        except Exception as exc:
            raise AssertionError(f"it died after write {number} of {total}") from exc


@pytest.mark.slow
async def test_a_commit_may_fail_at_any_write_of_the_main_job() -> None:
    total = await writes_of_the_main_job()
    for number in range(1, total):
        try:
            await fail_at(number)
        except Exception as exc:
            raise AssertionError(f"the disk did not take write {number} of {total}") from exc


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("times", [1, 3])
async def test_a_conflict_is_looked_at_again(
    scene: Scene, noun: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(times):
        scene.store.conflict_once(noun)
    write = scene.desk._write

    async def write_until_taken(step: Any) -> Any:
        """As an agent does that is told that its word was not taken now."""
        for _ in range(10):
            try:
                return await write(step)
            except Broken:
                await asyncio.sleep(0)
        raise AssertionError("it was never taken")

    monkeypatch.setattr(scene.desk, "_write", write_until_taken)
    await scene.comment()
    await done(scene)
    check(scene)
