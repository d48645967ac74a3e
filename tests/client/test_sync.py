"""The client with threads: acquired, renewed, released; and what is lost is said."""

import time
from typing import Any

import httpx
import pytest

from paddock.client import Client, Held, LeaseLost, NoEnvironment, NotAllowed, Unreachable, calls
from paddock.client.calls import Call
from paddock.core.errors import Broken, Missing
from paddock.wire import shapes
from tests.client.desk import TOKEN, Desk, Refusal, lease


def client_of(desk: Desk, *, token: str = TOKEN) -> Client:
    return Client("http://desk.example.org", token=token, transport=desk.transport())


def test_a_lease_is_released_when_its_block_ends() -> None:
    desk = Desk()
    with client_of(desk) as client, client.lease("two-node", ttl=60) as held:
        assert (held.environment, held.fence, [machine.name for machine in held.machines]) == ("e1", 7, ["one", "two"])
        assert desk.state() == "granted"
    assert desk.state() == "released"


def test_a_block_that_fails_gives_the_environment_back_and_keeps_its_error() -> None:
    desk = Desk()
    with pytest.raises(ZeroDivisionError), client_of(desk) as client, client.lease("two-node"):
        raise ZeroDivisionError
    assert desk.state() == "released"


def test_who_waits_is_told_and_then_granted() -> None:
    desk, seen = Desk(queue=3), []
    with client_of(desk) as client:
        granted = client.acquire("two-node", ttl=60, waits=lambda row: seen.append(row.state))
    assert seen == ["queued"] * 3
    assert granted.lease.environment == "e1"
    assert desk.count("POST", "/renew") == 1, "its term began at an unknown time"


def test_who_loses_patience_is_out_of_the_queue() -> None:
    desk = Desk(queue=1000)
    with client_of(desk) as client, pytest.raises(NoEnvironment, match="not granted in time"):
        client.acquire("two-node", ttl=60, patience=0)
    assert desk.state() == "cancelled"


def test_ctrl_c_in_the_queue_takes_the_request_back() -> None:
    desk = Desk(queue=1000)

    def interrupt(row: shapes.Lease) -> None:
        raise KeyboardInterrupt

    with client_of(desk) as client, pytest.raises(KeyboardInterrupt):
        client.acquire("two-node", ttl=60, waits=interrupt)
    assert desk.state() == "cancelled"


def test_a_request_granted_while_it_is_taken_back_is_given_back() -> None:
    desk = Desk(queue=2)

    def interrupt(row: shapes.Lease) -> None:
        desk.leases["l1"] = lease("l1", state="granted", environment="e1", fence=7)
        raise KeyboardInterrupt

    with client_of(desk) as client, pytest.raises(KeyboardInterrupt):
        client.acquire("two-node", ttl=60, waits=interrupt)
    assert desk.state() == "released"


def test_what_cannot_be_described_is_given_back_at_once() -> None:
    desk = Desk()

    def fail(method: str, path: str) -> None:
        if "/environments/" in path:
            raise Refusal(503, "broken", "store: it is read-only")

    desk.on = fail
    with client_of(desk) as client, pytest.raises(Broken, match="read-only"):
        client.acquire("two-node", ttl=60)
    assert desk.state() == "released"


def test_a_pool_that_is_not_there_is_missing() -> None:
    with client_of(Desk()) as client, pytest.raises(Missing, match="not configured"):
        client.acquire("three-node", ttl=60)


def test_nobody_lends_to_nobody() -> None:
    with client_of(Desk(), token="") as client, pytest.raises(NotAllowed):
        client.acquire("two-node", ttl=60)


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with client_of(Desk(is_silent=True)) as client, pytest.raises(Unreachable, match="refused") as caught:
        client.send(calls.whoami())
    assert "--server" in caught.value.hint


