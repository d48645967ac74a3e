"""Whoever has not said a good hello gets a clear refusal, little memory and little time."""

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.peers import FACTS, Memory, hello, is_well, off, open_files, peer
from tests.story.house import House

pytestmark = pytest.mark.slow


def spelt(method: str, params: object, **more: object) -> str:
    return json.dumps({"version": "1", "id": "x", "method": method, "params": params, **more})


HELLO = spelt("hello", hello())

MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "64 KiB and a byte": ("x" * ((64 << 10) + 1), "65536 bytes before hello"),
    "65 levels": ("[" * 65 + "]" * 65, "64 levels"),
    "65 levels in params": (spelt("hello", {"a": json.loads("[" * 63 + "]" * 63)}), "64 levels"),
    "a million brackets": ("[" * 60_000, "64 levels"),
    "NaN": (HELLO.replace('"boot"', "NaN"), "NaN is not JSON"),
    "Infinity": (HELLO.replace('"boot"', "-Infinity"), "-Infinity is not JSON"),
    "1e999": (HELLO.replace('"boot"', "1e999"), "out of range"),
    "ten thousand digits": (HELLO.replace('"boot"', "9" * 10_000), "too long"),
    "a duplicate key": (HELLO.replace('"software"', '"ledger": "a", "software"'), "stands twice"),
    "a lone surrogate": (HELLO.replace('"boot"', r'"\ud800"'), "lone surrogate"),
    "half a message": (HELLO[:-5], "not JSON"),
    "no object": ("[1, 2]", "not an object"),
    "nothing": ("", "not JSON"),
    "no version": (HELLO.replace('"version": "1", ', ""), "version"),
    "two kinds at once": (HELLO[:-1] + ', "result": {}}', "exactly one of"),
    "escape codes in the id": (HELLO.replace('"id": "x"', r'"id": "\u001b[2J"'), "do not print"),
    "NUL in the method": (HELLO.replace('"hello"', r'"hel\u0000lo"', 1), "do not print"),
    "status before hello": (spelt("task_status", {"task_id": "t", "state": "running"}), "not before hello"),
    "a binary frame": (HELLO.encode(), "binary"),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_message_is_refused_in_words_and_the_connection_closed(server: House, name: str) -> None:
    text, words = MALFORMED[name]
    async with peer(server) as stranger:
        await stranger.say(text)
        await stranger.ended()

    assert words in stranger.fatal


async def test_invalid_utf_8_closes_the_connection(server: House) -> None:
    with await off(upgraded, server) as sock:
        await off(sock.sendall, frame(b'{"version": "\xff\xfe"}'))
        assert (await off(read_to_end, sock))[:1] == b"\x88"


def test_a_mebibyte_and_a_byte_is_not_taken_from_a_stranger(server: House, memory: Memory) -> None:
    with upgraded(server) as sock:
        sock.sendall(frame(b"x" * ((1 << 20) + 1))[:200_000])
        assert b"message too big" in (last := read_to_end(sock)) or last[:1] == b"\x88", last
    assert memory.grew < 8


def test_the_transport_s_own_limit_closes_without_reading_on(server: House, memory: Memory) -> None:
    with upgraded(server) as sock:
        # A frame that says it is 8 EiB long.
        sock.sendall(bytes([0x81, 0xFF]) + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0")
        assert read_to_end(sock)[:1] == b"\x88"
    assert memory.grew < 16


WRONG: dict[str, list[object]] = {
    "software": [None, 1, [], "", "x" * 201, "a\x1b[31mb", "a\0b", "a\u202eb"],
    "boot_id": [None, True, {}, "a\nb"],
    "ledger": [None, 1.5, "\x07"],
    "skills": ["local", [1], [None], ["a\0b"], ["x"] * 1001, {}],
    "facts": [None, [], {}, {"hostname": 1}, {"hostname": "a\x1b]0;b\x07"}, {"hostname": "a", "addresses": [1]}],
    "fences": [[], {"a": -1}, {"a": 1.5}, {"a": True}, {"a": 1 << 63}, {"a\x1b": 1}, {"a": "1"}],
    "epoch": [-1, 1.0, "1", 1 << 63, True],
    "seq": [-1, "x", 1 << 64],
    "tasks": [{}, [1], [{}], [{"task_id": "t"}], [{"task_id": "t", "state": "gone"}], [{"task_id": "a\0", "state": 1}]],
    "agent": [None, 7, "", "a\0b"],
    "token": [None, [], "\x1b"],
}


@pytest.mark.parametrize("field", WRONG)
async def test_a_field_of_hello_that_is_wrong_is_named(server: House, field: str) -> None:
    for value in WRONG[field]:
        async with peer(server) as stranger:
            told = await stranger.ask("hello", hello(**{field: value}))
            await stranger.ended()
        assert told["error"]["code"] == "bad_params", (value, told)
        assert f"params.{field}" in told["error"]["msg"], (value, told)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(["hello", "enrol", "relay"]), changes=st.lists(values, max_size=7))
def test_no_hello_that_is_made_up_comes_in(server: House, method: str, changes: list[object]) -> None:
    base = {
        "hello": hello(),
        "enrol": {"code": "pdk_made-up-code-made-up", "facts": FACTS},
        "relay": {"agent": "a", "token": "t", "environment": "e", "machine": "m", "fence": 1},
    }[method]
    params = {**base, **dict(zip(base, changes, strict=False))}

    async def try_it() -> dict[str, object]:
        async with peer(server) as stranger:
            told = await stranger.ask(method, params)
            await stranger.ended()
        return told

    told = asyncio.run(try_it())
    assert told.get("error", {}).get("code") in ("bad_params", "refused") or told == {"closed": True}, told  # type: ignore[attr-defined]


