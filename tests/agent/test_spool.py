"""Which bytes go next: windows, turns, acknowledgements, new sessions."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from paddock.agent.entry import Stream
from paddock.agent.spool import Spool
from paddock.wire.hello import OUTPUT_LIMIT, UNACKNOWLEDGED_LIMIT, Deliver, Output

MIB = 1 << 20


class Reader:
    """A spool, and the server at its other end."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.spool = Spool(delivered=self.delivered.append, changed=asyncio.Event())
        self.taken: list[Output] = []

    def drain(self) -> bytes:
        """Take all that may go now."""
        data = b""
        while (piece := self.spool.take()) is not None:
            self.taken.append(piece)
            data += piece.data
        return data

    def acknowledge_all(self) -> None:
        for piece in self.taken:
            self.spool.acknowledge(piece.task_id, piece.stream, piece.offset + len(piece.data))
        self.taken.clear()


@pytest.fixture
def reader() -> Reader:
    return Reader()


def output(directory: Path, data: bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "output").write_bytes(data)
    return directory / "output"


def test_a_growing_stream_is_sent_as_it_grows(reader: Reader, tmp_path: Path) -> None:
    path = output(tmp_path / "a", b"one ")
    reader.spool.grow("a", "out", path)
    assert reader.drain() == b"one "
    with path.open("ab") as file:
        file.write(b"two")
    assert reader.drain() == b"two"
    assert [piece.offset for piece in reader.taken] == [0, 4]


def test_pieces_and_window_are_limited(reader: Reader, tmp_path: Path) -> None:
    reader.spool.grow("a", "out", output(tmp_path / "a", bytes(3 * MIB)))
    assert len(reader.drain()) == UNACKNOWLEDGED_LIMIT
    assert all(len(piece.data) <= OUTPUT_LIMIT for piece in reader.taken)
    reader.spool.acknowledge("a", "out", OUTPUT_LIMIT)
    assert len(reader.drain()) == OUTPUT_LIMIT


