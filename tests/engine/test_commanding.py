"""Commanding: commands go out durably and at most once; what agents say is taken from their owners alone."""

from dataclasses import replace
from typing import Any

import pytest

from paddock.core import host as hosts
from paddock.core.command import Command, State
from paddock.core.errors import Broken, Refused, Stale
from paddock.core.run import Verdict
from paddock.engine import filing, noting
from paddock.engine.commanding import LAST_WORDS, Commanding
from paddock.engine.means import order
from paddock.engine.ordering import Wish
from paddock.testing import settle
from paddock.wire.hello import LOG_STREAM, Enrol, Facts, Output, Status, TaskReport, TaskState
from paddock.wire.messages import Code
from tests.engine.fake_agent import FakeAgent, Reply
from tests.engine.scene import HOUR, ROOT, Scene


@pytest.fixture
async def busy(scene: Scene) -> Scene:
    """A run is under way: a step runs on both machines of pair-1."""
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    return scene


def greeting(scene: Scene, machine: str = "one") -> Command:
    return scene.command(scene.machine(machine).received[-1].id)


def out(id: str, data: bytes = b"x", offset: int = 0, stream: str = LOG_STREAM, **rest: Any) -> Output:
    return Output(task_id=id, stream=stream, offset=offset, data=data, **rest)


async def order_for_host(scene: Scene, method: str = "status", **rest: Any) -> Command:
    return await scene.write(
        lambda tables: order(tables, scene.means, scene.host.id, method, {}, now=NOW(scene), **rest)
    )


def NOW(scene: Scene) -> Any:  # noqa: N802
    return scene.clock.now()


# --- out ---


async def test_a_command_is_durably_sent_before_it_leaves(scene: Scene) -> None:
    scene.host.is_away = True
    asked = await order_for_host(scene)
    sent = await scene.desk.outgoing(scene.host.id, scene.host.session, limit=10)
    assert [one.id for one in sent] == [asked.id]
    assert scene.command(asked.id).state is State.SENT


async def test_when_the_store_does_not_take_it_nothing_leaves(scene: Scene) -> None:
    scene.host.is_away = True
    asked = await order_for_host(scene)
    scene.store.fail_commit()
    with pytest.raises(Broken):
        await scene.desk.outgoing(scene.host.id, scene.host.session, limit=10)
    assert scene.command(asked.id).state is State.QUEUED


async def test_commands_leave_in_order_of_seq_and_each_once(scene: Scene) -> None:
    scene.host.is_away = True
    for _ in range(5):
        await order_for_host(scene)
    first = await scene.desk.outgoing(scene.host.id, scene.host.session, limit=3)
    rest = await scene.desk.outgoing(scene.host.id, scene.host.session, limit=3)
    seqs = [one.seq for one in (*first, *rest)]
    assert seqs == sorted(set(seqs))
    assert len(seqs) == 5


async def test_a_session_that_is_not_the_live_one_gets_nothing(scene: Scene) -> None:
    scene.host.is_away = True
    await order_for_host(scene)
    assert await scene.desk.outgoing(scene.host.id, "an old one", limit=10) == []
    assert await scene.desk.unanswered(scene.host.id, "an old one") == []