async def test_an_unknown_token_and_an_unknown_agent_are_told_the_same(server: House) -> None:
    said = []
    for agent in ("a-nobody", "pair-1.one"):
        async with peer(server) as stranger:
            told = await stranger.ask("hello", hello(agent=agent))
            await stranger.ended()
        said.append(told["error"])
    assert said[0] == said[1]
    assert said[0]["code"] == "refused"


async def test_a_code_is_good_once(server: House) -> None:
    code = (await off(server.post, "enrolments", host="local"))["code"]
    async with peer(server) as first, peer(server) as second:
        told = await first.ask("enrol", {"code": code, "facts": FACTS})
        assert "token" in told["result"]
        told = await second.ask("enrol", {"code": code, "facts": FACTS})
        await second.ended()
    assert (told["error"]["code"], told["error"]["msg"]) == ("refused", "enrolment: this code was used before")


async def test_a_code_that_is_over_or_made_up_is_refused(server: House) -> None:
    short = (await off(server.post, "enrolments", host="local", ttl=1))["code"]
    await asyncio.sleep(1.1)
    for code, words in ((short, "is over"), ("pdk_made-up-code-made-up", "is not known")):
        async with peer(server) as stranger:
            told = await stranger.ask("enrol", {"code": code, "facts": FACTS})
            await stranger.ended()
        assert words in told["error"]["msg"]


async def test_a_relay_under_a_token_that_nobody_has_is_refused_at_once(server: House) -> None:
    async with peer(server) as stranger:
        vouching = {"agent": "a-nobody", "token": "pdk_nothing", "environment": "pair-1", "machine": "one", "fence": 1}
        told = await stranger.ask("relay", vouching)
        await stranger.ended()
    assert told["error"]["code"] == "refused"


async def test_five_hundred_half_open_the_silent_and_the_slow_cost_little_and_are_gone_after_ten_seconds(
    server: House, memory: Memory
) -> None:
    assert server.server is not None
    files = open_files(server.server.pid)
    began = time.monotonic()
    socks = [await off(upgraded, server) for _ in range(500)]
    for sock in socks:
        # The head of a frame of 60,000 bytes and a little of it: the rest never comes.
        sock.sendall(frame(b"x" * 60_000)[:1000])
    async with peer(server) as silent:
        with await off(upgraded, server) as slow:

            async def drip() -> None:
                for byte in frame(HELLO.encode())[:30]:
                    slow.sendall(bytes([byte]))
                    await asyncio.sleep(1)

            dripping = asyncio.create_task(drip())
            asked = time.monotonic()
            assert await off(is_well, server)
            async with peer(server) as honest:
                told = await honest.ask("hello", hello())
            assert told["error"]["code"] == "refused"
            assert time.monotonic() - asked < 2, "nobody else is kept waiting"
            await silent.ended(within=14)
            assert time.monotonic() - began > 9
            assert silent.fatal == "no hello within 10 s"
            slow.settimeout(3)
            assert b"no hello within 10 s" in await off(slow.recv, 4096)
            dripping.cancel()
            # It does not answer the close either: the socket is closed all the same.
            slow.settimeout(8)
            await off(read_to_end, slow)
    assert memory.grew < 80
    await asyncio.sleep(1)
    assert open_files(server.server.pid) <= files + 5
    for sock in socks:
        sock.close()


async def test_strangers_that_fill_their_frames_are_cut_before_memory_is(server: House, memory: Memory) -> None:
    socks = [await off(upgraded, server) for _ in range(100)]
    filling = frame(b"x" * (1 << 20))[:-1]
    try:

        def fill(sock: socket.socket) -> None:
            sock.settimeout(8)
            try:
                sock.sendall(filling)
            except OSError:
                pass

        await asyncio.gather(*(off(fill, sock) for sock in socks))
        assert await off(is_well, server)
        assert memory.grew < 32
    finally:
        for sock in socks:
            sock.close()


async def test_who_pings_and_never_reads_does_not_fill_the_memory(server: House, memory: Memory) -> None:
    with await off(upgraded, server, 4096) as sock:

        def flood() -> None:
            ping = bytes([0x89, 0x80 | 125]) + b"\0\0\0\0" + b"x" * 125
            until = time.monotonic() + 3
            sock.settimeout(1)
            try:
                while time.monotonic() < until:
                    sock.sendall(ping * 500)
            except OSError:
                pass

        await off(flood)
        assert memory.grew < 32


async def test_empty_fragments_without_end_do_not_fill_the_memory(server: House, memory: Memory) -> None:
    with await off(upgraded, server) as sock:

        def flood() -> None:
            sock.sendall(bytes([0x01, 0x80]) + b"\0\0\0\0")
            empty = bytes([0x00, 0x80]) + b"\0\0\0\0"
            until = time.monotonic() + 3
            sock.settimeout(1)
            try:
                while time.monotonic() < until:
                    sock.sendall(empty * 10_000)
            except OSError:
                pass

        await off(flood)
        assert await off(is_well, server)
        assert memory.grew < 32


def upgraded(paddock: House, receive_buffer: int = 0) -> socket.socket:
    """A raw socket on which the WebSocket was agreed."""
    parts = urlsplit(paddock.url)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(20)
    sock.connect((parts.hostname, parts.port))
    sock.sendall(
        f"GET /agent HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(1)
    assert b" 101 " in answer
    return sock


def frame(data: bytes) -> bytes:
    """A text frame, masked with zeroes."""
    size = len(data)
    if size < 126:
        head = bytes([0x80 | size])
    elif size < 1 << 16:
        head = bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return b"\x81" + head + b"\0\0\0\0" + data


def read_to_end(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data
