"""Commanding agents over HTTP: ordered once, waited for, read as it comes."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import httpx

from paddock.core import command
from paddock.core.command import Command
from paddock.ports import Tables
from paddock.wire import shapes
from tests.web.conftest import ask
from tests.web.scene import LAB, OPERATOR, PERSON, Scene

HOST = "/api/v1/agents/vm-1/commands"
RUN: dict[str, object] = {"method": "script.run", "params": {"run": "true"}, "id": "mine-1"}


async def order(client: httpx.AsyncClient, body: Mapping[str, object] = RUN) -> shapes.AgentCommand:
    answer = await client.post(HOST, json=body)
    assert answer.status_code == 201, answer.text
    return shapes.read(shapes.AgentCommand, answer.json())


async def change(scene: Scene, id: str, **rest: object) -> None:
    def step(tables: Tables) -> Command:
        row = tables.commands.find(id)
        assert row is not None
        return tables.commands.swap(row, replace(row, **rest))  # type: ignore[arg-type]

    await scene.store.write(step)


async def test_a_command_is_ordered_once_by_its_id(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        first = await order(client)
        assert (first.id, first.agent, first.state, first.by) == ("mine-1", "a-vm-1", "queued", "ops")
        again = await client.post(HOST, json=RUN)
        assert (again.status_code, again.json()["id"]) == (200, "mine-1")
        other = await client.post(HOST, json=RUN | {"params": {"run": "false"}})
        assert (other.status_code, other.json()["error"]["code"]) == (409, "refused")
        by_id = await client.get("/api/v1/agents/a-vm-1/commands/mine-1")
        assert by_id.json() == again.json()


async def test_what_cannot_be_meant_is_told_at_the_door(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        for body, status, code, words in (
            ({"method": "script.run", "params": {"run": 7}}, 422, "bad_input", "params.run"),
            ({"method": "script.rum", "params": {}}, 409, "unknown_method", "script.rum"),
            ({"method": "Script Run"}, 422, "bad_input", "method"),
            ({"method": "status", "id": "../x"}, 422, "bad_input", "id"),
            ({"method": "status", "id": ""}, 422, "bad_input", "id"),
            ({"method": "status", "id": "x" * 101}, 422, "bad_input", "id"),
            ({"method": "system.clean_image", "params": {"dryrun": True}}, 422, "bad_input", 'mean "dry_run"'),
            ({"method": "status", "params": {"colour": 1}}, 422, "bad_input", "params.colour"),
            ({"method": "status", "params": {"fence": 3}}, 422, "bad_input", "params.fence"),
        ):
            answer = await client.post(HOST, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert words in answer.json()["error"]["message"]
        assert (await client.post("/api/v1/agents/nobody/commands", json=RUN)).status_code == 404


async def test_somebody_waits_until_it_is_over(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        await order(client)
        waiting = asyncio.ensure_future(client.get(f"{HOST}/mine-1", params={"wait": 30}))
        await change(scene, "mine-1", state=command.State.SENT)
        await change(scene, "mine-1", state=command.State.COMPLETE, result={"exit": 3}, outputs={"out": 4})
        told = shapes.read(shapes.AgentCommand, (await waiting).json())
        assert (told.state, told.exit, told.result, told.outputs) == ("complete", 3, {"exit": 3}, {"out": 4})


async def test_output_is_followed_to_its_end(scene: Scene) -> None:
    name = "agents/a-vm-1/commands/mine-1/out.log"
    async with ask(scene, OPERATOR) as client:
        await order(client)
        early = await client.get(f"{HOST}/mine-1/output")
        assert (early.content, early.headers["paddock-ended"]) == (b"", "no")
        waiting = asyncio.ensure_future(client.get(f"{HOST}/mine-1/output", params={"wait": 30}))
        await asyncio.sleep(0)
        scene.tail.grew(name, await scene.archive.append(name, 0, b"one\n"))
        assert (await waiting).content == b"one\n"
        await change(scene, "mine-1", state=command.State.COMPLETE, outputs={"out": 8})
        rest = asyncio.ensure_future(client.get(f"{HOST}/mine-1/output", params={"offset": 4, "wait": 30}))
        await asyncio.sleep(0)
        scene.tail.grew(name, await scene.archive.append(name, 4, b"two\n"))
        answer = await rest
        assert (answer.content, answer.headers["paddock-ended"], answer.headers["paddock-length"]) == (
            b"two\n",
            "yes",
            "8",
        )
        assert answer.headers["content-type"] == "application/octet-stream"


async def test_a_stream_that_it_has_not_is_told_with_those_it_has(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        await order(client)
        await change(scene, "mine-1", state=command.State.COMPLETE, outputs={"out": 8})
        missing = await client.get(f"{HOST}/mine-1/output", params={"stream": "err"})
        assert (missing.status_code, missing.json()["error"]["hint"]) == (404, "its streams: out")
        odd = await client.get(f"{HOST}/mine-1/output", params={"stream": "../../x"})
        assert odd.status_code == 404


async def test_what_an_operator_brought_is_not_shown_to_others(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        await order(client)
    await change(scene, "mine-1", state=command.State.COMPLETE, result={"data": "c2VjcmV0"}, outputs={"out": 8})
    async with ask(scene, PERSON) as client:
        listed = (await client.get(HOST)).json()["items"]
        assert [(one["id"], one["result"]) for one in listed if one["by"]] == [("mine-1", {})]
        assert (await client.get(f"{HOST}/mine-1")).json()["result"] == {}
        output = await client.get(f"{HOST}/mine-1/output")
        assert (output.status_code, output.json()["error"]["code"]) == (403, "not_allowed")
        ordered = await client.post(HOST, json=RUN | {"id": "mine-2"})
        assert (ordered.status_code, ordered.json()["error"]["code"]) == (403, "not_allowed")
    async with ask(scene) as client:
        assert (await client.get(HOST)).status_code == 401


async def test_who_borrowed_a_machine_commands_it(scene: Scene) -> None:
    async with ask(scene, LAB) as client:
        lease = (await client.post("/api/v1/leases", json={"pool": "desk"})).json()
        machine = f"/api/v1/agents/{lease['environment']}.one/commands"
        answer = await client.post(machine, json=RUN)
        assert (answer.status_code, answer.json()["fence"]) == (201, lease["fence"])
    async with ask(scene, PERSON) as client:
        assert (await client.post(machine, json=RUN | {"id": "mine-2"})).status_code == 403


async def test_they_are_listed_newest_first_page_by_page(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        for number in range(5):
            await order(client, RUN | {"id": f"mine-{number}"})
        first = (await client.get(HOST, params={"limit": 3})).json()
        second = (await client.get(HOST, params={"limit": 3, "below": first["next"]})).json()
        assert [one["id"] for one in first["items"] + second["items"]][:5] == [f"mine-{n}" for n in (4, 3, 2, 1, 0)]
        only = (await client.get(HOST, params={"state": "complete"})).json()
        assert not only["items"]


async def test_cancelling_answers_with_the_command(scene: Scene) -> None:
    async with ask(scene, OPERATOR) as client:
        await order(client)
        answer = await client.post(f"{HOST}/mine-1/cancel", json={"grace": 2})
        assert (answer.status_code, answer.json()["code"]) == (200, "cancelled")
        again = await client.post(f"{HOST}/mine-1/cancel", json={})
        assert again.status_code == 409
        assert (await client.post(f"{HOST}/mine-1/cancel", json={"grace": -1})).status_code == 422