async def test_a_command_whose_fence_is_over_is_never_sent(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    scene.host.is_away = True
    for _ in range(70):
        await order_for_host(scene, "machine.clean", environment="pair-1", fence=lease.fence - 1, machine="one")
    live = await order_for_host(scene, "machine.clean", environment="pair-1", fence=lease.fence, machine="one")
    sent = await scene.desk.outgoing(scene.host.id, scene.host.session, limit=64)
    assert [one.id for one in sent] == [live.id]
    assert len(scene.commands(agent=scene.host.id, state="failed", code="stale")) == 70


async def test_whoever_waits_for_a_command_is_nudged_once_it_is_stored(scene: Scene) -> None:
    await scene.host.leave()
    scene.links.nudged.clear()
    await order_for_host(scene)
    assert scene.links.nudged == [scene.host.id]


# --- in ---


async def test_an_answer_is_taken_once_and_repeats_are_harmless(busy: Scene) -> None:
    agent, command = busy.machine("one"), greeting(busy)
    for _ in range(2):
        await agent.accept(command)
        await agent.tell(command, TaskState.RUNNING)
    await agent.finish(command)
    ended = busy.command(command.id)
    for _ in range(2):
        await agent.accept(command)
        await agent.tell(command, TaskState.RUNNING)
        await agent.tell(command, TaskState.COMPLETE, result={"exit": 5})
    assert busy.command(command.id) == ended


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.COMPLETE, TaskState.ERROR])
async def test_an_answer_that_tells_the_state_of_a_task_does_not_end_it(scene: Scene, state: TaskState) -> None:
    """Asked again, an agent tells the end once more and answers with the state; we may miss the former only."""
    scene.host.is_away = True
    asked = await order_for_host(scene, "script.run")
    await scene.desk.outgoing(scene.host.id, scene.host.session, limit=10)
    end = Status(task_id=asked.id, state=TaskState.ERROR, code=Code.INTERRUPTED, outputs={LOG_STREAM: 150_000})
    scene.store.conflict_once("commands")
    with pytest.raises(Broken):
        await scene.desk.told(scene.host.id, end)
    result = {"task_id": asked.id, "state": str(state)}
    await scene.desk.answered(scene.host.id, asked.id, result=result, code="", message="")
    assert [one.id for one in await scene.desk.unanswered(scene.host.id, scene.host.session)] == [asked.id]
    await scene.desk.told(scene.host.id, end)
    ended = scene.command(asked.id)
    assert (ended.state, ended.code, ended.outputs) == (State.FAILED, "interrupted", {LOG_STREAM: 150_000})


async def test_a_result_that_only_looks_like_a_tasks_answer_ends_its_command(scene: Scene) -> None:
    scene.host.is_away = True
    asked = await order_for_host(scene)
    await scene.desk.outgoing(scene.host.id, scene.host.session, limit=10)
    result = {"task_id": asked.id, "state": ["complete"]}
    await scene.desk.answered(scene.host.id, asked.id, result=result, code="", message="")
    assert scene.command(asked.id).result == result


async def test_a_status_of_somebody_elses_task_is_refused_and_changes_nothing(busy: Scene) -> None:
    liar, victim = busy.machine("two"), greeting(busy, "one")
    with pytest.raises(Refused, match="not a task of this agent"):
        await liar.tell(victim, TaskState.COMPLETE, result={"exit": 0})
    await busy.desk.answered(liar.id, victim.id, result={"exit": 0}, code="", message="")
    assert busy.command(victim.id).state is State.RUNNING


async def test_a_status_of_a_task_that_never_was_is_refused(busy: Scene) -> None:
    with pytest.raises(Refused, match="not a task of this agent"):
        await busy.desk.told("pair-1.one", Status(task_id="made-up", state=TaskState.RUNNING))


async def test_a_status_under_a_fence_that_is_over_is_stale(busy: Scene) -> None:
    command = greeting(busy)
    await busy.people.quarantine("pair-1", reason="odd", identity=ROOT)
    with pytest.raises(Stale, match="fence 2 of pair-1 is over"):
        await busy.machine("one").tell(command, TaskState.COMPLETE, result={"exit": 0})


async def test_nothing_ends_that_was_not_sent(scene: Scene) -> None:
    scene.host.is_away = True
    asked = await order_for_host(scene)
    with pytest.raises(Refused):
        await scene.desk.told(scene.host.id, Status(task_id=asked.id, state=TaskState.COMPLETE))


