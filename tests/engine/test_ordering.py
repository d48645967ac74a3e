"""Ordering: who may command which agent, and that an id is one command for ever."""

import pytest

from paddock.core.access import Identity, Role
from paddock.core.command import Command, State
from paddock.core.errors import Missing, NotAllowed, NotOffered, Refused
from paddock.engine.ordering import Wish
from paddock.wire.fields import BadParams
from tests.engine.fake_agent import FakeAgent, Reply
from tests.engine.scene import ANNA, BO, ROOT, Scene

LAB = Identity(name="anna", role=Role.LAB)
RUN = {"run": "greet"}


async def ordered(
    scene: Scene, agent: str, method: str, params: dict[str, object] | None = None, *, id: str = "", by: Identity = ROOT
) -> Command:
    """The command as it is once everybody has done what there is to do."""
    found = await scene.people.order(agent, Wish(id=id, method=method, params=params or {}), identity=by)
    await scene.settle()
    return scene.command(found.command.id)


@pytest.fixture
async def host(scene: Scene) -> FakeAgent:
    return scene.host


async def test_a_command_is_carried_out_and_its_output_kept(scene: Scene) -> None:
    done = await ordered(scene, "local", "script.run", dict(RUN), id="mine-1")
    assert (done.id, done.agent, done.state, done.exit, done.by) == (
        "mine-1",
        scene.host.id,
        State.COMPLETE,
        0,
        "root",
    )
    assert await scene.archive.read(f"agents/{scene.host.id}/commands/mine-1/out.log") == b"hello\n"


async def test_the_same_id_is_the_same_command_and_is_not_sent_again(scene: Scene) -> None:
    first = await ordered(scene, "local", "script.run", dict(RUN), id="mine-1")
    again = await scene.people.order(
        scene.host.id, Wish(id="mine-1", method="script.run", params=dict(RUN)), identity=ROOT
    )
    await scene.settle()
    assert (again.command, again.is_new) == (first, False)
    assert scene.host.executed.count("mine-1") == 1


@pytest.mark.parametrize(
    ("method", "params", "by"),
    [
        ("script.run", {"run": "other"}, ROOT),
        ("script.run", {"run": "greet", "umask": True}, ROOT),
        ("status", {}, ROOT),
        ("script.run", {"run": "greet", "umask": 1}, Identity(name="other", role=Role.OPERATOR)),
    ],
    ids=["other params", "true is not 1", "another method", "somebody else"],
)
async def test_an_id_that_was_given_to_something_else_is_refused(
    scene: Scene, method: str, params: dict[str, object], by: Identity
) -> None:
    await ordered(scene, "local", "script.run", {"run": "greet", "umask": 1}, id="mine-1")
    with pytest.raises((Refused, BadParams), match=r"mine-1|umask"):
        await scene.people.order("local", Wish(id="mine-1", method=method, params=params), identity=by)


async def test_an_agent_that_is_away_gets_it_when_it_is_back(scene: Scene) -> None:
    await scene.host.leave()
    waiting = await ordered(scene, "local", "script.run", dict(RUN))
    assert waiting.state is State.QUEUED
    await scene.host.say_hello()
    await scene.settle()
    assert scene.command(waiting.id).state is State.COMPLETE


async def test_a_method_that_the_agent_did_not_name_is_refused_with_what_it_offers(scene: Scene) -> None:
    scene.host.offers = ("script.run", "docker.info")
    await scene.host.say_hello()
    with pytest.raises(NotOffered, match=r"it has no method file\.put") as caught:
        await ordered(scene, "local", "file.put", {"path": "x", "data": ""})
    assert caught.value.hint == "it offers: docker.info script.run"
    assert (await ordered(scene, "local", "docker.info", {"all": 1})).state is State.COMPLETE


async def test_what_agents_ask_of_the_server_is_not_asked_of_them(scene: Scene) -> None:
    with pytest.raises(NotOffered):
        await ordered(scene, "local", "hello")


@pytest.mark.parametrize(
    ("method", "params", "path"),
    [
        ("script.run", {"run": "x", "limit": -1}, "params.limit"),
        ("script.run", {}, "params.argv"),
        ("script.run", {"run": "x", "fence": 3}, "params.fence"),
        ("script.run", {"run": "x", "environment": "pair-1"}, "params.environment"),
        ("script.run", {"run": "x", "task_id": "other"}, "params.task_id"),
    ],
)
async def test_bad_params_are_named_by_their_path_before_anything_is_stored(
    scene: Scene, method: str, params: dict[str, object], path: str
) -> None:
    with pytest.raises(BadParams) as caught:
        await ordered(scene, "local", method, params)
    assert caught.value.path == path
    assert not scene.commands(by="root")


async def test_upkeep_is_the_servers_alone(scene: Scene) -> None:
    with pytest.raises(Refused, match="only the server's own upkeep"):
        await ordered(scene, "local", "machine.destroy", {"machine": "one"})


@pytest.mark.parametrize("method", ["script.run", "file.get", "docker.info"])
async def test_a_person_changes_no_host_and_reads_no_file_of_it(scene: Scene, method: str) -> None:
    params: dict[str, object] = {"path": "/etc/shadow"} if method == "file.get" else {}
    with pytest.raises(NotAllowed, match="for an operator"):
        await ordered(scene, "local", method, params or ({"run": "x"} if method == "script.run" else {}), by=ANNA)


