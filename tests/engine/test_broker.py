"""The broker under everything at once: no two owners, fences that only rise, nobody and nothing forgotten."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paddock.core.command import OPEN
from paddock.core.environment import LIFECYCLE, Environment, Pool, State
from paddock.core.errors import Missing, Refused, Stale
from paddock.core.host import State as HostState
from paddock.core.lease import Lease
from paddock.core.lease import State as LeaseState
from tests.engine.fake_agent import Reply
from tests.engine.scene import ANNA, ROOT, SLOT, Scene

T = TypeVar("T")

SOLO = Pool(name="solo", host="local", machines=("one",), max=3)
MOODS = {
    "well": Reply(),
    "failing": Reply(code="failed"),
    "interrupted": Reply(code="interrupted"),
    "busy": Reply(code="busy", is_refused=True),
    "slow": Reply(is_running=True),
}


class Broker(RuleBasedStateMachine):
    """People acquire, renew, release, hold and quarantine; a host comes, goes and has moods; the server restarts."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.scene = self.do(self.begin())
        self.fences: dict[str, int] = {}
        self.owners: dict[tuple[str, int], str] = {}

    async def begin(self) -> Scene:
        scene = Scene()
        scene.machines_come_by_themselves = False
        scene.configure(pools={"solo": SOLO, "slot": SLOT})
        await scene.start()
        await scene.host_arrives()
        return scene

    def do(self, doing: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(doing)

    def people(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """What a person asks for may be refused, but never in any other way."""

        async def ask() -> T | None:
            try:
                return await doing
            except (Refused, Missing):
                return None
            finally:
                await self.scene.settle()

        return self.do(ask())

    def environments(self) -> list[Environment]:
        return self.scene.look(lambda tables: tables.environments.where())

    def open_leases(self) -> list[Lease]:
        return self.scene.look(
            lambda tables: tables.leases.where(state=[LeaseState.QUEUED.value, LeaseState.GRANTED.value])
        )

    @property
    def host_state(self) -> HostState:
        return self.scene.look(lambda tables: tables.hosts.find("local").state)

    # --- what people do ---

    @rule(target=leases, pool=st.sampled_from(["solo", "slot"]), minutes=st.integers(1, 600))
    def acquire(self, pool: str, minutes: int) -> Any:
        asking = self.scene.people.acquire(
            pool=pool, holder="anna", owner="anna", ttl=timedelta(minutes=minutes), wait=None
        )
        lease = self.people(asking)
        return multiple() if lease is None else lease.id

    @rule(id=consumes(leases))
    def release(self, id: str) -> None:
        lease = self.scene.lease(id)
        before = lease.state
        answer = self.people(self.scene.people.release(id, fence=lease.fence, identity=ANNA))
        assert (answer is not None) == (before in (LeaseState.GRANTED, LeaseState.RELEASED))

    @rule(id=leases, wrong=st.sampled_from([-2, -1, 1]))
    def release_under_another_fence(self, id: str, wrong: int) -> None:
        lease = self.scene.lease(id)

        async def ask() -> None:
            with pytest.raises(Stale):
                await self.scene.people.release(id, fence=lease.fence + wrong, identity=ANNA)

        self.do(ask())

    @rule(id=leases)
    def renew(self, id: str) -> None:
        lease = self.scene.lease(id)
        self.people(self.scene.people.renew(id, fence=lease.fence, ttl=None, identity=ANNA))

    @rule(id=consumes(leases))
    def withdraw(self, id: str) -> None:
        self.people(self.scene.people.cancel_lease(id, identity=ROOT))

    @precondition(lambda self: bool(self.environments()))
    @rule(
        data=st.data(),
        act=st.sampled_from(["hold", "release", "quarantine", "clean"]),
    )
    def order(self, data: st.DataObject, act: str) -> None:
        id = data.draw(st.sampled_from([one.id for one in self.environments()]))
        match act:
            case "hold":
                self.people(self.scene.people.hold(id, ttl=timedelta(hours=2), identity=ROOT))
            case "release":
                self.people(self.scene.people.release_environment(id, identity=ROOT))
            case "quarantine":
                self.people(self.scene.people.quarantine(id, reason="odd", identity=ROOT))
            case _:
                self.people(self.scene.people.clean(id, identity=ROOT))

    @rule(is_draining=st.booleans())
    def drain_or_resume(self, is_draining: bool) -> None:
        people = self.scene.people
        act = people.drain_host if is_draining else people.resume_host
        self.people(act("local", identity=ROOT))

    # --- what the world does ---

    @rule(minutes=st.sampled_from([1, 4, 6, 60, 700]))
    def time_passes(self, minutes: int) -> None:
        self.do(self.scene.later(minutes=minutes))

    @rule(
        method=st.sampled_from(["build", "clean", "destroy"]),
        mood=st.sampled_from(sorted(MOODS)),
        times=st.sampled_from([1, 3, 1000]),
    )
    def host_changes_its_mood(self, method: str, mood: str, times: int) -> None:
        self.scene.host.on(f"machine.{method}", *[MOODS[mood]] * times, Reply())

    @rule()
    def host_finishes_what_was_slow(self) -> None:
        async def finish() -> None:
            for command in list(self.scene.host.running.values()):
                try:
                    await self.scene.host.finish(command)
                except Refused:
                    self.scene.host.finals.pop(command.id, None)
            await self.scene.settle()

        if not self.scene.host.is_away:
            self.do(finish())

    @precondition(lambda self: not self.scene.host.is_away)
    @rule()
    def host_leaves(self) -> None:
        async def leave() -> None:
            await self.scene.host.leave()
            await self.scene.settle()

        self.do(leave())

    @precondition(lambda self: self.scene.host.is_away)
    @rule(has_forgotten=st.booleans())
    def host_returns(self, has_forgotten: bool) -> None:
        async def arrive() -> None:
            host = self.scene.host
            if has_forgotten:
                host.ledger += "'"
                host.running.clear()
                host.finals.clear()
            await host.say_hello()
            await self.scene.settle()

        self.do(arrive())

    @rule()
    def server_restarts(self) -> None:
        self.do(self.scene.restart())

    # --- what is always true ---

    @invariant()
    def no_environment_has_two_owners(self) -> None:
        granted = [lease for lease in self.open_leases() if lease.state is LeaseState.GRANTED]
        by_environment = {lease.environment: lease for lease in granted}
        assert len(by_environment) == len(granted)
        leased = {one.id: one for one in self.environments() if one.state is State.LEASED}
        assert by_environment.keys() == leased.keys()
        for name, lease in by_environment.items():
            assert (leased[name].lease, leased[name].fence) == (lease.id, lease.fence)

    @invariant()
    def no_fence_was_ever_given_to_two(self) -> None:
        for lease in self.scene.look(lambda tables: tables.leases.where()):
            if lease.environment:
                assert self.owners.setdefault((lease.environment, lease.fence), lease.id) == lease.id

    @invariant()
    def fences_only_rise(self) -> None:
        for one in self.environments():
            assert one.fence >= self.fences.get(one.id, 0)
            self.fences[one.id] = one.fence

    @invariant()
    def who_waits_is_served_or_told_why(self) -> None:
        ready = {one.pool for one in self.environments() if one.state is State.READY}
        for lease in self.open_leases():
            if lease.state is not LeaseState.QUEUED:
                continue
            if self.host_state is HostState.ONLINE:
                assert lease.pool not in ready
            said = self.do(self.scene.people.why(lease.id))
            assert said.waits_for
            assert said.would_help

    @invariant()
    def who_waits_while_there_is_room_has_something_coming(self) -> None:
        if self.host_state is not HostState.ONLINE:
            return
        for pool in (SOLO, SLOT):
            mine = [one for one in self.environments() if one.pool == pool.name and one.state is not State.GONE]
            waiting = sum(lease.pool == pool.name and lease.state is LeaseState.QUEUED for lease in self.open_leases())
            coming = sum(
                one.state in (State.REQUESTED, State.BUILDING, State.CLEANING, State.DIRTY) and not one.retiring
                for one in mine
            )
            assert coming >= waiting or len(mine) >= pool.max

    @invariant()
    def every_environment_has_somebody_who_will_move_it(self) -> None:
        for one in self.environments():
            assert one.state in (State.GONE, State.READY, State.QUARANTINED) or self.has_a_mover(one), one

    def has_a_mover(self, one: Environment) -> bool:
        now = self.scene.clock.now()
        under_way = self.scene.commands(environment=one.id, fence=one.fence, state=sorted(OPEN))
        match one.state:
            case State.LEASED:
                deadline = self.scene.lease(one.lease).deadline
                return deadline is not None and deadline > now
            case State.HELD:
                return one.hold_until is not None and one.hold_until > now
            case State.BUILDING | State.CLEANING:
                # Or the host said that it is busy, and is asked again in a while.
                last = self.scene.commands(environment=one.id, fence=one.fence)[-1:]
                return bool(under_way) or bool(last and last[0].code == "busy")
            case State.BROKEN:
                return self.host_state not in (HostState.ONLINE, HostState.DRAINING)
            case _:
                return False  # requested and dirty are left at once

    @invariant()
    def no_command_is_open_under_a_fence_that_is_over(self) -> None:
        fences = {one.id: one.fence for one in self.environments()}
        for command in self.scene.commands(state=sorted(OPEN)):
            assert command.fence == fences[command.environment]

    def teardown(self) -> None:
        """In the end all is well again, and everybody was served."""
        try:
            self.do(self.see_it_through())
        finally:
            self.do(self.scene.stop())
            self.runner.close()

    async def see_it_through(self) -> None:
        scene = self.scene
        for method in ("build", "clean", "destroy"):
            scene.host.on(f"machine.{method}", Reply())
        await scene.people.resume_host("local", identity=ROOT)
        await scene.host.say_hello()
        await scene.settle()
        for _ in range(30):
            for command in list(scene.host.running.values()):
                try:
                    await scene.host.finish(command)
                except Refused:
                    scene.host.finals.pop(command.id, None)
            await scene.settle()
            for one in self.environments():
                if one.state is State.QUARANTINED:
                    await scene.people.clean(one.id, identity=ROOT)
            await scene.settle()
            states = {one.state for one in self.environments()}
            if not self.open_leases() and states <= {State.READY, State.GONE}:
                break
            await scene.jump(hours=11)
        else:
            raise AssertionError(f"never served: {self.open_leases()}, never well: {self.environments()}")
        assert scene.commands(state=sorted(OPEN)) == []

    @initialize()
    def the_table_is_the_one_that_is_walked(self) -> None:
        assert (State.LEASED, State.READY) not in {(before, after) for (before, _), after in LIFECYCLE.steps.items()}


@pytest.mark.slow
def test_the_broker_keeps_its_promises_whatever_comes() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Broker,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