async def test_to_an_agent_a_store_that_was_taken_over_is_broken_not_stale(busy: Scene) -> None:
    """Stale would tell it that its own fence is over, and it would throw its results away."""
    command = greeting(busy)
    busy.store.reopen()
    with pytest.raises(Broken):
        await busy.machine("one").tell(command, TaskState.COMPLETE, result={"exit": 0})


async def test_to_an_agent_a_conflict_is_something_to_try_again(busy: Scene) -> None:
    command = greeting(busy)
    busy.store.conflict_once("commands")
    with pytest.raises(Broken):
        await busy.machine("one").tell(command, TaskState.COMPLETE, result={"exit": 0})
    await busy.machine("one").finish(command)
    assert busy.command(command.id).state is State.COMPLETE


# --- output ---


async def test_output_is_appended_and_its_times_noted(busy: Scene) -> None:
    command = greeting(busy)
    moment = NOW(busy)
    assert await busy.desk.output("pair-1.one", out(command.id, b"one\n", times=((0, moment),))) == 4
    assert await busy.desk.output("pair-1.one", out(command.id, b"two\n", offset=4, times=((4, moment),))) == 8
    assert await busy.archive.read(f"{command.archive}.log") == b"one\ntwo\n"
    assert (await busy.archive.read(f"{command.archive}.times")).startswith(b"0 2026-01-01T00:00:00.000+00:00\n4 ")
    assert busy.grown[-1] == (f"{command.archive}.log", 8)


async def test_output_told_twice_is_stored_once_with_its_times(busy: Scene) -> None:
    command = greeting(busy)
    for _ in range(3):
        await busy.desk.output("pair-1.one", out(command.id, b"one\n", times=((0, NOW(busy)),)))
    assert await busy.archive.read(f"{command.archive}.log") == b"one\n"
    assert (await busy.archive.read(f"{command.archive}.times")).count(b"\n") == 1


async def test_a_run_is_looked_at_again_when_an_ended_tasks_output_is_whole_and_not_for_each_piece(busy: Scene) -> None:
    command = greeting(busy)
    await busy.machine("one").tell(command, TaskState.COMPLETE, result={"exit": 0}, outputs={LOG_STREAM: 8})
    looks: list[str] = []
    desk = Commanding(busy.means, grew=lambda name, length: None, stir=looks.append)
    await desk.output("pair-1.one", out(command.id, b"one\n"))
    assert looks == []
    await desk.output("pair-1.one", out(command.id, b"two\n", offset=4))
    assert looks == [command.run]


async def test_there_are_never_more_times_than_bytes(busy: Scene) -> None:
    command = greeting(busy)
    many = tuple((0, NOW(busy)) for _ in range(1000))
    await busy.desk.output("pair-1.one", out(command.id, b"", times=many))
    await busy.desk.output("pair-1.one", out(command.id, b"x", times=many))
    assert (await busy.archive.read(f"{command.archive}.times")).count(b"\n") == 1


async def test_output_of_somebody_elses_task_is_refused(busy: Scene) -> None:
    command = greeting(busy, "one")
    with pytest.raises(Refused, match="not a task of this agent"):
        await busy.desk.output("pair-1.two", out(command.id))
    await busy.desk.output("pair-1.one", out(command.id))
    with pytest.raises(Refused, match="not a task of this agent"):
        await busy.desk.output("pair-1.two", out(command.id, offset=1))


async def test_output_under_a_fence_that_is_over_is_stale_from_the_moment_on(busy: Scene) -> None:
    command = greeting(busy)
    await busy.desk.output("pair-1.one", out(command.id))
    await busy.people.quarantine("pair-1", reason="odd", identity=ROOT)
    with pytest.raises(Stale):
        await busy.desk.output("pair-1.one", out(command.id, offset=1))


async def test_output_that_leaves_a_hole_is_refused(busy: Scene) -> None:
    command = greeting(busy)
    with pytest.raises(Refused, match="offset 7 is beyond its 0 bytes"):
        await busy.desk.output("pair-1.one", out(command.id, offset=7))