async def test_a_person_may_ask_how_a_host_is(scene: Scene) -> None:
    assert (await ordered(scene, "local", "status", by=ANNA)).state is State.COMPLETE


async def test_who_borrowed_a_machine_commands_it_and_the_server_adds_the_fence(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    done = await ordered(scene, f"{lease.environment}.one", "script.run", dict(RUN), by=LAB)
    assert (done.environment, done.fence, done.state) == (lease.environment, lease.fence, State.COMPLETE)
    assert scene.machine("one").received[-1].params == {**RUN, "environment": lease.environment, "fence": lease.fence}
    again = await scene.people.order(done.agent, Wish(id=done.id, method="script.run", params=dict(RUN)), identity=LAB)
    assert not again.is_new


async def test_who_did_not_borrow_it_does_not(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    with pytest.raises(NotAllowed, match="is not lent to you"):
        await ordered(scene, f"{lease.environment}.one", "script.run", dict(RUN), by=BO)


async def test_nobody_disturbs_a_machine_that_is_free(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert scene.environment("pair-1").state == "ready"
    with pytest.raises(Refused, match="it is free, and clean for whoever borrows it next"):
        await ordered(scene, "pair-1.one", "script.run", dict(RUN))


async def test_with_the_lease_ends_what_was_ordered_under_it(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    scene.machine("one").on("script.run", Reply(is_running=True))
    running = await ordered(scene, "pair-1.one", "script.run", dict(RUN), by=ANNA)
    assert running.state is State.RUNNING
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    over = scene.command(running.id)
    assert (over.state, over.code) == (State.FAILED, "stale")


async def test_a_held_machine_is_its_holders(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.people.hold("pair-1", ttl=lease.ttl or scene.clock.now() - scene.clock.now(), identity=BO)
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    assert (await ordered(scene, "pair-1.one", "script.run", dict(RUN), by=BO)).state is State.COMPLETE
    with pytest.raises(NotAllowed):
        await ordered(scene, "pair-1.one", "script.run", dict(RUN), by=ANNA)


async def test_an_agent_that_is_no_more_is_missing(scene: Scene) -> None:
    before = scene.host.id
    await scene.enrol()
    with pytest.raises(Missing, match="another agent stands for host local now"):
        await ordered(scene, before, "script.run", dict(RUN))
    with pytest.raises(Missing, match="there is none"):
        await ordered(scene, "nobody", "script.run", dict(RUN))


async def test_what_was_not_sent_is_cancelled_without_asking(scene: Scene) -> None:
    await scene.host.leave()
    waiting = await ordered(scene, "local", "script.run", dict(RUN))
    await scene.people.cancel_order("local", waiting.id, grace=None, identity=ROOT)
    over = scene.command(waiting.id)
    assert (over.state, over.code) == (State.FAILED, "cancelled")
    await scene.host.say_hello()
    await scene.settle()
    assert waiting.id not in scene.host.executed


async def test_what_runs_is_cancelled_once_however_often_that_is_asked(scene: Scene) -> None:
    scene.host.on("script.run", Reply(is_running=True))
    running = await ordered(scene, "local", "script.run", dict(RUN))
    scene.host.is_away = True
    for _ in range(2):
        await scene.people.cancel_order("local", running.id, grace=3, identity=ROOT)
    assert [one.params for one in scene.commands(method="task.cancel")] == [{"task_id": running.id, "grace": 3}]
    scene.host.is_away = False
    await scene.host.pull()
    await scene.settle()
    over = scene.command(running.id)
    assert (over.state, over.code) == (State.FAILED, "cancelled")
    with pytest.raises(Refused, match="it is failed already"):
        await scene.people.cancel_order("local", running.id, grace=None, identity=ROOT)


async def test_a_runs_command_is_not_cancelled_behind_its_back(scene: Scene) -> None:
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    running = scene.commands(method="script.run", state=State.RUNNING)[0]
    with pytest.raises(Refused, match="it belongs to run 2"):
        await scene.people.cancel_order(running.agent, running.id, grace=None, identity=ROOT)


async def test_only_who_ordered_it_cancels_it(scene: Scene) -> None:
    scene.host.on("script.run", Reply(is_running=True))
    running = await ordered(scene, "local", "script.run", dict(RUN))
    with pytest.raises(NotAllowed, match="is root's"):
        await scene.people.cancel_order("local", running.id, grace=None, identity=ANNA)


async def test_files_of_a_collection_lie_beside_each_other_whatever_they_are_called(scene: Scene) -> None:
    scene.host.on("file.collect", Reply(files={"out": b"one", "a/out.log": b"two"}, output=b""))
    done = await ordered(scene, "local", "file.collect", {"root": "/x", "globs": ["**"]})
    kept = await scene.archive.list(f"agents/{scene.host.id}/commands/{done.id}")
    assert {name.partition(f"{done.id}/")[2]: size for name, size in kept.items()} == {
        "files/out": 3,
        "files/a/out.log": 3,
    }
