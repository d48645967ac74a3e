"""Dialling again: how soon, and what the server has to say about it."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from paddock.agent import dialing
from paddock.agent.dialing import Hopeless, Server, Unwelcome
from paddock.agent.settings import WrongUse
from paddock.hands.links import Link
from paddock.wire.backoff import Backoff
from tests.agent.desk import _port


@dataclass(frozen=True, kw_only=True)
class Hurried(Backoff):
    """Notes what the plain one would wait, at most, and waits not at all; after so many it cancels whoever asks."""

    count: int
    waits: list[timedelta] = field(default_factory=list)

    def delay(self, attempt: int, *, chance: float, retry_after: timedelta | None = None) -> timedelta:
        self.waits.append(super().delay(attempt, chance=0.999, retry_after=retry_after))
        if len(self.waits) >= self.count:
            raise asyncio.CancelledError
        return timedelta()


async def waits(url: str, *, count: int, why: Unwelcome | None = None) -> list[timedelta]:
    async def speak(link: Link) -> str:
        await link.close("over")
        if why is not None:
            raise why
        return "over"

    hurried = Hurried(count=count)
    with pytest.raises(asyncio.CancelledError):
        await dialing.keep(Server(urls=(url,), backoff=hurried), speak, subject="server")
    return hurried.waits


async def test_retry_after_on_the_upgrade_is_obeyed() -> None:
    def full(connection: ServerConnection, request: Request) -> Response:
        response = connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "later")
        response.headers["Retry-After"] = "120"
        return response

    async with serve(lambda _: asyncio.sleep(0), "127.0.0.1", 0, process_request=full) as server:
        found = await waits(f"ws://127.0.0.1:{_port(server)}/agent", count=4)
    assert all(wait >= timedelta(seconds=120) for wait in found)


async def test_retry_after_of_a_refused_hello_is_obeyed() -> None:
    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        why = Unwelcome("hello: shut out", retry_after=timedelta(seconds=90))
        found = await waits(f"ws://127.0.0.1:{_port(server)}/agent", count=3, why=why)
    assert all(wait >= timedelta(seconds=90) for wait in found)


async def test_a_server_that_takes_links_and_drops_them_is_asked_ever_slower() -> None:
    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        found = await waits(f"ws://127.0.0.1:{_port(server)}/agent", count=8)
    assert found == sorted(found)
    assert found[0] >= timedelta(seconds=1)
    assert found[-1] > timedelta(seconds=30)


async def test_a_reason_is_told_once_until_there_is_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "paddock.agent.dialing")
    reasons = iter(["a", "a", "b", "b", "a", "c"])

    async def speak(link: Link) -> str:
        await link.close("over")
        return next(reasons)

    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        where = Server(urls=(f"ws://127.0.0.1:{_port(server)}/agent",), backoff=Hurried(count=6))
        with pytest.raises(asyncio.CancelledError):
            await dialing.keep(where, speak, subject="server")
    told = [(one.levelname, vars(one)["why"]) for one in caplog.records if one.getMessage() == "link is over"]
    assert told == [("INFO", "a"), ("DEBUG", "a"), ("INFO", "b"), ("DEBUG", "b"), ("INFO", "a")]


async def test_what_is_hopeless_is_not_tried_again() -> None:
    async with serve(lambda connection: connection.wait_closed(), "127.0.0.1", 0) as server:
        hurried = Hurried(count=2)

        async def speak(link: Link) -> str:
            raise Hopeless("enrol: this code is over")

        where = Server(urls=(f"ws://127.0.0.1:{_port(server)}/agent",), backoff=hurried)
        with pytest.raises(Hopeless):
            await dialing.keep(where, speak, subject="server")
    assert hurried.waits == []


def test_a_token_goes_in_clear_only_where_that_is_wanted() -> None:
    def found(url: str, **more: bool) -> str:
        return dialing.server((url,), authorities=None, certificate=None, **more).urls[0]

    with pytest.raises(WrongUse, match="in clear"):
        found("ws://192.0.2.1/agent")
    assert found("ws://192.0.2.1/agent", insecure=True) == "ws://192.0.2.1/agent"
    assert found("ws://127.0.0.1/agent") == "ws://127.0.0.1/agent"
    with pytest.raises(WrongUse, match="loopback only"):
        found("tcp://192.0.2.1:80", insecure=True)