async def test_output_goes_on_behind_a_piece_that_was_cut_off_while_it_was_stored(busy: Scene) -> None:
    command = greeting(busy)
    await busy.desk.output("pair-1.one", out(command.id, b"one\n"))
    # The session ended before its store was answered: the bytes are there, and nobody was told.
    await busy.means.archive.append(filing.stream_name(command, LOG_STREAM), 4, b"two\n")
    assert await busy.desk.output("pair-1.one", out(command.id, b"three\n", offset=8)) == 14


async def test_output_beyond_its_limit_is_refused(busy: Scene) -> None:
    command = greeting(busy)
    most = int(str(command.params["output_limit"]))
    await busy.archive.write(f"{command.archive}.log", b"x" * 10)
    with pytest.raises(Refused, match=f"at most {most} are taken"):
        await busy.desk.output("pair-1.one", out(command.id, b"x", offset=most + LAST_WORDS))


async def test_another_stream_than_its_log_is_refused_for_a_script(busy: Scene) -> None:
    with pytest.raises(Refused, match=r"a script\.run has no such stream"):
        await busy.desk.output("pair-1.one", out(greeting(busy).id, stream="../other"))


async def test_output_of_a_command_that_keeps_none_is_refused(scene: Scene) -> None:
    scene.host.on("machine.build", Reply(is_running=True))
    await scene.acquire("pair")
    command = next(iter(scene.host.running.values()))
    with pytest.raises(Refused, match=r"the output of a machine\.build is not kept"):
        await scene.desk.output(scene.host.id, out(command.id))


async def collect_command(scene: Scene, **limits: int) -> Command:
    given = {"file_limit": 10, "total_limit": 25, "names_limit": 3, **limits}
    environment = scene.environment("pair-1")

    def step(tables: Any) -> Command:
        return order(
            tables,
            scene.means,
            "pair-1.one",
            "file.collect",
            given,
            now=NOW(scene),
            environment="pair-1",
            fence=environment.fence,
            machine="one",
            archive="review/x/artifacts/one",
        )

    return await scene.write(step)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../etc/passwd", "a/../../b", "a//b", "", ".", "a\nb", "a\x00b", "x" * 256, "\x1b[2J"]
)
async def test_a_file_whose_name_leads_elsewhere_is_refused_by_name(busy: Scene, name: str) -> None:
    command = await collect_command(busy)
    with pytest.raises(Refused):
        await busy.desk.output("pair-1.one", out(command.id, stream=name))
    assert await busy.archive.list("review/x") == {}


async def test_files_are_stored_below_their_machine(busy: Scene) -> None:
    command = await collect_command(busy)
    await busy.desk.output("pair-1.one", out(command.id, b"<x/>", stream="logs/a.xml"))
    assert await busy.archive.list("review/x") == {"review/x/artifacts/one/logs/a.xml": 4}


async def test_the_sizes_of_files_have_limits(busy: Scene) -> None:
    command = await collect_command(busy)

    async def send(name: str, size: int, offset: int = 0) -> None:
        await busy.desk.output("pair-1.one", out(command.id, b"x" * size, stream=name, offset=offset))

    with pytest.raises(Refused, match="a: 11 bytes, at most 10 are taken"):
        await send("a", 11)
    await send("a", 10)
    await send("b", 10)
    with pytest.raises(Refused, match="c: at most 25 bytes are taken of all files"):
        await send("c", 6)
    await send("c", 5)
    with pytest.raises(Refused, match="d: at most 3 files are taken"):
        await send("d", 0)


async def test_a_status_in_between_does_not_forget_how_much_was_taken(busy: Scene) -> None:
    command = await collect_command(busy)
    for name in ("a", "b"):
        await busy.desk.output("pair-1.one", out(command.id, b"x" * 10, stream=name))
        await busy.machine("one").tell(command, TaskState.RUNNING, percent=10.0)
    with pytest.raises(Refused, match="at most 25 bytes are taken of all files"):
        await busy.desk.output("pair-1.one", out(command.id, b"x" * 10, stream="c"))


