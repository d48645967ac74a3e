"""Keeping: what ended long ago is forgotten; rows in flight are never touched."""

from dataclasses import replace
from datetime import timedelta

from paddock.core.configuration import Keep, Server
from paddock.core.event import Heard
from paddock.engine.ordering import Wish
from paddock.wire.hello import Alert
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, ROOT, SLOT, Scene

NOUNS = ("events", "rounds", "runs", "results", "reports", "leases", "commands", "environments", "agents")


def counted(scene: Scene) -> dict[str, int]:
    return scene.look(lambda tables: {noun: getattr(tables, noun).count() for noun in NOUNS})


def keep(scene: Scene, *, runs: int, events: int) -> None:
    server = Server(
        public_url="https://ci.example.org", keep=Keep(runs=timedelta(days=runs), events=timedelta(days=events))
    )
    scene.configure(server=server)


async def test_an_ended_round_is_forgotten_with_all_that_belongs_to_it(scene: Scene) -> None:
    keep(scene, runs=30, events=90)
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    prefix = scene.run("2").archive
    assert await scene.archive.list(prefix)
    await scene.jump(days=29)
    assert counted(scene)["rounds"] == 1
    await scene.jump(days=1, minutes=11)
    left = counted(scene)
    assert [left[noun] for noun in ("rounds", "runs", "results", "reports", "leases")] == [0] * 5
    assert scene.commands(run="2") == []
    assert await scene.archive.list(prefix) == {}
    assert left["events"] == 1
    await scene.jump(days=61)
    assert counted(scene)["events"] == 1, "the last line of a stream is how far it was heard"


async def test_a_stream_that_is_told_again_after_it_was_forgotten_is_not_acted_on(scene: Scene) -> None:
    keep(scene, runs=1, events=1)
    await scene.comment()
    await scene.until(lambda: bool(scene.forge.sent))
    first = scene.look(lambda tables: tables.events.where()[0])
    await scene.push(2)
    await scene.jump(days=5)
    assert scene.look(lambda tables: tables.events.find(first.id)) is None
    again = Heard(forge=first.forge, session=first.session, position=first.position, at=first.heard, raw=first.raw)
    rounds = scene.look(lambda tables: tables.rounds.count())
    await scene.restart()
    await scene.receiving.hear([again])
    await scene.settle()
    assert scene.look(lambda tables: tables.rounds.count()) == rounds


async def test_a_round_in_flight_is_never_touched(scene: Scene) -> None:
    keep(scene, runs=1, events=1)
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.comment()
    before, commands = counted(scene), scene.commands(run="2")
    run = scene.run("2")
    await scene.write(lambda tables: tables.runs.swap(run, replace(run, phase_since=run.created + timedelta(days=400))))
    await scene.jump(days=20)
    after = counted(scene)
    for noun in ("events", "rounds", "runs", "leases", "environments", "agents"):
        assert after[noun] == before[noun], noun
    assert scene.commands(run="2") == commands
    assert scene.run("2").state == "running"


async def test_a_superseded_round_is_kept_until_its_runs_are_done(scene: Scene) -> None:
    keep(scene, runs=1, events=90)
    scene.machine_replies["greet"] = (Reply(is_running=True),)
    await scene.push(1)
    scene.machine("one").running.clear()  # it does not end what is cancelled
    scene.machine("two").running.clear()
    await scene.push(2)
    assert scene.run("2").state == "running"
    await scene.later(seconds=1)
    assert counted(scene)["rounds"] == 2


async def test_leases_and_commands_without_a_run_are_forgotten_and_live_ones_kept(scene: Scene) -> None:
    keep(scene, runs=1, events=90)
    gone = await scene.acquire("pair")
    await scene.people.release(gone.id, fence=gone.fence, identity=ANNA)
    kept = await scene.acquire("pair", ttl=timedelta(days=7))
    await scene.jump(days=2)
    assert scene.lease(gone.id) is None
    assert scene.lease(kept.id).state == "granted"
    assert counted(scene)["environments"] == 3


