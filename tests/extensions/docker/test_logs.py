"""docker.logs: exact across calls, whatever is cut where; and the messages and cursors that it is made of."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from paddock.core.errors import Broken
from paddock.wire.fields import BadParams
from paddock.wire.methods import check
from paddock_docker import logs
from paddock_docker.cursor import Cursor, Reading
from paddock_docker.messages import Message, Reader
from tests.extensions.docker.conftest import TABLE, Docker, output_of


def frame(text: bytes, *, stream: int = 1, stamp: str = "2026-11-20T09:08:23.563172192Z") -> bytes:
    whole = f"{stamp} ".encode() + text
    return bytes([stream, 0, 0, 0]) + len(whole).to_bytes(4, "big") + whole


def read(data: bytes, *, tty: bool = False, piece: int = 1 << 20) -> list[bytes]:
    reader = Reader(tty=tty)
    found = [message.data for at in range(0, len(data), piece) for message in reader.feed(data[at : at + piece])]
    found += [message.data for message in reader.finish()]
    assert reader.rest == 0
    return found


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 40, 100_000])
def test_frames_are_messages_wherever_the_stream_is_cut(piece: int) -> None:
    data = frame(b"one\n") + frame(b"", stream=2) + frame(b"two", stream=2) + frame(b"x" * 50_000)
    assert read(data, piece=piece) == [b"one\n", b"", b"two", b"x" * 50_000]


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_lines_of_a_terminal_are_messages_and_long_ones_come_in_parts(piece: int) -> None:
    stamp = b"2026-11-20T09:08:23.563172192Z "
    long = b"x" * (16 << 10)
    data = stamp + b"one\r\n" + stamp + long + stamp + b"rest\r\n" + stamp + b"\r\n" + stamp + b"unfinished"
    assert read(data, tty=True, piece=piece) == [b"one\r\n", long, b"rest\r\n", b"\r\n", b"unfinished"]


def test_the_moment_of_a_message_is_exact() -> None:
    (message,) = Reader(tty=False).feed(frame(b"a", stamp="2026-11-20T09:08:23.000000007Z"))
    assert (message.second, message.nano) == (int(datetime(2026, 11, 20, 9, 8, 23, tzinfo=UTC).timestamp()), 7)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 200 OK", "no frames where they are due"),
        (frame(b"a", stamp="yesterday, or a day before....."), "a message without its moment"),
        (b"\3\0\0\0\0\0\0\7no more", "Docker Engine: no more"),
        (b"\1\0\0\0\x7f\0\0\0", "no frames where they are due"),
    ],
)
def test_what_the_engine_cannot_mean_or_complains_of_is_broken(data: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        list(Reader(tty=False).feed(data))


# ---- cursors ---------------------------------------------------------------------------------------------------------


def replay(history: list[Message], begin: Cursor) -> Iterator[Message]:
    """As the Engine gives messages since a moment: those that are older are left out, in the order of its file."""
    return (one for one in history if (one.second, one.nano) >= (begin.second, begin.nano))


def history(seed: int) -> list[Message]:
    """Messages of two streams: some at the very same moment, some up to half a second out of order, some pauses."""
    chance = random.Random(seed)
    moment, found = 1_000_000_000_000_000_000, []
    for number in range(400):
        moment += chance.choice([0, 0, 1, 1_000_000, 300_000_000, 4_000_000_000])
        shown = moment - chance.choice([0, 0, 0, 500_000_000])
        second, nano = divmod(shown, 1_000_000_000)
        found.append(Message(second=second, nano=nano, stamp=b"", data=b"%d" % number))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_whoever_goes_on_from_cursors_reads_each_message_once(seed: int) -> None:
    chance, told = random.Random(seed), history(seed)
    found: list[bytes] = []
    cursor = Cursor()
    for _ in range(500):
        reading, left = Reading(cursor), chance.randint(1, 30)
        for message in replay(told, cursor):
            if reading.take(message.second, message.nano):
                found.append(message.data)
                left -= 1
                if not left:
                    break
        cursor = Cursor.parse(str(reading.cursor))
    assert found == [message.data for message in told]


def test_a_cursor_lies_close_behind_what_was_read() -> None:
    reading = Reading(Cursor())
    told = history(1)
    for message in told:
        reading.take(message.second, message.nano)
    assert told[-1].second - reading.cursor.second <= 1
    assert reading.cursor.count < 100


def test_a_cursor_that_begins_at_a_moment_leaves_out_what_is_older() -> None:
    moment = datetime(2026, 11, 20, 9, 8, 23, 500_000, tzinfo=UTC)
    assert Cursor.since(moment).moment == f"{int(moment.timestamp())}.500000000"


# ---- the real thing --------------------------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.slow
async def test_both_streams_come_in_their_order_and_each_alone(docker: Docker) -> None:
    await docker.run("one", "for i in 1 2 3; do echo out $i; usleep 2000; echo err $i >&2; usleep 2000; done")
    await docker.ended("one")
    assert (await docker.printed("one"))[0] == b"out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"
    assert (await docker.printed("one", streams="out"))[0] == b"out 1\nout 2\nout 3\n"
    assert (await docker.printed("one", streams="err"))[0] == b"err 1\nerr 2\nerr 3\n"
    stamped = (await docker.printed("one", timestamps=True))[0].splitlines()
    moments = [datetime.fromisoformat(f"{line.split()[0].decode()[:26]}+00:00") for line in stamped]
    assert (moments, len(moments)) == (sorted(moments), 6)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("tty", [False, True])
async def test_a_log_is_read_in_pieces_and_nothing_is_lost_or_doubled(docker: Docker, tty: bool) -> None:
    await docker.run("one", "seq 3000; head -c 40000 /dev/zero | tr '\\0' x; echo; seq 100", tty=tty)
    await docker.ended("one")
    whole, told = await docker.printed("one")
    end = b"\r\n" if tty else b"\n"
    lines = [str(number).encode() for number in range(1, 3001)]
    assert whole == end.join([*lines, b"x" * 40_000, *lines[:100], b""])
    assert told["more"] is False
    found, cursor, pieces = b"", None, 0
    while cursor is None or told["more"]:
        data, told = await docker.printed("one", most=3000, **({"cursor": cursor} if cursor else {}))
        assert data
        found, cursor, pieces = found + data, told["cursor"], pieces + 1
    assert found == whole
    assert pieces > 5
    assert (await docker.printed("one", cursor=cursor))[0] == b""


@pytest.mark.e2e
@pytest.mark.slow
async def test_what_is_followed_comes_while_it_is_printed_and_ends_with_the_container(docker: Docker) -> None:
    await docker.run("one", "echo first; sleep 0.3; echo last")
    data, told = await docker.printed("one", follow=60)
    assert (data, told["more"]) == (b"first\nlast\n", False)


@pytest.mark.e2e
@pytest.mark.slow
async def test_following_ends_by_its_time_and_goes_on_with_the_cursor(docker: Docker) -> None:
    await docker.run("one", "i=0; while [ $i -lt 100 ]; do i=$((i + 1)); echo $i; usleep 10000; done")
    found, told = await docker.printed("one", follow=0.2)
    assert told["more"] is True
    rest, told = await docker.printed("one", follow=60, cursor=told["cursor"])
    assert (found + rest).split() == [str(number).encode() for number in range(1, 101)]
    assert 0 < len(found) < len(rest)


@pytest.mark.e2e
@pytest.mark.slow
async def test_a_call_that_is_carried_out_again_goes_on_behind_what_it_had_written(docker: Docker) -> None:
    await docker.run("one", "seq 2000")
    await docker.ended("one")
    call = docker.doer.call("docker.logs", among=TABLE, container="one", most=500)
    first = output_of(await logs.send(call))
    # As after a crash: bytes behind the record were written, and told, and the record does not know.
    whole = b"".join(b"%d\n" % number for number in range(1, 2001))
    (Path(call.directory) / "output").write_bytes(whole[: len(first) + 333])
    again = docker.doer.call("docker.logs", among=TABLE, container="one")
    outcome = await logs.send(type(call)(**{**vars(call), "params": again.params}))
    assert output_of(outcome) == whole
    assert outcome.result["bytes"] == len(whole)


@pytest.mark.e2e
@pytest.mark.slow
async def test_nothing_older_than_a_moment_is_sent(docker: Docker) -> None:
    await docker.run("one", "echo old; sleep 0.5; echo new")
    await docker.ended("one")
    stamped = (await docker.printed("one", timestamps=True))[0].splitlines()
    moment = stamped[1].split()[0].decode()[:26] + "Z"
    assert (await docker.printed("one", since=moment))[0] == b"new\n"


@pytest.mark.e2e
@pytest.mark.slow
async def test_a_call_that_is_cancelled_leaves_what_it_had_and_no_connection(docker: Docker) -> None:
    await docker.run("one", "echo ready; sleep 100")
    call = docker.doer.call("docker.logs", among=TABLE, container="one", follow=60)
    following = asyncio.create_task(logs.send(call))
    path = Path(call.directory) / "output"
    while not (path.exists() and path.stat().st_size):  # noqa: ASYNC110 - another process prints it
        await asyncio.sleep(0.01)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert path.read_bytes() == b"ready\n"
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("cursor", ["", "1", "1.2:3", "x.000000000:0", "1.000000000:-1"])
def test_a_cursor_that_nobody_gave_is_refused(cursor: str) -> None:
    params: dict[str, Any] = {"container": "one", "cursor": cursor}
    with pytest.raises(BadParams, match=r"params\.cursor"):
        check("docker.logs", params, among=TABLE)