async def test_a_new_server_knows_how_much_the_old_one_took(busy: Scene) -> None:
    command = await collect_command(busy)
    await busy.desk.output("pair-1.one", out(command.id, b"x" * 10, stream="a"))
    await busy.desk.output("pair-1.one", out(command.id, b"x" * 10, stream="b"))
    await busy.restart()
    await busy.everybody_returns()
    with pytest.raises(Refused, match="at most 25 bytes are taken of all files"):
        await busy.desk.output("pair-1.one", out(command.id, b"x" * 10, stream="c"))


async def test_a_full_disk_is_broken_and_the_rest_is_taken_later(busy: Scene) -> None:
    command = greeting(busy)
    busy.archive.fail()
    with pytest.raises(Broken):
        await busy.desk.output("pair-1.one", out(command.id))
    busy.archive.mend()
    assert await busy.desk.output("pair-1.one", out(command.id)) == 1


async def test_an_agents_own_log_grows_by_one_write_a_batch(scene: Scene) -> None:
    batch = [{"level": "info", "msg": f"line {number}", "time": "2026-01-31T09:42:00Z"} for number in range(50)]
    await scene.desk.logged("a1", batch)
    await scene.desk.logged("a1", [{"level": "error", "msg": "last", "time": "2026-01-31T09:43:00Z"}])
    kept = await noting.last(scene.archive, "a1", count=100)
    assert [line.message for line in kept.items] == [*(f"line {number}" for number in range(50)), "last"]
    assert [name for name, _ in scene.grown] == ["agents/a1/log"] * 2


# --- hello ---


async def test_a_hello_with_a_new_ledger_interrupts_what_was_sent(busy: Scene) -> None:
    command = greeting(busy)
    agent = busy.machine("one")
    await agent.leave()
    agent.ledger = "another"
    await agent.say_hello()
    ended = busy.command(command.id)
    assert (ended.state, ended.code) == (State.FAILED, "interrupted")


@pytest.mark.parametrize("minutes", [0, 30])
async def test_a_reboot_is_complete_with_the_next_boot_whatever_the_ledger_says(scene: Scene, minutes: int) -> None:
    scene.host.on("system.reboot", Reply(is_running=True))
    wish = Wish(id="boot-1", method="system.reboot", params={"limit": 1200})
    await scene.people.order("local", wish, identity=ROOT)
    await scene.settle()
    await scene.host.leave()
    await scene.host.say_hello()
    assert scene.command("boot-1").state is State.RUNNING, "the agent was away, its machine was not"
    await scene.host.leave()
    await scene.later(minutes=minutes)
    scene.host.boot_id, scene.host.ledger = "boot-2", "another"
    await scene.host.say_hello(tasks=[TaskReport(task_id="boot-1", state=TaskState.ERROR)])
    over = scene.command("boot-1")
    ended = (over.state, over.code, over.result)
    assert ended == ((State.FAILED, "timed_out", {}) if minutes else (State.COMPLETE, "", {"booted": True}))
    late = Status(task_id="boot-1", state=TaskState.ERROR, code=Code.INTERRUPTED, msg="who knows")
    await scene.desk.told(scene.host.id, late)
    assert scene.command("boot-1") == over
    assert scene.host.received.count(scene.host.received[-1]) == 1, "and is not sent again"


async def test_a_reboot_that_was_not_sent_is_not_complete_by_a_boot_before_it(scene: Scene) -> None:
    await scene.host.leave()
    await scene.people.order("local", Wish(id="boot-1", method="system.reboot", params={}), identity=ROOT)
    scene.host.on("system.reboot", Reply(is_running=True))
    scene.host.boot_id = "boot-2"
    await scene.host.say_hello()
    assert scene.command("boot-1").state is State.RUNNING


