"""Hosts under everything at once: never booked beyond what they have, and everybody served or told why."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paddock.core.command import OPEN
from paddock.core.configuration import HostSettings
from paddock.core.environment import Environment, State
from paddock.core.errors import Missing, Refused
from paddock.core.host import State as HostState
from paddock.core.host import Stored
from paddock.core.image import BuildScript
from paddock.core.lease import Lease
from paddock.core.lease import State as LeaseState
from paddock.core.machine import Size
from tests.engine.fake_agent import Reply
from tests.engine.scene import ROOT
from tests.engine.virtual import DEBIAN, GIB, Virtual, hosts, pool_of

T = TypeVar("T")

NAMES = ("vm-1", "vm-2")
ROOMS = {"vm-1": Size(memory=6 * GIB, vcpus=12, disk=60 * GIB), "vm-2": Size(memory=3 * GIB, vcpus=6, disk=30 * GIB)}
POOLS = {
    "small": pool_of("small", host="", min_ready=1, max=9),
    "pair": pool_of("pair", machines=("one", "two"), max=2),
    "large": pool_of("large", memory=5 * GIB, max=3),
    "far": pool_of("far", host="", labels=("far",), memory=2 * GIB, max=3),
}
MOODS = {
    "well": Reply(),
    "failing": Reply(code="failed"),
    "interrupted": Reply(code="interrupted"),
    "busy": Reply(code="busy", is_refused=True),
    "slow": Reply(is_running=True),
    "bare": Reply(code="unbuilt"),
}
METHODS = (
    "machine.build",
    "machine.clean",
    "machine.destroy",
    "machine.weigh",
    "machine.save",
    "machine.forget",
    "image.build",
)


class Capacity(RuleBasedStateMachine):
    """People ask, give back, hold and fork; images change; hosts come, go, are drained and have moods."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.versions = 0
        self.scene = self.do(self.begin())

    async def begin(self) -> Virtual:
        scene = Virtual()
        self.configure(scene)
        await scene.start()
        for name in NAMES:
            await scene.host_arrives(name, capacity=ROOMS[name])
        return scene

    def configure(self, scene: Virtual) -> None:
        made: dict[str, HostSettings] = {**hosts("vm-1"), **hosts("vm-2", labels=("far",))}
        script = BuildScript(name="version", run=f"echo {self.versions}")
        image = replace(DEBIAN, scripts=(script,), memory=2 * GIB)
        scene.configure(hosts=made, images={"debian": image}, pools=POOLS, jobs={}, projects=())

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
        states = [LeaseState.QUEUED.value, LeaseState.GRANTED.value]
        return self.scene.look(lambda tables: tables.leases.where(state=states))

    # --- what people do ---

    @rule(target=leases, pool=st.sampled_from(sorted(POOLS)), count=st.integers(1, 4))
    def acquire(self, pool: str, count: int) -> Any:
        people, ttl = self.scene.people, timedelta(days=1)
        found = [
            self.people(people.acquire(pool=pool, holder="root", owner="root", ttl=ttl, wait=None))
            for _ in range(count)
        ]
        return multiple(*(lease.id for lease in found if lease is not None))

    @rule(id=consumes(leases))
    def give_back(self, id: str) -> None:
        lease = self.scene.lease(id)
        if lease.state is LeaseState.QUEUED:
            self.people(self.scene.people.cancel_lease(id, identity=ROOT))
        else:
            self.people(self.scene.people.release(id, fence=lease.fence, identity=ROOT))

    @precondition(lambda self: bool(self.environments()))
    @rule(data=st.data(), act=st.sampled_from(["hold", "save", "fork", "release", "quarantine", "clean"]))
    def order(self, data: st.DataObject, act: str) -> None:
        id = data.draw(st.sampled_from([one.id for one in self.environments()]))
        people, hours = self.scene.people, timedelta(hours=2)
        match act:
            case "hold" | "save":
                self.people(people.hold(id, ttl=hours, disks=act == "save", identity=ROOT))
            case "fork":
                self.people(people.fork(id, holder="root", ttl=hours, wait=None, identity=ROOT))
            case "release":
                self.people(people.release_environment(id, identity=ROOT))
            case "quarantine":
                self.people(people.quarantine(id, reason="odd", identity=ROOT))
            case _:
                self.people(people.clean(id, identity=ROOT))

    @rule(host=st.sampled_from(NAMES), is_draining=st.booleans())
    def drain_or_resume(self, host: str, is_draining: bool) -> None:
        people = self.scene.people
        self.people((people.drain_host if is_draining else people.resume_host)(host, identity=ROOT))

    @rule()
    def the_image_changes(self) -> None:
        self.versions += 1
        self.configure(self.scene)
        self.do(self.scene.settle())

    # --- what the world does ---

    @rule(minutes=st.sampled_from([1, 4, 6, 60]))
    def time_passes(self, minutes: int) -> None:
        self.do(self.scene.later(minutes=minutes))

    @rule(
        host=st.sampled_from(NAMES),
        method=st.sampled_from(METHODS),
        mood=st.sampled_from(sorted(MOODS)),
        times=st.sampled_from([1, 3, 1000]),
    )
    def a_host_changes_its_mood(self, host: str, method: str, mood: str, times: int) -> None:
        self.scene.carrier(host).on(method, *[MOODS[mood]] * times, Reply())

    @rule(host=st.sampled_from(NAMES))
    def a_host_finishes_what_was_slow(self, host: str) -> None:
        if not self.scene.carrier(host).is_away:
            self.do(self.finish(host))

    async def finish(self, host: str) -> None:
        carrier = self.scene.carrier(host)
        for command in list(carrier.running.values()):
            try:
                await carrier.finish(command)
            except Refused:
                carrier.finals.pop(command.id, None)
        await self.scene.settle()

    @rule(host=st.sampled_from(NAMES))
    def a_host_leaves_or_returns(self, host: str) -> None:
        async def turn() -> None:
            carrier = self.scene.carrier(host)
            await (carrier.say_hello() if carrier.is_away else carrier.leave())
            await self.scene.settle()

        self.do(turn())

    @rule(host=st.sampled_from(NAMES))
    def a_host_loses_a_machine(self, host: str) -> None:
        carried = self.scene.carrier(host).carried
        if carried:
            carried.pop(sorted(carried)[0])

    @rule(host=st.sampled_from(NAMES), share=st.sampled_from([0.0, 0.5, 1.0]))
    def a_host_counts_its_templates(self, host: str, share: float) -> None:
        """They take of what is left, up to all of it, and what is taken by them no machine gets."""
        carrier = self.scene.carrier(host)
        if carrier.is_away:
            return
        had = carrier.stored.templates if carrier.stored else 0
        left = ROOMS[host].disk - self.scene.booked(host).disk + had
        carrier.stored = Stored(templates=int(share * left))

        async def tell() -> None:
            await carrier.leave()
            await carrier.say_hello()
            await self.scene.settle()

        self.do(tell())

    @rule()
    def server_restarts(self) -> None:
        self.do(self.scene.restart())

    # --- what is always true ---

    @invariant()
    def no_host_is_booked_beyond_what_it_has(self) -> None:
        for host in NAMES:
            assert self.scene.booked(host).fits(ROOMS[host]), (host, self.scene.living(host))

    @invariant()
    def no_host_carries_more_than_it_has(self) -> None:
        rows = {one.id: one for one in self.environments()}
        for host in NAMES:
            carrier = self.scene.carrier(host)
            memory = sum(_memory(rows[id], machine) for id, machine in carrier.carried)
            building = sum(2 * GIB for command in carrier.running.values() if command.method == "image.build")
            assert memory + building <= ROOMS[host].memory, (host, carrier.carried)

    @invariant()
    def who_waits_is_told_why(self) -> None:
        for lease in self.open_leases():
            if lease.state is LeaseState.QUEUED:
                said = self.do(self.scene.people.why(lease.id))
                assert said.waits_for
                assert said.would_help

    @invariant()
    def no_command_is_open_under_a_fence_that_is_over(self) -> None:
        fences = {one.id: one.fence for one in self.environments()}
        for command in self.scene.commands(state=sorted(OPEN)):
            assert not command.environment or command.fence == fences[command.environment]

    def teardown(self) -> None:
        """In the end all is well again, and everybody was served."""
        try:
            self.do(self.see_it_through())
        finally:
            self.do(self.scene.stop())
            self.runner.close()

    async def see_it_through(self) -> None:
        scene = self.scene
        for host in NAMES:
            for method in METHODS:
                scene.carrier(host).on(method, Reply())
            await scene.people.resume_host(host, identity=ROOT)
            scene.carrier(host).stored = Stored()
            await scene.carrier(host).say_hello()
        await scene.settle()
        for _ in range(150):
            for host in NAMES:
                await self.finish(host)
            await self.give_everything_back()
            states = {one.state for one in self.environments()}
            if not self.open_leases() and states <= {State.READY, State.GONE}:
                break
            await scene.jump(minutes=30)
        else:
            raise AssertionError(f"never served: {self.open_leases()}, never well: {self.environments()}")
        assert scene.commands(state=sorted(OPEN)) == []
        assert {host.state for host in scene.look(lambda tables: tables.hosts.where())} == {HostState.ONLINE}

    async def give_everything_back(self) -> None:
        """Whoever has something has had it long enough; what is set aside has been looked at."""
        people = self.scene.people
        for lease in self.open_leases():
            if lease.state is LeaseState.GRANTED:
                await people.release(lease.id, fence=lease.fence, identity=ROOT)
        for one in self.environments():
            if one.state in (State.HELD, State.SAVED):
                await people.release_environment(one.id, identity=ROOT)
            if one.state is State.QUARANTINED:
                await people.clean(one.id, identity=ROOT)
        await self.scene.settle()


def _memory(row: Environment, machine: str) -> int:
    assert row.spec is not None
    return next(one.memory for one in row.spec.machines if one.name == machine)


@pytest.mark.slow
def test_no_host_is_ever_overcommitted_and_everybody_is_served() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Capacity,
        settings=settings(
            max_examples=50,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