async def test_environments_that_are_gone_are_forgotten_with_their_machines_agents(scene: Scene) -> None:
    keep(scene, runs=1, events=90)
    lease = await scene.acquire("pair")
    await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    server = scene.configuration.server
    scene.configure(server=server, pools={"slot": SLOT})
    await scene.settle()
    assert scene.environment("pair-1").state == "gone"
    await scene.jump(days=2)
    assert scene.environment("pair-1") is None
    assert counted(scene)["agents"] == 1


async def test_more_than_one_pass_can_take_is_taken_pass_after_pass(scene: Scene) -> None:
    keep(scene, runs=1, events=90)
    for _ in range(250):
        lease = await scene.people.acquire(pool="slot", holder="a", owner="anna", ttl=timedelta(hours=1), wait=None)
        await scene.people.release(lease.id, fence=lease.fence, identity=ANNA)
    await scene.settle()
    await scene.jump(days=1, minutes=11)
    await scene.later(seconds=5)
    assert counted(scene)["leases"] == 0


async def test_history_is_forgotten_with_the_longest_of_the_times(scene: Scene) -> None:
    keep(scene, runs=1, events=3)
    before = len(scene.states("hosts", "local"))
    await scene.jump(days=2)
    assert len(scene.states("hosts", "local")) == before
    await scene.jump(days=2)
    assert scene.states("hosts", "local") == []


async def test_what_people_ordered_is_forgotten_with_its_output(scene: Scene) -> None:
    keep(scene, runs=30, events=90)
    for id in ("old", "young"):
        await scene.people.order("local", Wish(id=id, method="script.run", params={"run": "x"}), identity=ROOT)
        await scene.settle()
        await scene.jump(days=12)
    place = f"agents/{scene.host.id}/commands"
    assert {name.split("/")[3] for name in await scene.archive.list(place)} == {"old", "young"}
    await scene.jump(days=7)
    assert [one.id for one in scene.commands(by="root")] == ["young"]
    assert {name.split("/")[3] for name in await scene.archive.list(place)} == {"young"}


async def test_what_somebody_ordered_and_nobody_ended_stays(scene: Scene) -> None:
    keep(scene, runs=1, events=1)
    scene.host.on("script.run", Reply(is_running=True))
    await scene.people.order("local", Wish(id="long", method="script.run", params={"run": "x"}), identity=ROOT)
    await scene.settle()
    await scene.jump(days=20)
    assert scene.command("long").state == "running"


async def test_what_was_ordered_of_an_owner_before_is_ended(scene: Scene) -> None:
    lease = await scene.acquire("pair")
    scene.machine("one").is_away = True
    await scene.people.order("pair-1.one", Wish(id="c1", method="status", params={}), identity=ROOT)
    row = scene.environment("pair-1")
    await scene.write(lambda tables: tables.environments.swap(row, replace(row, fence=row.fence + 1)))
    await scene.later(minutes=11)
    assert (scene.command("c1").state, scene.command("c1").code) == ("failed", "stale"), lease


async def test_of_alerts_only_those_that_are_over_are_forgotten(scene: Scene) -> None:
    keep(scene, runs=30, events=90)
    for name in ("over", "open"):
        await scene.desk.alerted(scene.host.id, Alert(name=name, message="x"))
    await scene.desk.alerted(scene.host.id, Alert(name="over", message="x", is_over=True))
    await scene.jump(days=31)
    assert scene.look(lambda tables: [one.name for one in tables.alerts.where()]) == ["open"]


async def test_with_an_environment_goes_what_its_machines_said(scene: Scene) -> None:
    keep(scene, runs=30, events=90)
    await scene.acquire("pair")
    await scene.desk.logged("pair-1.one", [{"level": "info", "msg": "hello"}])
    await scene.people.quarantine("pair-1", reason="look", identity=ROOT)
    await scene.people.clean("pair-1", identity=ROOT)
    await scene.settle()
    assert await scene.archive.list("agents/pair-1.one")
    await scene.jump(days=31)
    assert scene.look(lambda tables: tables.agents.find("pair-1.one")) is None
    assert await scene.archive.list("agents/pair-1.one") == {}