async def test_a_new_enrolment_interrupts_what_the_agent_before_was_asked(scene: Scene) -> None:
    scene.host.on("script.run", Reply(is_running=True))
    before = scene.host
    await scene.people.order("local", Wish(id="c1", method="script.run", params={"run": "x"}), identity=ROOT)
    await scene.settle()
    agent = await scene.enrol()
    await agent.say_hello()
    assert (scene.command("c1").state, scene.command("c1").code) == (State.FAILED, "interrupted")
    assert agent.received == []
    with pytest.raises(Refused):
        await before.say_hello()


async def test_a_hello_with_the_same_ledger_gets_what_has_no_answer_again_under_the_same_id_and_seq(
    scene: Scene,
) -> None:
    scene.host.on("machine.build", Reply(is_silent=True))
    await scene.acquire("pair")
    before = [(one.id, one.seq) for one in scene.host.received]
    await scene.host.leave()
    scene.host.on("machine.build", Reply())
    await scene.host.say_hello()
    await scene.settle()
    assert [(one.id, one.seq) for one in scene.host.received] == before * 2
    assert scene.environment("pair-1").state == "leased"


async def test_what_was_accepted_is_not_sent_again(busy: Scene) -> None:
    agent = busy.machine("one")
    before = len(agent.received)
    await agent.leave()
    await agent.say_hello()
    assert len(agent.received) == before


async def test_an_agent_that_has_seen_higher_seqs_gets_higher_ones(scene: Scene) -> None:
    await scene.host.leave()
    for _ in range(3):
        await order_for_host(scene)
    scene.host.seq = 1000
    await scene.host.say_hello()
    seqs = [one.seq for one in scene.host.received if one.method == "status"]
    assert seqs == [1001, 1002, 1003]


