"""The API of virtual machines, as the client library asks it, before a whole engine on fakes."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from paddock.client import answers, calls
from paddock.client.calls import Call
from paddock.core import access
from paddock.core.access import Role, Token
from paddock.core.errors import Missing, NotAllowed, Refused, Stale
from paddock.engine import storing
from paddock.web.app import create_app
from paddock.web.door import Door
from paddock.web.kit import Kit
from paddock.web.live import Tail
from paddock.wire import shapes
from paddock.wire.hello import LOG_STREAM, Output
from tests.engine.fake_agent import Reply
from tests.engine.virtual import DEBIAN, GIB, ROOM, Virtual, open_virtual, pool_of

S = TypeVar("S")
LAYERS = [{"digest": "d1", "image": "debian", "bytes": 5, "seconds": 1.5, "built": "2026-01-01T00:00:00Z"}]
BUILT = Reply(result={"digest": "d1", "bytes": 5, "apparent": 2 * GIB, "layers": LAYERS})


@dataclass(frozen=True, kw_only=True)
class Room:
    """A server with one host of virtual machines, and who asks it."""

    scene: Virtual
    app: Door
    tail: Tail

    async def ask(self, call: Call[S], *, who: str = "anna") -> S:
        """What the server says to a call of the client library; raises what it refuses with."""
        transport = httpx.ASGITransport(app=self.app)  # type: ignore[arg-type]
        headers = {"authorization": f"Bearer {who}-secret"} if who else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://ci.example.org", headers=headers) as client:
            body = {} if call.body is None else {"json": call.body}
            answer = await client.request(call.method, call.path, params=dict(call.query), **body)  # type: ignore[arg-type]
        found = answers.read(call, answer)
        await self.scene.settle()
        return found

    async def lent(self, pool: str = "pair") -> shapes.Lease:
        lease = await self.ask(calls.acquire(pool))
        return await self.ask(calls.lease(lease.id))


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with open_virtual(pools={"pair": pool_of("pair", machines=("one", "two"), max=1)}) as scene:
        carrier = await scene.host_arrives("vm-1", capacity=ROOM)
        carrier.on("image.build", BUILT)
        carrier.on("machine.save", Reply(result={"bytes": 5}))
        tail = Tail()

        def add(tables: object) -> None:
            for name, role in (("anna", Role.PERSON), ("bo", Role.PERSON), ("root", Role.OPERATOR)):
                digest = access.digest(f"{name}-secret")
                tables.tokens.add(Token(id=name, role=role, digest=digest, created=scene.clock.now()))  # type: ignore[attr-defined]

        await scene.store.write(add)
        app = create_app(
            scene.store,
            scene.archive,
            scene.people,
            lambda: scene.configuration,
            scene.clock,
            Kit(Path("/nonexistent"), lambda: b"the agent"),
            tail=tail,
        )
        yield Room(scene=scene, app=app, tail=tail)


async def test_images_are_told_as_configured_with_what_hosts_have(room: Room) -> None:
    await room.lent()
    debian, stack = (await room.ask(calls.images(), who="")).items
    assert (debian.name, debian.source, debian.size, debian.pools) == ("debian", DEBIAN.path, DEBIAN.size, ("pair",))
    assert (stack.parent, stack.scripts, stack.hosts) == ("debian", ("stack",), ())
    (there,) = debian.hosts
    assert (there.id, there.state, there.serves, there.current) == ("debian@vm-1", "ready", True, True)
    assert (there.digest, there.bytes, there.apparent) == ("d1", 5, 2 * GIB)
    assert there.layers == (
        shapes.Layer(digest="d1", image="debian", script="", bytes=5, seconds=1.5, built="2026-01-01T00:00:00.000Z"),
    )
    assert await room.ask(calls.image("debian")) == debian


async def test_one_that_is_not_configured_is_missing(room: Room) -> None:
    with pytest.raises(Missing, match="image debain: it is not configured"):
        await room.ask(calls.image("debain"))


async def test_an_operator_has_an_image_built_and_nobody_else(room: Room) -> None:
    with pytest.raises(NotAllowed):
        await room.ask(calls.build_image("debian"))
    told = await room.ask(calls.build_image("debian", host="vm-1"), who="root")
    assert [one.host for one in told.hosts] == ["vm-1"]
    assert (await room.ask(calls.image("debian"))).hosts[0].state == "ready"


async def test_the_log_of_a_build_is_followed_to_its_end(room: Room) -> None:
    carrier = room.scene.carrier("vm-1")
    carrier.on("image.build", Reply(is_running=True))
    await room.ask(calls.build_image("debian"), who="root")
    (command,) = carrier.running.values()
    await room.scene.desk.output(
        carrier.id, Output(task_id=command.id, stream=LOG_STREAM, offset=0, data=b"fetching\n")
    )
    first = await room.ask(calls.image_log("debian"))
    assert (first.data, first.is_last) == (b"fetching\n", False)
    following = asyncio.ensure_future(room.ask(calls.image_log("debian@vm-1", offset=9, wait=30)))
    await asyncio.sleep(0)
    await room.scene.desk.output(carrier.id, Output(task_id=command.id, stream=LOG_STREAM, offset=9, data=b"done\n"))
    await carrier.finish(command, Reply(result=BUILT.result, lengths={LOG_STREAM: 14}))
    room.tail.grew(f"{room.scene.image().log}.log", 14)
    async with asyncio.timeout(10):
        second = await following
    assert second.data == b"done\n"
    last = await room.ask(calls.image_log("debian", offset=14))
    assert (last.data, last.is_last) == (b"", True)


async def test_there_is_no_log_of_what_was_never_built(room: Room) -> None:
    with pytest.raises(Missing, match="image debian: no host has built it"):
        await room.ask(calls.image_log("debian"))


async def test_collecting_is_a_command_of_each_host(room: Room) -> None:
    await room.lent()
    (command,) = (await room.ask(calls.collect_images(unused=60, dry_run=True), who="root")).items
    assert (command.method, command.state, command.by) == ("image.collect", "queued", "root")
    done = await room.ask(calls.command("vm-1", command.id), who="root")
    assert done.state == "complete"


async def test_a_host_says_what_is_booked_on_it(room: Room) -> None:
    await room.lent()
    (host,) = (await room.ask(calls.hosts())).items
    assert host.capacity == shapes.Size(memory=ROOM.memory, vcpus=ROOM.vcpus, disk=ROOM.disk)
    assert host.booked == shapes.Size(memory=2 * GIB, vcpus=2, disk=4 * GIB + 5)
    detail = await room.ask(calls.host("vm-1"))
    assert [image.id for image in detail.images] == ["debian@vm-1"]
    assert detail.stored is None


async def test_a_host_says_what_of_that_images_and_templates_take(room: Room) -> None:
    counted = {"stored": {"images": GIB, "templates": 3 * GIB}}
    agent = room.scene.carrier("vm-1").id
    await room.scene.store.write(lambda tables: storing.heard(tables, agent, counted))
    host = await room.ask(calls.host("vm-1"))
    assert host.stored == shapes.Stored(images=GIB, templates=3 * GIB)
    assert host.booked == shapes.Size(disk=4 * GIB, memory=0, vcpus=0)


async def test_a_machine_says_what_it_is_made_of(room: Room) -> None:
    lease = await room.lent()
    detail = await room.ask(calls.environment(lease.environment))
    one = detail.machines[0]
    assert (one.image, one.digest, one.memory, one.vcpus) == ("debian", "d1", GIB, 1)
    assert detail.size == shapes.Size(memory=2 * GIB, vcpus=2, disk=4 * GIB)


async def test_who_holds_a_machine_presses_types_and_looks(room: Room) -> None:
    lease = await room.lent()
    room.scene.carrier("vm-1").on("machine.screenshot", Reply(result={"png": "aGVsbG8="}))
    where, fence = lease.environment, lease.fence
    pressed = await room.ask(calls.power(where, "one", "reset", boot=["network"], fence=fence))
    typed = await room.ask(calls.type_on(where, "one", b"\n", fence=fence))
    seen = await room.ask(calls.screenshot(where, "one"))
    assert {one.agent for one in (pressed, typed, seen)} == {room.scene.carrier("vm-1").id}
    shown = await room.ask(calls.command(seen.agent, seen.id))
    assert shown.result["png"] == "aGVsbG8="
    (order,) = room.scene.orders("machine.type")
    assert base64.b64decode(order.params["data"]) == b"\n"
    (order,) = room.scene.orders("machine.power")
    assert (order.params["action"], order.params["boot"]) == ("reset", ["network"])


async def test_a_console_is_the_output_of_a_command_until_it_is_cancelled(room: Room) -> None:
    lease = await room.lent()
    carrier = room.scene.carrier("vm-1")
    carrier.on("machine.console", Reply(is_running=True))
    console = await room.ask(calls.console(lease.environment, "one", offset=5, fence=lease.fence))
    await room.scene.desk.output(carrier.id, Output(task_id=console.id, stream=LOG_STREAM, offset=0, data=b"login: "))
    assert (await room.ask(calls.output(console.agent, console.id))).data == b"login: "
    await room.ask(calls.cancel_command(console.agent, console.id))
    assert carrier.cancelled == [console.id]


async def test_others_are_refused_and_an_old_fence_is_stale(room: Room) -> None:
    lease = await room.lent()
    with pytest.raises(NotAllowed, match="is not lent to you"):
        await room.ask(calls.power(lease.environment, "one", "off"), who="bo")
    with pytest.raises(Stale):
        await room.ask(calls.power(lease.environment, "one", "off", fence=lease.fence - 1))
    with pytest.raises(Refused, match="'explode' is none of on, off, shutdown, reset"):
        await room.ask(calls.power(lease.environment, "one", "explode"))
    with pytest.raises(Missing, match="no machine three"):
        await room.ask(calls.screenshot(lease.environment, "three"))


async def test_disks_are_kept_and_brought_up_again(room: Room) -> None:
    lease = await room.lent()
    held = await room.ask(calls.hold(lease.environment, ttl=3600, disks=True))
    assert held.saving
    await room.ask(calls.release(lease.id, fence=lease.fence))
    saved = await room.ask(calls.environment(lease.environment))
    assert (saved.state, saved.size) == ("saved", shapes.Size(memory=0, vcpus=0, disk=10))
    asked = await room.ask(calls.fork(saved.id, ttl=60))
    granted = await room.ask(calls.lease(asked.id))
    assert (granted.state, granted.fork_of, granted.ttl) == ("granted", saved.id, 60.0)
    assert (await room.ask(calls.environment(granted.environment))).fork_of == saved.id


async def test_what_can_never_be_is_refused_with_the_reason(room: Room) -> None:
    room.scene.configure(
        hosts=room.scene.configuration.hosts,
        images=room.scene.configuration.images,
        pools={"big": pool_of("big", memory=7 * GIB)},
    )
    with pytest.raises(Refused, match="pool big fits no host: host vm-1 has 6GiB memory, 7GiB are wanted"):
        await room.ask(calls.acquire("big"))