def test_only_what_is_safe_is_sent_twice() -> None:
    seen: list[str] = []

    def breaks(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path.rpartition("/")[2])
        raise httpx.RemoteProtocolError("server disconnected", request=request)

    client = Client("http://desk.example.org", transport=httpx.MockTransport(breaks))
    asked: list[Call[Any]] = [calls.whoami(), calls.release("l1", fence=1)]
    asked += [calls.acquire("two-node", ttl=1), calls.retry("r1")]
    for call in asked:
        with pytest.raises(Unreachable):
            client.send(call)
    assert seen == ["whoami", "whoami", "release", "release", "leases", "retry"]


def test_all_pages_are_read() -> None:
    pages = {"": shapes.Leases(items=(lease("3"), lease("2")), next="2"), "2": shapes.Leases(items=(lease("1"),))}

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=shapes.plain(pages[request.url.params.get("below", "")]))

    with Client("http://desk.example.org", transport=httpx.MockTransport(handle)) as client:
        found = [row.id for page in client.every(lambda below: calls.leases(below=below)) for row in page.items]
    assert found == ["3", "2", "1"]


def test_an_id_from_a_person_stays_one_segment_of_the_path() -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(404, json={"error": {"code": "missing", "message": "x: none", "hint": ""}})

    with Client("http://desk.example.org", transport=httpx.MockTransport(handle)) as client, pytest.raises(Missing):
        client.send(calls.lease("../tokens?x=1#y"))
    assert seen == ["/api/v1/leases/..%2Ftokens%3Fx%3D1%23y"]


def _until(condition: Any, limit: float = 5.0) -> bool:
    until = time.monotonic() + limit
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(condition())


@pytest.mark.slow
def test_a_held_lease_is_renewed_again_and_again() -> None:
    desk = Desk(ttl=0.3)
    with client_of(desk) as client, client.lease("two-node"):
        assert _until(lambda: desk.count("POST", "/renew") >= 3)
    assert desk.state() == "released"


@pytest.mark.slow
@pytest.mark.slow
def test_each_renewal_tells_until_when_it_is_ours_and_a_loss_is_told_once() -> None:
    desk = Desk(ttl=0.6)
    moments: list[float] = []
    losses: list[LeaseLost] = []
    with client_of(desk) as client:
        granted = client.acquire("two-node", ttl=0.6)
        with Held(client, granted, renewed=moments.append, lost=losses.append) as held:
            first = held.over
            assert _until(lambda: len(moments) >= 2)
            desk.revoked = True
            assert _until(lambda: bool(losses))
    assert [first, *moments] == sorted({first, *moments})
    assert moments[-1] == held.over
    assert [str(loss) for loss in losses] == ["lease l1: not renewed: lease l1: fence 7 is over, the current one is 9"]


def test_a_refused_renewal_is_known_at_once_and_ends_the_block_as_a_loss() -> None:
    desk = Desk(ttl=0.3)

    def block() -> None:
        with client_of(desk) as client, client.lease("two-node") as held:
            desk.revoked = True
            assert _until(lambda: held.loss is not None)
            with pytest.raises(LeaseLost):
                held.check()

    with pytest.raises(LeaseLost, match="fence 7 is over"):
        block()
    assert desk.count("POST", "/release") == 0


@pytest.mark.slow
def test_silence_longer_than_the_term_is_a_loss() -> None:
    desk = Desk(ttl=0.5)

    def block() -> None:
        with client_of(desk) as client, client.lease("two-node") as held:
            desk.is_silent = True
            assert _until(lambda: held.loss is not None)
            desk.is_silent = False

    with pytest.raises(LeaseLost, match="no renewal came through"):
        block()


@pytest.mark.slow
def test_silence_shorter_than_the_term_is_none() -> None:
    desk = Desk(ttl=2.0)
    with client_of(desk) as client, client.lease("two-node") as held:
        desk.is_silent = True
        time.sleep(0.9)
        desk.is_silent = False
        assert _until(lambda: desk.count("POST", "/renew") >= 1)
        assert held.loss is None
    assert desk.state() == "released"
