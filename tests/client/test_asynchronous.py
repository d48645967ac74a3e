"""The client with a loop: the same, awaited; a loss cancels the block."""

import asyncio

import pytest

from paddock.client import AsyncClient, LeaseLost, NoEnvironment, Unreachable, calls
from paddock.wire.shapes import Lease
from tests.client.desk import TOKEN, Desk


def client_of(desk: Desk) -> AsyncClient:
    return AsyncClient("http://desk.example.org", token=TOKEN, transport=desk.transport())


async def test_a_lease_is_released_when_its_block_ends() -> None:
    desk = Desk(queue=2)
    async with client_of(desk) as client, client.lease("two-node", ttl=60) as held:
        assert (held.environment, held.fence) == ("e1", 7)
    assert desk.state() == "released"


async def test_a_block_that_fails_gives_the_environment_back_and_keeps_its_error() -> None:
    desk = Desk()
    with pytest.raises(ZeroDivisionError):
        async with client_of(desk) as client, client.lease("two-node"):
            raise ZeroDivisionError
    assert desk.state() == "released"


async def test_who_loses_patience_is_out_of_the_queue() -> None:
    desk = Desk(queue=1000)
    async with client_of(desk) as client:
        with pytest.raises(NoEnvironment):
            await client.acquire("two-node", ttl=60, patience=0)
    assert desk.state() == "cancelled"


async def test_cancelled_in_the_queue_it_takes_the_request_back() -> None:
    desk, waiting = Desk(queue=1000), asyncio.Event()

    async def stand(row: Lease) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with client_of(desk) as client:
        task = asyncio.ensure_future(client.acquire("two-node", ttl=60, waits=stand))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert desk.state() == "cancelled"


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with client_of(Desk(is_silent=True)) as client:
        with pytest.raises(Unreachable):
            await client.send(calls.whoami())


async def test_all_pages_are_read() -> None:
    desk = Desk()
    async with client_of(desk) as client, client.lease("two-node"):
        found = [row.id async for page in client.every(lambda below: calls.leases(below=below)) for row in page.items]
    assert found == ["l1"]


@pytest.mark.slow
async def test_a_loss_cancels_the_block_and_comes_out_as_itself() -> None:
    desk, was_cancelled = Desk(ttl=0.3), False

    async def block() -> None:
        nonlocal was_cancelled
        async with client_of(desk) as client, client.lease("two-node"):
            desk.revoked = True
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                was_cancelled = True
                raise

    with pytest.raises(LeaseLost, match="fence 7 is over"):
        await block()
    assert was_cancelled
    assert desk.count("POST", "/release") == 0


@pytest.mark.slow
async def test_a_timeout_of_the_blocks_own_is_no_loss() -> None:
    desk = Desk()

    async def block() -> None:
        async with client_of(desk) as client, client.lease("two-node"), asyncio.timeout(0.05):
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await block()
    assert desk.state() == "released"