def test_tasks_take_turns(reader: Reader, tmp_path: Path) -> None:
    for name in "abc":
        reader.spool.grow(name, "out", output(tmp_path / name, bytes(MIB // 2)))
    reader.drain()
    assert [piece.task_id for piece in reader.taken[:6]] == ["a", "b", "c", "a", "b", "c"]


def test_it_is_delivered_once_all_of_it_is_acknowledged(reader: Reader, tmp_path: Path) -> None:
    path = output(tmp_path / "a", b"12345678")
    reader.spool.grow("a", "out", path)
    reader.drain()
    reader.acknowledge_all()
    assert reader.delivered == []
    reader.spool.finish("a", {"out": Stream(path=str(path), length=8)})
    assert reader.delivered == ["a"]
    assert not reader.spool.has("a")


def test_a_task_without_output_is_delivered_at_once(reader: Reader) -> None:
    reader.spool.finish("a", {})
    assert reader.delivered == ["a"]


def test_an_empty_stream_needs_no_message(reader: Reader, tmp_path: Path) -> None:
    reader.spool.finish("a", {"out": Stream(path=str(output(tmp_path / "a", b"")), length=0)})
    assert reader.delivered == ["a"]


def test_a_new_session_sends_again_what_was_not_acknowledged(reader: Reader, tmp_path: Path) -> None:
    reader.spool.grow("a", "out", output(tmp_path / "a", b"12345678"))
    reader.drain()
    reader.spool.acknowledge("a", "out", 3)
    reader.spool.rewind([])
    assert reader.drain() == b"45678"


def test_a_server_that_lost_bytes_gets_them_again(reader: Reader, tmp_path: Path) -> None:
    reader.spool.grow("a", "out", output(tmp_path / "a", b"12345678"))
    reader.drain()
    reader.acknowledge_all()
    reader.spool.rewind([Deliver(task_id="a", stream="out", offset=2)])
    assert reader.drain() == b"345678"


def test_a_server_that_has_more_than_it_said_is_not_sent_it_again(reader: Reader, tmp_path: Path) -> None:
    reader.spool.grow("a", "out", output(tmp_path / "a", b"12345678"))
    reader.spool.rewind([Deliver(task_id="a", stream="out", offset=6)])
    assert reader.drain() == b"78"


def test_a_paused_task_waits_while_others_go_on(reader: Reader, tmp_path: Path) -> None:
    for name in "ab":
        reader.spool.grow(name, "out", output(tmp_path / name, bytes(2 * OUTPUT_LIMIT)))
    assert reader.spool.pause("a")
    assert not reader.spool.pause("a")
    reader.drain()
    assert {piece.task_id for piece in reader.taken} == {"b"}
    reader.spool.again("a")
    reader.drain()
    assert {piece.task_id for piece in reader.taken} == {"a", "b"}


def test_collected_files_go_one_after_the_other_within_one_window(reader: Reader, tmp_path: Path) -> None:
    streams = {}
    for number in range(40):
        path = tmp_path / f"file-{number}"
        path.write_bytes(bytes([number]) * 100_000)
        streams[f"logs/{number}"] = Stream(path=str(path), length=100_000)
    reader.spool.finish("a", streams)
    total = 0
    while not reader.delivered:
        before = len(reader.drain())
        assert 0 < before <= UNACKNOWLEDGED_LIMIT
        total += before
        reader.acknowledge_all()
    assert total == 4_000_000


def test_a_file_that_shrank_is_given_up_and_does_not_hold_the_others(reader: Reader, tmp_path: Path) -> None:
    short, whole = tmp_path / "short", tmp_path / "whole"
    short.write_bytes(b"12")
    whole.write_bytes(b"345")
    reader.spool.finish("a", {"short": Stream(path=str(short), length=9), "whole": Stream(path=str(whole), length=3)})
    assert reader.drain() == b"12345"
    reader.acknowledge_all()
    assert reader.spool.take() is None
    assert reader.delivered == ["a"]


def test_a_file_that_became_a_link_is_not_read(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    reader.spool.finish("a", {"link": Stream(path=str(tmp_path / "link"), length=4)})
    assert reader.drain() == b""
    assert reader.delivered == ["a"]


def test_times_go_with_the_bytes_they_speak_of(reader: Reader, tmp_path: Path) -> None:
    path = output(tmp_path / "a", b"abcdefgh")
    (tmp_path / "a" / "output.times").write_text("0 2026-01-01T00:00:01.000Z\n4 2026-01-01T00:00:02.000Z\n")
    reader.spool.grow("a", "out", path)
    reader.drain()
    one, two = (datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in (1, 2))
    assert reader.taken[0].times == ((0, one), (4, two))
    reader.spool.rewind([Deliver(task_id="a", stream="out", offset=6)])
    reader.taken.clear()
    reader.drain()
    assert reader.taken[0].times == ((6, two),)


@pytest.mark.parametrize(
    "torn",
    [
        b"4 2026",  # ran into the next line, whose offset it swallowed
        b"1161 21656 2026-01-01T00:00:01.000Z\n",
        b"4\n",
        b"\n \n",
        b"4 2026-01-01T00:00:61.000Z\n",
        b"-4 2026-01-01T00:00:01.000Z\n",
        b"\xff\xfe \x00\n",
        b"4 0001-01-01T00:00:00+23:00\n",
        b"9" * 5000 + b" 2026-01-01T00:00:01.000Z\n",
    ],
)
def test_a_line_of_the_index_that_was_torn_costs_its_time_and_no_byte(
    reader: Reader, tmp_path: Path, torn: bytes
) -> None:
    path = output(tmp_path / "a", b"abcdefgh")
    index = b"0 2026-01-01T00:00:01.000Z\n" + torn + b"6 2026-01-01T00:00:03.000Z\n7 2026-01-01T00:00:04.000Z\n"
    (tmp_path / "a" / "output.times").write_bytes(index)
    reader.spool.grow("a", "out", path)
    assert reader.drain() == b"abcdefgh"
    at = [(offset, moment.second) for offset, moment in reader.taken[0].times]
    assert at[0] == (0, 1)
    assert at[-1] == (7, 4)
    assert set(at) <= {(0, 1), (6, 3), (7, 4)}


def test_an_offset_that_two_torn_lines_made_up_gives_way_to_the_true_ones(reader: Reader, tmp_path: Path) -> None:
    path = output(tmp_path / "a", b"abcdefgh")
    lines = "0 2026-01-01T00:00:01.000Z\n34 2026-01-01T00:00:02.000Z\n5 2026-01-01T00:00:03.000Z\n"
    (tmp_path / "a" / "output.times").write_text(lines)
    reader.spool.grow("a", "out", path)
    reader.drain()
    assert [offset for offset, _ in reader.taken[0].times] == [0, 5]


def test_whatever_is_wrong_with_one_stream_ends_that_stream_alone(reader: Reader, tmp_path: Path) -> None:
    bad, good = Path("bad\0name"), output(tmp_path / "good", b"345")  # a path that not even the kernel is asked for
    reader.spool.finish("bad", {"out": Stream(path=str(bad), length=9)})
    reader.spool.finish("good", {"out": Stream(path=str(good), length=3)})
    assert reader.drain() == b"345"
    reader.acknowledge_all()
    assert sorted(reader.delivered) == ["bad", "good"]


def test_a_stream_that_cannot_be_said_is_given_up_and_the_task_is_over(reader: Reader, tmp_path: Path) -> None:
    path = output(tmp_path / "a", b"12")
    reader.spool.finish("a", {"out": Stream(path=str(path), length=2)})
    reader.drain()
    reader.spool.give_up("a", "out", "a name that no message takes")
    assert reader.delivered == ["a"]


def test_a_task_that_prints_byte_by_byte_fits_into_messages(reader: Reader, tmp_path: Path) -> None:
    path = output(tmp_path / "a", b"x" * 5000)
    lines = "".join(f"{offset} 2026-01-01T00:00:01.000Z\n" for offset in range(5000))
    (tmp_path / "a" / "output.times").write_text(lines)
    reader.spool.grow("a", "out", path)
    assert reader.drain() == b"x" * 5000
    assert all(len(piece.times) <= 1000 for piece in reader.taken)
    assert len(reader.taken) == 5


def test_what_was_dropped_is_not_sent(reader: Reader, tmp_path: Path) -> None:
    reader.spool.grow("a", "out", output(tmp_path / "a", b"12"))
    reader.spool.drop("a")
    assert reader.drain() == b""
    assert reader.delivered == []