async def test_a_host_that_has_seen_a_higher_fence_has_its_environment_destroyed(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.host.leave()
    scene.host.fences["pair-1"] = 50
    await scene.host.say_hello()
    await scene.settle()
    assert scene.lease(lease.id).state == "revoked"
    assert scene.environment("pair-1").state == "gone"
    assert scene.environment("pair-1").fence > 50


async def test_what_a_machine_says_about_fences_is_not_believed(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    machine = scene.machine("one")
    await machine.leave()
    machine.fences["pair-1"] = 50
    await machine.say_hello()
    assert scene.environment("pair-1").fence == lease.fence


async def test_a_host_that_has_seen_a_higher_epoch_raises_ours(scene: Scene) -> None:
    await scene.host.leave()
    scene.host.epoch = 40
    admitted = await scene.host.say_hello()
    assert admitted.welcome.epoch == scene.store.epoch == 41


async def test_when_the_epoch_is_raised_all_others_say_hello_again(scene: Scene) -> None:
    await scene.acquire("pair")
    await scene.host.leave()
    scene.host.epoch = 40
    await scene.host.say_hello()
    assert sorted(id for id, _ in scene.links.dropped) == ["pair-1.one", "pair-1.two"]


async def test_what_a_machine_says_about_epochs_is_not_believed(scene: Scene) -> None:
    await scene.acquire("pair")
    machine = scene.machine("one")
    await machine.leave()
    machine.epoch = 40
    await machine.say_hello()
    assert scene.store.epoch == 1


@pytest.mark.parametrize("field", ["seq", "epoch", "fence"])
async def test_counters_beyond_anything_counted_are_refused(scene: Scene, field: str) -> None:
    await scene.acquire("pair")
    agent = scene.machine("one") if field == "seq" else scene.host
    await agent.leave()
    if field == "fence":
        agent.fences["pair-1"] = (1 << 63) - 1
    else:
        setattr(agent, field, (1 << 63) - 1)
    with pytest.raises(Refused, match="higher than anything was ever counted"):
        await agent.say_hello()
    assert scene.store.epoch == 1


async def test_an_agent_may_forget_what_the_server_has_or_no_longer_takes(busy: Scene) -> None:
    agent, command = busy.machine("one"), greeting(busy)
    await agent.leave()
    done = agent.received[0]
    tasks = [TaskReport(task_id=id, state=TaskState.RUNNING) for id in ("made-up", command.id, done.id)]
    admitted = await agent.say_hello(tasks=tasks)
    assert "made-up" in admitted.welcome.forget
    assert command.id not in admitted.welcome.forget


async def test_an_agent_is_told_where_its_output_goes_on(busy: Scene) -> None:
    agent, command = busy.machine("one"), greeting(busy)
    await busy.desk.output(agent.id, out(command.id, b"12345"))
    await agent.leave()
    admitted = await agent.say_hello(tasks=[TaskReport(task_id=command.id, state=TaskState.RUNNING)])
    assert [(one.task_id, one.stream, one.offset) for one in admitted.welcome.deliver] == [(command.id, LOG_STREAM, 5)]


async def test_a_task_of_another_agent_is_to_be_forgotten(busy: Scene) -> None:
    other = greeting(busy, "two")
    agent = busy.machine("one")
    await agent.leave()
    admitted = await agent.say_hello(tasks=[TaskReport(task_id=other.id, state=TaskState.RUNNING)])
    assert admitted.welcome.forget == (other.id,)


async def test_a_host_is_told_the_fences_of_all_that_it_carries(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.host.leave()
    admitted = await scene.host.say_hello()
    assert admitted.welcome.fences["pair-1"] == lease.fence
    assert set(admitted.welcome.fences) == {"pair-1", "slot-1", "slot-2"}


async def test_a_machine_is_told_the_fence_of_its_own_environment_alone(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    await scene.machine("one").leave()
    admitted = await scene.machine("one").say_hello()
    assert admitted.welcome.fences == {"pair-1": lease.fence}


# --- identity ---


def twin_of(scene: Scene, agent: FakeAgent) -> FakeAgent:
    return FakeAgent(scene.desk, id=agent.id, token=agent.token, ledger="a copy's", boot_id="another")


async def test_two_agents_that_both_answer_to_one_identity_are_both_shut_out(scene: Scene) -> None:
    twin = twin_of(scene, scene.host)
    with pytest.raises(Refused, match="both are shut out"):
        await twin.say_hello()
    assert [id for id, _ in scene.links.dropped] == [scene.host.id]
    for agent in (twin, scene.host):
        with pytest.raises(Refused, match="shut out"):
            await agent.say_hello()


async def test_two_that_both_answer_as_one_machine_cost_the_environment(busy: Scene) -> None:
    machine = busy.machine("one")
    twin = FakeAgent(busy.desk, id=machine.id, relay=machine.relay, ledger="a copy's")
    with pytest.raises(Refused, match="both are shut out"):
        await twin.say_hello()
    with pytest.raises(Refused, match="shut out"):
        await machine.say_hello()
    await busy.until(lambda: busy.run("2").is_done)
    assert (busy.run("2").verdict, busy.environment("pair-1").state) == (Verdict.ERROR, "gone")


async def test_a_person_may_take_an_identity_back_in(scene: Scene) -> None:
    with pytest.raises(Refused):
        await twin_of(scene, scene.host).say_hello()
    await scene.people.resume_host("local", identity=ROOT)
    await scene.host.say_hello()
    assert await scene.is_host(hosts.State.ONLINE)


async def test_an_old_session_that_does_not_answer_is_replaced(scene: Scene) -> None:
    twin = twin_of(scene, scene.host)
    twin.is_answering_pings = False
    await twin.say_hello()
    assert scene.look(lambda tables: tables.agents.find(twin.id).session) == twin.session


async def test_the_same_ledger_and_boot_replaces_its_older_session_without_a_question(scene: Scene) -> None:
    old = scene.host.session
    await scene.host.say_hello()
    assert scene.host.session != old
    await scene.desk.left(scene.host.id, old)
    assert scene.look(lambda tables: tables.agents.find(scene.host.id).session) == scene.host.session


async def test_a_token_is_rotated_by_the_hello_with_the_new_one(scene: Scene) -> None:
    old, new = scene.host.token, "n" * 43
    await scene.desk.rotate(scene.host.id, new)
    await scene.host.say_hello()
    scene.host.token = new
    await scene.host.say_hello()
    scene.host.token = old
    with pytest.raises(Refused):
        await scene.host.say_hello()


@pytest.mark.parametrize(("agent", "token"), [("", ""), ("nobody", "x"), (None, "wrong"), (None, "")])
async def test_a_stranger_is_told_nothing_about_which_half_was_right(
    scene: Scene, agent: str | None, token: str
) -> None:
    stranger = FakeAgent(scene.desk, id=scene.host.id if agent is None else agent, token=token)
    with pytest.raises(Refused, match=r"^agent: this identity and token are not known here$"):
        await stranger.say_hello()


async def test_a_machine_has_no_identity_without_its_host(scene: Scene) -> None:
    await scene.acquire("pair")
    alone = FakeAgent(scene.desk, id="pair-1.one", token="x")
    with pytest.raises(Refused):
        await alone.say_hello()


@pytest.mark.parametrize(
    "wrong", [{"token": "wrong"}, {"agent": "nobody"}, {"environment": "pair-9"}, {"machine": "three"}]
)
async def test_a_host_vouches_only_under_its_token_and_for_what_it_carries(scene: Scene, wrong: dict[str, str]) -> None:
    await scene.acquire("pair")
    machine = scene.machine("one")
    assert machine.relay is not None
    await scene.desk.vouched(machine.relay)
    machine.relay = replace(machine.relay, **wrong)  # type: ignore[arg-type]
    with pytest.raises(Refused):
        await scene.desk.vouched(machine.relay)
    with pytest.raises(Refused):
        await machine.say_hello()


async def test_a_host_does_not_vouch_for_what_is_gone(scene: Scene) -> None:
    await scene.acquire("pair")
    relay = scene.machine("one").relay
    assert relay is not None
    await scene.people.quarantine("pair-1", reason="odd", identity=ROOT)
    await scene.people.clean("pair-1", identity=ROOT)
    await scene.settle()
    with pytest.raises(Refused, match="does not carry pair-1"):
        await scene.desk.vouched(relay)


async def test_a_code_enrols_one_agent_once(empty: Scene) -> None:
    code = await empty.people.enrolment(host="local", ttl=HOUR, identity=ROOT)
    request = Enrol(code=code, facts=Facts(hostname="h"))
    await empty.desk.enrol(request)
    with pytest.raises(Refused, match="used before"):
        await empty.desk.enrol(request)


async def test_a_code_that_is_over_or_unknown_enrols_nobody(empty: Scene) -> None:
    code = await empty.people.enrolment(host="local", ttl=HOUR, identity=ROOT)
    await empty.later(hours=1)
    for given, why in ((code, "is over"), ("guess", "is not known")):
        with pytest.raises(Refused, match=why):
            await empty.desk.enrol(Enrol(code=given, facts=Facts(hostname="h")))


async def test_secrets_are_kept_as_digests_alone(scene: Scene) -> None:
    rows = scene.look(lambda tables: [*tables.agents.where(), *tables.enrolments.where(), *tables.tokens.where()])
    assert scene.host.token not in repr(rows)
    assert "secret" not in repr(rows)


async def test_a_session_that_left_is_noticed_once(scene: Scene) -> None:
    session = scene.host.session
    await scene.host.leave()
    await scene.desk.left(scene.host.id, session)
    await settle()
    assert not scene.look(lambda tables: tables.agents.find(scene.host.id).is_connected)
