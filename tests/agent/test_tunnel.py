"""A tunnel carries bytes both ways, each once, and ends with whatever ends first."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from paddock.agent.entry import Outcome
from paddock.agent.skills import tunnel
from paddock.agent.skills.skill import Call, Read, Work
from paddock.core.errors import Broken, Refused
from paddock.wire.fields import BadParams
from paddock.wire.messages import Code
from paddock.wire.methods import check
from tests.agent.doing import place_in

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Ends:
    """The skill in a directory, and what it did to a peer on loopback."""

    def __init__(self, directory: Path, port: int) -> None:
        self.place = place_in(directory)
        self.deeds = tunnel.methods(self.place)
        self.port = port
        self.grew = asyncio.Event()

    def call(self, method: str, task: str, **params: Any) -> Call:
        return Call(
            task=task,
            method=method,
            params=check(method, params),
            environment="",
            fence=0,
            directory=self.place.tasks / task,
            grew=self.grew.set,
        )

    def open(self, task: str = "t1", **params: Any) -> "asyncio.Task[Outcome]":
        deed = self.deeds["tunnel.open"]
        assert isinstance(deed, Work)

        async def act() -> Outcome:
            return await deed.act(self.call("tunnel.open", task, port=self.port, **params))

        return asyncio.create_task(act())

    async def put(self, data: bytes, *, offset: int, task: str = "t1", last: bool = False) -> int:
        deed = self.deeds["tunnel.put"]
        assert isinstance(deed, Read)
        coded = base64.b64encode(data).decode()
        told = await deed.answer(self.call("tunnel.put", "p", task_id=task, offset=offset, data=coded, last=last))
        have = told["have"]
        assert isinstance(have, int)
        return have

    def output(self, task: str = "t1") -> bytes:
        return (self.place.tasks / task / "output").read_bytes()

    async def until_output(self, wanted: bytes, task: str = "t1") -> None:
        async with asyncio.timeout(10):
            while True:
                self.grew.clear()
                with suppress(FileNotFoundError):
                    if self.output(task) == wanted:
                        return
                await self.grew.wait()


@asynccontextmanager
async def peer(directory: Path, serve: Peer) -> AsyncIterator[Ends]:
    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    async with server:
        yield Ends(directory, server.sockets[0].getsockname()[1])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says what it hears, and `bye` when it has heard the last."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")


async def test_bytes_go_both_ways_and_the_last_ones_end_it(tmp_path: Path) -> None:
    async with peer(tmp_path, echo) as ends:
        opened = ends.open()
        assert await ends.put(b"hello ", offset=0) == 6
        assert await ends.put(b"you", offset=6, last=True) == 9
        outcome = await asyncio.wait_for(opened, 10)
        assert outcome.result == {"received": 12, "sent": 9}
        assert outcome.streams["out"].length == 12
        assert ends.output() == b"hello youbye"


async def test_what_is_put_again_is_written_once(tmp_path: Path) -> None:
    async with peer(tmp_path, echo) as ends:
        opened = ends.open()
        both = await asyncio.gather(*(ends.put(b"abc", offset=0) for _ in range(3)))
        assert both == [3, 3, 3]
        assert await ends.put(b"bcdef", offset=1) == 6
        await ends.put(b"", offset=6, last=True)
        await asyncio.wait_for(opened, 10)
        assert ends.output() == b"abcdefbye"


async def test_a_gap_and_what_follows_the_last_are_refused(tmp_path: Path) -> None:
    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await hold.wait()

    hold = asyncio.Event()
    async with peer(tmp_path, listen) as ends:
        opened = ends.open()
        with pytest.raises(Refused, match="only 0 bytes were put before it"):
            await ends.put(b"x", offset=1)
        await ends.put(b"x", offset=0, last=True)
        assert await ends.put(b"x", offset=0, last=True) == 1
        with pytest.raises(Refused, match="the last bytes were put before"):
            await ends.put(b"y", offset=1)
        hold.set()
        await asyncio.wait_for(opened, 10)


async def test_a_put_waits_a_moment_for_its_tunnel_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_BEGIN_LIMIT", 0.05)
    async with peer(tmp_path, echo) as ends:
        with pytest.raises(Refused, match="tunnel t1: it is not open"):
            await ends.put(b"x", offset=0)
        monkeypatch.setattr(tunnel, "_BEGIN_LIMIT", 10)
        putting = asyncio.create_task(ends.put(b"x", offset=0, last=True))
        await asyncio.sleep(0)
        opened = ends.open()
        assert await putting == 1
        await asyncio.wait_for(opened, 10)


async def test_two_tunnels_do_not_mix(tmp_path: Path) -> None:
    async with peer(tmp_path, echo) as ends:
        opened = [ends.open("t1"), ends.open("t2")]
        await asyncio.gather(
            ends.put(b"one", offset=0, task="t1", last=True), ends.put(b"two", offset=0, task="t2", last=True)
        )
        await asyncio.wait_for(asyncio.gather(*opened), 10)
        assert (ends.output("t1"), ends.output("t2")) == (b"onebye", b"twobye")


async def test_a_cancel_cuts_the_connection(tmp_path: Path) -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        heard.set_result(await reader.read())

    async with peer(tmp_path, listen) as ends:
        opened = ends.open()
        await ends.until_output(b"x")
        opened.cancel()
        with suppress(asyncio.CancelledError):
            await opened
        assert await asyncio.wait_for(heard, 10) == b""
        assert ends.output() == b"x"


@pytest.mark.slow
async def test_one_that_nobody_uses_any_more_ends_by_itself(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(tmp_path, silent) as ends:
        outcome = await asyncio.wait_for(ends.open(patience=1), 10)
        assert (outcome.code, outcome.msg) == (Code.FAILED, f"port {ends.port}: nobody has put anything for 1 s")


async def test_more_than_its_output_limit_ends_it_with_what_fits(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1000)
        await writer.drain()
        await reader.read()

    async with peer(tmp_path, talk) as ends:
        outcome = await asyncio.wait_for(ends.open(output_limit=10), 10)
        assert outcome.code is Code.FAILED
        assert "more came than its output_limit" in outcome.msg
        assert (ends.output(), outcome.streams["out"].length) == (b"x" * 10, 10)


async def test_a_peer_that_does_not_read_gets_no_more_than_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await hold.wait()

    monkeypatch.setattr(tunnel, "_ROOM_LIMIT", 0.05)
    hold = asyncio.Event()
    async with peer(tmp_path, deaf) as ends:
        opened = ends.open()
        piece, have = b"x" * (1 << 19), 0
        for _ in range(100):  # the kernel takes some megabytes by itself
            before, have = have, await ends.put(piece, offset=have)
            if have == before:
                break
        assert 0 < have < 100 * len(piece)
        hold.set()
        opened.cancel()
        with suppress(asyncio.CancelledError):
            await opened


async def test_a_port_where_nobody_is_is_told(tmp_path: Path) -> None:
    async with peer(tmp_path, echo) as ends:
        port = ends.port
    ends.port = port
    with pytest.raises(Broken, match=f"port {port}: Connection refused"):
        await ends.open()


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "127.0.0.2", ""])
def test_nothing_beyond_the_machine_can_be_asked_for(host: str) -> None:
    with pytest.raises(BadParams, match="host"):
        check("tunnel.open", {"port": 22, "host": host})
