"""The connection of a real agent: what is silent, gone, half gone, slow or hasty on the way to its server."""

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent import identity
from paddock.hands import faults
from paddock.wire.hello import TaskState
from paddock.wire.messages import Success
from tests.agent.conftest import Host
from tests.agent.desk import CODE, TOKEN, Desk
from tests.agent.proxies import Wire
from tests.certificates import Authority
from tests.hands.test_websocket import Proxy

pytestmark = pytest.mark.slow
HASTY = ("--retry-limit", "1")
"""As soon as it may: each attempt a second after the one before."""
LATE = 0.5
"""So much later than it came a busy machine may note that somebody came."""


@pytest.fixture
async def wire(desk: Desk) -> AsyncIterator[Wire]:
    async with Wire(desk.port).open() as opened:
        yield opened


def over(wire: Wire) -> str:
    return f"ws://127.0.0.1:{wire.port}/agent"


async def until(condition: Callable[[], object], limit: float = 60) -> None:
    """Look until it is true: of what the agent writes into files nobody tells us."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def whys(host: Host) -> list[str]:
    """The reasons that the agent logged."""
    lines = [json.loads(line) for line in host.log.read_text().splitlines() if line.startswith("{")]
    return [line["why"] for line in lines if "why" in line]


@contextlib.asynccontextmanager
async def silent() -> AsyncIterator[tuple[int, list[float]]]:
    """Takes connections and says nothing on them, ever; and when it took them."""
    taken: list[float] = []
    released = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(asyncio.get_running_loop().time())
        await released.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        released.set()
        server.close()


# Deadlines


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up_and_asked_again(host: Host) -> None:
    async with silent() as (port, taken):
        host.start("--server", f"ws://127.0.0.1:{port}/agent", "--connect-limit", "0.5", "--json", *HASTY)
        await until(lambda: len(taken) >= 3)
    assert "no answer within 0.5 s" in whys(host)[0]
    assert taken[2] - taken[0] >= 2 * 1.5 - LATE, "each time the deadline, and a second"


async def test_a_tls_handshake_that_hangs_is_given_up(host: Host) -> None:
    async with silent() as (port, taken):
        host.start("--server", f"wss://127.0.0.1:{port}/agent", "--connect-limit", "0.6", "--json")
        await until(lambda: len(taken) >= 2)
        await until(lambda: whys(host))
    assert "SSL handshake is taking longer than 0.4" in whys(host)[0]


async def test_a_hello_that_is_not_answered_does_not_hold_the_agent(desk: Desk, host: Host) -> None:
    """Of the defects: a server that upgraded and never answered the first words held dcm-agent for ever."""
    desk.answers_hello = False
    host.start("--hello-limit", "0.5", "--json", *HASTY)
    await desk.until(lambda: len(desk.hellos) >= 2)
    assert "no answer to the first message within 0.5 s" in whys(host)
    desk.answers_hello = True
    await desk.here()


async def test_a_peer_that_vanished_without_a_word_is_noticed_by_its_silence(
    desk: Desk, host: Host, wire: Wire
) -> None:
    desk.heartbeat = timedelta(milliseconds=200)
    host.start("--server", over(wire), "--json", *HASTY)
    await desk.here()
    wire.lose_server()
    await desk.until(lambda: len(desk.hellos) == 2)
    await desk.here()
    assert "3 pings were not answered" in whys(host)


async def test_an_idle_session_lasts(desk: Desk, host: Host, wire: Wire) -> None:
    desk.heartbeat = timedelta(milliseconds=100)
    host.start("--server", over(wire), *HASTY)
    await desk.here()
    before = wire.forwarded
    await asyncio.sleep(2)
    assert (len(desk.hellos), len(wire.opened)) == (1, 1), "twenty heartbeats, and nobody left"
    assert wire.forwarded > before


async def test_a_line_on_which_idle_connections_are_cut_is_dialled_again(desk: Desk, host: Host, wire: Wire) -> None:
    host.start("--server", over(wire), *HASTY)
    for count in (1, 2, 3):
        await desk.until(lambda count=count: len(desk.hellos) == count)
        await desk.here()
        wire.cut()
    await desk.until(lambda: len(desk.hellos) == 4)
    assert isinstance(await desk.ask(desk.command("c", "status")), Success)


# How soon


async def test_a_server_that_welcomes_and_drops_at_once_is_never_asked_more_than_once_a_second(
    desk: Desk, host: Host, wire: Wire
) -> None:
    """Of the defects: dcm-agent came back eighteen times a second, for each welcome made it forget its patience."""
    desk.drops_at_once = True
    host.start("--server", over(wire), *HASTY)
    await until(lambda: len(wire.opened) >= 4)
    assert wire.opened[3] - wire.opened[0] >= 3 - LATE
    assert len(desk.hellos) >= 3
    desk.drops_at_once = False
    await desk.here()


@pytest.mark.parametrize("wish", [2, "2.5"])
async def test_retry_after_is_obeyed_whether_it_is_a_number_or_its_text(
    desk: Desk, host: Host, wire: Wire, wish: object
) -> None:
    """Of the defects: a text made dcm-agent raise, and forget what it was asked."""
    desk.tokens, desk.retry_after = set(), wish
    host.start("--server", over(wire), *HASTY)
    await until(lambda: len(wire.opened) >= 2)
    assert wire.opened[1] - wire.opened[0] >= float(str(wish)) - LATE
    desk.tokens = {TOKEN}
    await desk.here()


async def test_a_retry_after_of_no_meaning_is_no_harm(desk: Desk, host: Host, wire: Wire) -> None:
    desk.tokens, desk.retry_after = set(), {"junk": [1e308]}
    host.start("--server", over(wire), *HASTY)
    await desk.until(lambda: len(desk.refused) >= 2)
    desk.retry_after = -1e308
    await desk.until(lambda: len(desk.refused) >= 3)
    desk.tokens = {TOKEN}
    await desk.here()


# A partition of any length


async def test_work_goes_on_through_a_partition_and_is_told_once_when_it_is_over(
    desk: Desk, host: Host, wire: Wire, tmp_path: Path
) -> None:
    desk.heartbeat = timedelta(milliseconds=200)
    witness = tmp_path / "ran"
    host.start("--server", over(wire), *HASTY, "--connect-limit", "1")
    await desk.here()
    script = f"sleep 1; echo word; echo x >> {witness}"
    taken = await desk.ask(desk.command("c-1", "script.run", run=script))
    assert isinstance(taken, Success)
    wire.freeze()
    await until(witness.exists)
    await until(lambda: len(wire.opened) >= 3, 60)
    assert "c-1" not in desk.finals
    wire.thaw()
    assert (await desk.final("c-1")).state is TaskState.COMPLETE
    assert await desk.whole("c-1") == b"word\n"
    assert witness.read_text() == "x\n"


async def test_it_comes_back_however_often_its_server_restarts(host: Host, desk: Desk, wire: Wire) -> None:
    host.start("--server", over(wire), *HASTY)
    await desk.here()
    for epoch in (2, 3):
        async with Desk().open() as another:
            another.epoch = epoch
            wire.target = another.port
            wire.cut()
            await another.here()
            answer = await another.ask(another.command(f"c-{epoch}", "script.run", run="true"))
            assert isinstance(answer, Success)
            assert (await another.final(f"c-{epoch}")).state is TaskState.COMPLETE


async def test_where_nobody_listens_it_waits_and_comes_back(desk: Desk, host: Host, wire: Wire) -> None:
    host.start("--server", over(wire), *HASTY)
    await desk.here()
    wire.sever()
    wire.cut()
    await desk.until(lambda: not desk.seats)
    await asyncio.sleep(2.5)
    await wire.mend()
    await desk.here()


# Several servers


async def test_the_next_server_is_asked_after_one_that_fails_and_stays_the_one(desk: Desk, host: Host) -> None:
    async with silent() as (dead, taken):
        urls = f"ws://127.0.0.1:{dead}/agent,{desk.url}"
        host.start("--server", urls, "--connect-limit", "0.3")
        await desk.here()
        await asyncio.sleep(5.2)  # so long a session has to last to be a good one
        await desk.drop_all()
        await desk.until(lambda: len(desk.hellos) == 2)
        assert len(taken) == 1, "the one that works is asked first"


async def test_when_the_first_of_two_servers_goes_the_second_takes_over(desk: Desk, host: Host) -> None:
    async with Desk().open() as second, Wire(desk.port).open() as wire:
        host.start("--server", over(wire), "--server", second.url)
        await desk.here()
        wire.sever()
        wire.cut()
        await second.here()


# Tokens


async def test_tokens_are_changed_in_the_middle_of_a_session_and_each_is_good_until_the_next_has_said_hello(
    desk: Desk, host: Host
) -> None:
    host.start("--rotation", "2")
    await desk.here()
    await desk.until(lambda: len({hello.token for hello in desk.hellos}) == 3, 30)
    shown = [hello.token for hello in desk.hellos]
    assert shown == list(dict.fromkeys(shown)), "each session shows a token that none before it did"
    assert desk.refused == [], "never one that the server did not know"
    await desk.here()
    assert isinstance(await desk.ask(desk.command("c", "status")), Success)


# Whom it trusts


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


async def test_a_certificate_for_another_name_is_refused_though_its_authority_is_trusted(
    host: Host, authority: Authority
) -> None:
    """Of the defects: dcm-agent took any certificate of a trusted authority, whatever its name."""
    async with Desk().open(tls=authority.serving("other.example")) as desk:
        host.start("--server", f"wss://127.0.0.1:{desk.port}/agent", "--ca", str(authority.path), "--json")
        await until(lambda: whys(host))
        assert "certificate is not valid for '127.0.0.1'" in whys(host)[0]
        assert desk.hellos == []


async def test_the_name_that_it_was_told_is_asked_for_and_verified(host: Host, authority: Authority) -> None:
    context = authority.serving("localhost")
    asked: list[str | None] = []

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        asked.append(name)

    context.sni_callback = note
    async with Desk().open(tls=context) as desk:
        host.start("--server", f"wss://localhost:{desk.port}/agent", "--ca", str(authority.path))
        await desk.here()
    assert asked[0] == "localhost"


def test_points_at_which_an_agent_dies_while_it_changes_its_token_are_in_the_code() -> None:
    source = (Path(faults.__file__).parents[1] / "agent/greeting.py").read_text()
    for point in ("token.saved", "token.told", "token.accepted"):
        assert f'faults.at("{point}")' in source


@pytest.mark.parametrize("point", ["token.saved", "token.told", "token.accepted"])
async def test_an_agent_that_dies_while_it_changes_its_token_is_never_locked_out(
    desk: Desk, host: Host, point: str
) -> None:
    """Of the defects: dcm-agent wrote a token over a longer one, and was a stranger from then on."""
    host.state.mkdir(mode=0o700)
    identity.save(host.state, identity.Identity(agent="host", token=TOKEN))
    long_ago = 1_500_000_000
    os.utime(host.state / "identity", (long_ago, long_ago))
    host.start(PADDOCK_FAULT=point)
    await until(lambda: not host.is_alive)
    host.start()
    await desk.here()
    await until(lambda: (known := identity.load(host.state)) is not None and known.new_token == "")
    known = identity.load(host.state)
    assert known is not None
    assert known.token in desk.tokens
    assert CODE not in known.token


# Through proxies


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_it_reaches_its_server_through_a_proxy(host: Host, authority: Authority, scheme: str) -> None:
    """The proxy alone knows where the server is; what it carries is TLS with the server, whatever it speaks itself."""
    async with Desk().open(tls=authority.serving("server.example")) as desk:
        inside = authority.serving("127.0.0.1") if scheme == "https" else None
        async with Proxy(desk.port, tls=inside, member=("me", "s3cret")).open() as proxy:
            way = f"{scheme}://me:s3cret@127.0.0.1:{proxy.port}"
            host.start("--server", "wss://server.example/agent", "--ca", str(authority.path), "--proxy", way)
            await desk.here()
            assert isinstance(await desk.ask(desk.command("c", "status")), Success)
            assert "server.example" in proxy.asked[0]
    assert "s3cret" not in host.log.read_text()
