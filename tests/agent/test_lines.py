"""Agents that speak lines: dialled over TCP and TLS, over a guest's serial port, over their own stdio."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent import dialing
from paddock.agent.channel import Carrying, Channel
from paddock.agent.identity import Identity
from paddock.agent.ledger import Ledger
from paddock.hands import links
from paddock.hands.lines import LineLink
from paddock.wire.backoff import Backoff
from paddock.wire.hello import TaskState
from paddock.wire.messages import Success
from tests.agent.conftest import SOURCE, Host
from tests.agent.desk import TOKEN, Desk
from tests.agent.guest import Hypervisor
from tests.agent.lines import LineDesk
from tests.certificates import Authority

pytestmark = pytest.mark.slow
GUEST = "e-1/m-1"


async def test_an_agent_dials_a_server_of_lines_enrols_and_works(host: Host) -> None:
    async with LineDesk().open() as desk:
        host.start("--line", desk.url, "--retry-limit", "1")
        await desk.here()
        assert desk.hellos[-1].token == TOKEN
        answer = await desk.ask(desk.command("c-1", "script.run", run="echo over a line"))
        assert isinstance(answer, Success)
        assert await desk.whole("c-1") == b"over a line\n"
        await desk.drop_all()
        await desk.until(lambda: len(desk.hellos) == 2)
        await desk.here()


async def test_lines_over_tls_verify_the_name(host: Host, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    async with LineDesk().open(tls=authority.serving("other.example")) as wrong:
        host.start("--line", wrong.url, "--ca", str(authority.path), "--retry-limit", "1")
        await asyncio.sleep(1)
        await wrong.until(lambda: "not valid for '127.0.0.1'" in host.log.read_text())
        assert wrong.hellos == []
        host.kill()
    async with LineDesk().open(tls=authority.serving("127.0.0.1")) as desk:
        host.start("--line", desk.url, "--ca", str(authority.path))
        await desk.here()
        assert desk.hellos[-1].token == TOKEN


async def test_a_machines_agent_says_hello_on_a_line_without_an_identity(host: Host) -> None:
    """Whoever listens there carries the machine, and knows which one it is."""

    async with LineDesk().open() as desk:
        desk.tokens = {None}  # type: ignore[arg-type]
        host.start("--line", desk.url, "--machine", "m-1", "--code", "")
        await desk.here()
        assert (desk.hellos[-1].agent, desk.hellos[-1].token) == (None, None)


async def test_an_agent_speaks_on_its_own_stdio_and_ends_with_it(tmp_path: Path) -> None:
    words = ["run", "--line", "stdio:", "--state", str(tmp_path / "state"), "--cloud", "none"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "paddock.agent",
        *words,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(60):
        hello = json.loads(await process.stdout.readline())
        assert hello["method"] == "hello"
        assert "token" not in hello["params"]
        process.stdin.close()
        assert await process.wait() == 0


# A guest and its host


class House:
    """A guest's agent on a port, and the part of its host's agent that relays it to the server."""

    def __init__(self, desk: Desk, guest: Host, hypervisor: Hypervisor, ledger: Ledger) -> None:
        self.desk = desk
        self.guest = guest
        self.hypervisor = hypervisor
        self._carrying = Carrying(
            server=dialing.server(
                (desk.url,), authorities=None, certificate=None, backoff=Backoff(most=timedelta(seconds=1))
            ),
            identity=lambda: Identity(agent="host", token=TOKEN),
            ledger=ledger,
        )
        self._relaying: asyncio.Task[None] | None = None

    def start_guest(self) -> None:
        self.guest.start("--line", f"virtio:{self.hypervisor.device}", "--code", "", "--skills", "script,system")

    def start_host(self) -> None:
        channel = Channel(
            environment="e-1",
            machine="m-1",
            reach=lambda: links.connect(f"serial:{self.hypervisor.socket}"),
        )
        self._relaying = asyncio.create_task(channel.keep(self._carrying))

    async def stop_host(self) -> None:
        if self._relaying is not None:
            self._relaying.cancel()
            await asyncio.wait({self._relaying})

    async def works(self, id: str) -> None:
        await self.desk.here(GUEST)
        answer = await self.desk.ask(self.desk.command(id, "script.run", run=f"echo {id}"), agent=GUEST, limit=40)
        assert isinstance(answer, Success)
        assert (await self.desk.final(id)).state is TaskState.COMPLETE
        assert await self.desk.whole(id) == f"{id}\n".encode()


@pytest.fixture
def guest(desk: Desk, tmp_path: Path) -> Iterator[Host]:
    made = Host(desk, tmp_path / "guest" / "state")
    made.state.parent.mkdir()
    yield made
    made.clear()


@pytest.fixture
async def house(desk: Desk, guest: Host, tmp_path: Path) -> AsyncIterator[House]:
    ledger = Ledger.open(tmp_path / "hosts-ledger")
    async with Hypervisor(tmp_path / "port").open() as hypervisor:
        made = House(desk, guest, hypervisor, ledger)
        yield made
        await made.stop_host()
        guest.kill()
    await ledger.close()


async def test_a_guest_that_is_there_first_says_hello_once_its_host_opens(house: House, desk: Desk) -> None:
    house.start_guest()
    await desk.until(lambda: (house.guest.state / "process").exists())
    house.start_host()
    await house.works("c-1")
    assert desk.hellos[-1].token is None
    assert len(desk.hellos) == 1, "one opening, one hello"


async def test_a_guest_that_comes_later_finds_its_host_waiting(house: House, desk: Desk) -> None:
    house.start_host()
    await desk.until(lambda: house.hypervisor.hosts == 1)
    house.start_guest()
    await house.works("c-1")
    assert len(desk.hellos) == 1


async def test_a_hosts_agent_that_restarts_in_the_middle_of_a_line_opens_a_session_of_its_own(
    house: House, desk: Desk
) -> None:
    house.start_guest()
    house.start_host()
    await house.works("c-1")
    await house.stop_host()
    house.hypervisor.inject(b'{"version":"1","id":"half a mess')
    house.start_host()
    await desk.until(lambda: len(desk.hellos) == 2)
    await house.works("c-2")
    assert desk.hellos[0].ledger == desk.hellos[1].ledger


async def test_a_guest_that_begins_anew_gets_a_link_of_its_own_to_the_server(house: House, desk: Desk) -> None:
    house.start_guest()
    house.start_host()
    await house.works("c-1")
    relays = len(desk.relays)
    house.guest.kill()
    house.start_guest()
    await desk.until(lambda: len(desk.hellos) >= 2)
    assert len(desk.relays) > relays
    await house.works("c-2")


async def test_a_server_that_restarts_is_a_new_session_for_the_guest(house: House, desk: Desk) -> None:
    house.start_guest()
    house.start_host()
    await house.works("c-1")
    await desk.drop_all()
    await desk.until(lambda: len(desk.hellos) >= 2)
    await house.works("c-2")


async def test_a_cut_port_is_opened_anew(house: House, desk: Desk) -> None:
    house.start_guest()
    house.start_host()
    await house.works("c-1")
    house.hypervisor.drop()
    await desk.until(lambda: len(desk.hellos) >= 2)
    await house.works("c-2")


async def test_a_guest_that_reads_nothing_holds_nobody_for_ever() -> None:
    """What waits for it is given up: until then the server's own end of the link would not be seen."""
    ours, theirs = await asyncio.open_connection(*(await _sink()))
    hung = LineLink(ours, theirs)

    class Server:
        """Says more and more."""

        closed = False

        async def receive(self) -> str:
            return "x" * 1_000_000

        async def send(self, text: str) -> None:
            raise AssertionError("the guest says nothing")

        async def close(self, reason: str) -> None:
            self.closed = True

    server = Server()
    async with asyncio.timeout(30):
        await links.relay(server, hung, patience=timedelta(seconds=0.3))
    assert server.closed


async def _sink() -> tuple[str, int]:
    """Somebody who takes connections and reads nothing."""
    released = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await released.wait()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    name = server.sockets[0].getsockname()
    return name[0], name[1]
