"""Commands through either client: one id, waited for and read past a server's restart."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from paddock.client import AsyncClient, Client, Unreachable, calls, waiting
from paddock.core.errors import Broken, NotOffered
from paddock.wire import shapes


def command(state: str, **rest: object) -> dict[str, object]:
    row = shapes.AgentCommand(
        id="c1",
        agent="a1",
        seq=1,
        method="script.run",
        by="anna",
        run="",
        environment="",
        fence=0,
        state=state,
        code="",
        message="",
        result={},
        outputs={},
        percent=None,
        eta=None,
        exit=None,
        asked="2026-01-01T00:00:00.000Z",
        sent=None,
        started=None,
        ended=None,
    )
    told = shapes.plain(row)
    assert isinstance(told, dict)
    return told | rest


class Tape:
    """A server that answers with what the test wrote down, one after the other, and remembers what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[httpx.Request] = []

    def transport(self) -> httpx.MockTransport:
        def answer(request: httpx.Request) -> httpx.Response:
            self.asked.append(request)
            found = self._answers.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        return httpx.MockTransport(answer)


def ok(**rest: object) -> httpx.Response:
    return httpx.Response(200, json=rest)


def piece(data: bytes, length: int, ended: str) -> httpx.Response:
    return httpx.Response(200, content=data, headers={"paddock-length": str(length), "paddock-ended": ended})


Ask = Callable[[Tape], shapes.AgentCommand]


def _sync(tape: Tape) -> shapes.AgentCommand:
    with Client("http://desk.example.org", transport=tape.transport()) as client:
        return client.order("vm-1", "script.run", {"run": "x"}, wait=None)


def _async(tape: Tape) -> shapes.AgentCommand:
    async def ask() -> shapes.AgentCommand:
        async with AsyncClient("http://desk.example.org", transport=tape.transport()) as client:
            return await client.order("vm-1", "script.run", {"run": "x"}, wait=None)

    return asyncio.run(ask())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.setattr(waiting, "PAUSE", 0.0)
    found: Ask = request.param
    return found


def test_an_order_is_waited_for_past_a_server_that_is_away(ask: Ask) -> None:
    gone = httpx.ConnectError("gone")
    tape = Tape(ok(**command("queued")), gone, ok(**command("running")), ok(**command("complete", exit=3)))
    found = ask(tape)
    assert (found.state, found.exit) == ("complete", 3)
    assert tape.asked[-1].url.path == "/api/v1/agents/a1/commands/c1"


def test_a_connection_that_broke_is_tried_again_under_the_same_id(ask: Ask) -> None:
    tape = Tape(httpx.RemoteProtocolError("closed"), ok(**command("complete")))
    ask(tape)
    first, second = (json.loads(request.content)["id"] for request in tape.asked)
    assert first == second
    assert len(first) >= 32


def test_an_unknown_method_is_told_apart(ask: Ask) -> None:
    problem = {"code": "unknown_method", "message": "agent vm-1: it has no method x", "hint": "it offers: y"}
    with pytest.raises(NotOffered) as caught:
        ask(Tape(httpx.Response(409, json={"error": problem})))
    assert caught.value.hint == "it offers: y"


def test_output_is_read_to_its_end_past_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE", 0.0)
    row = shapes.read(shapes.AgentCommand, command("running"))

    def played() -> Tape:
        gone = httpx.ConnectError("gone")
        return Tape(piece(b"one", 3, "no"), gone, piece(b"", 3, "no"), piece(b"two", 6, "yes"))

    tape = played()
    with Client("http://desk.example.org", transport=tape.transport()) as client:
        assert list(client.output(row)) == [b"one", b"two"]
    assert [request.url.params["offset"] for request in tape.asked] == ["0", "3", "3", "3"]

    async def read() -> list[bytes]:
        async with AsyncClient("http://desk.example.org", transport=played().transport()) as client:
            return [data async for data in client.output(row)]

    assert asyncio.run(read()) == [b"one", b"two"]


def test_who_waits_a_while_gets_it_as_it_is() -> None:
    with Client("http://desk.example.org", transport=Tape(ok(**command("queued"))).transport()) as client:
        assert client.order("vm-1", "script.run", wait=0).state == "queued"


def test_an_answer_without_lengths_is_no_output() -> None:
    tape = Tape(httpx.Response(200, content=b"<html>"))
    with Client("http://desk.example.org", transport=tape.transport()) as client, pytest.raises(Broken):
        client.send(calls.output("a1", "c1"))


def test_a_server_that_stays_away_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SILENCE", 0.0)
    row = shapes.read(shapes.AgentCommand, command("running"))
    tape = Tape(httpx.ConnectError("gone"))
    with Client("http://desk.example.org", transport=tape.transport()) as client, pytest.raises(Unreachable):
        client.finish(row)
