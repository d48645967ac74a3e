"""A switch as a process: frames, lost lines, kills, changes while it runs."""

import os
import signal
import time
from pathlib import Path

import pytest

from paddock.hands import trees
from tests.agent.cables.plugs import EVERYBODY, LIMIT, Plug, joined

A, B, C = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
pytestmark = pytest.mark.slow


def test_frames_go_to_whom_they_name_and_broadcasts_to_all(tmp_path: Path) -> None:
    with joined(tmp_path, A, B, C) as (_, (a, b, c)):
        a.send(B, b"for b")
        a.send(EVERYBODY, b"for all")

        assert [b.hear(), b.hear()] == [b"for b", b"for all"]
        assert c.hear() == b"for all"


def test_many_frames_of_all_sizes_arrive_whole_and_in_order(tmp_path: Path) -> None:
    sent = [number.to_bytes(4, "big") + os.urandom(number * 37 % 60_000) for number in range(300)]
    with joined(tmp_path, A, B) as (_, (a, b)):
        for content in sent:
            a.send(B, content)
            assert b.hear() == content


def test_a_frame_that_comes_in_pieces_is_one_frame(tmp_path: Path) -> None:
    with joined(tmp_path, A, B) as (_, (a, b)):
        said = bytes.fromhex("525400000002" + "525400000001" + "88b5") + b"whole"
        for byte in len(said).to_bytes(4, "big") + said:
            a.write(bytes([byte]))

        assert b.hear() == b"whole"


def test_a_guest_that_takes_anothers_name_is_not_heard(tmp_path: Path) -> None:
    with joined(tmp_path, A, B, C) as (_, (a, b, c)):
        a.send(C, b"I am b", source=B)
        a.send(EVERYBODY, b"I am b", source=B)

        # Frames between two ports keep their order: what comes next is all that came.
        a.send(EVERYBODY, b"I am a")

        assert [b.hear(), c.hear()] == [b"I am a"] * 2


def test_who_does_not_speak_frames_is_cut_off_alone(tmp_path: Path) -> None:
    with joined(tmp_path, A, B, C) as (_, (a, b, c)):
        a.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionError):
            a.hear()
        b.send(C, b"goes on")

        assert c.hear() == b"goes on"
        a.send(C, b"better now")
        assert c.hear() == b"better now"


def test_a_line_that_was_lost_is_dialled_again(tmp_path: Path) -> None:
    with joined(tmp_path, A, B) as (_, (a, b)):
        b.write((1000).to_bytes(4, "big") + b"half a frame")
        b.lose()
        b.accept()
        a.send(B, b"again")
        b.send(A, b"whole again")

        assert b.hear() == b"again"
        assert a.hear() == b"whole again"


def test_machines_come_and_go_while_the_others_speak(tmp_path: Path) -> None:
    with joined(tmp_path, A, B) as (switch, (a, b)):
        late = Plug(tmp_path / "late", C)
        switch.tell([plug.port() for plug in (a, b, late)])
        late.accept()
        a.send(C, b"welcome")
        assert late.hear() == b"welcome"

        switch.tell([plug.port() for plug in (a, late)])
        with pytest.raises(ConnectionError):
            b.hear()
        late.send(A, b"still here")
        assert a.hear() == b"still here"
        late.close()


def test_a_machine_that_does_not_read_delays_nobody_and_fills_no_memory(tmp_path: Path) -> None:
    with joined(tmp_path, A, B, C) as (switch, (a, b, c)):
        for number in range(400):
            a.send(B, bytes(60_000))  # 24 MB, and b reads nothing
            a.send(C, number.to_bytes(4, "big"))
            assert c.hear() == number.to_bytes(4, "big")
        assert switch.identity is not None
        resident = int(Path(f"/proc/{switch.identity.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

        assert resident < 40 << 20
        assert len(b.hear()) == 60_000


def test_a_killed_switch_that_is_started_again_goes_on(tmp_path: Path) -> None:
    with joined(tmp_path, A, B) as (switch, (a, b)):
        assert switch.identity is not None
        trees.send(switch.identity, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            b.hear()
        switch.start()
        a.lose()
        a.send(B, b"after")

        assert b.hear() == b"after"


def test_a_second_switch_of_a_network_leaves_it_to_the_first(tmp_path: Path) -> None:
    with joined(tmp_path, A, B) as (switch, (a, b)):
        first = switch.identity
        assert switch.start().wait(LIMIT) == 0

        assert switch.identity == first
        a.send(B, b"one")
        assert b.hear() == b"one"


@pytest.mark.parametrize("point", ["cable.signing", "cable.signed"])
def test_a_kill_while_it_signs_leaves_the_network_to_the_next_one(point: str, tmp_path: Path) -> None:
    with joined(tmp_path, A, B) as (switch, (a, b)):
        assert switch.identity is not None
        trees.send(switch.identity, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            a.hear()
        with pytest.raises(ConnectionError):
            b.hear()
        assert switch.start(PADDOCK_FAULT=point).wait(LIMIT) == -signal.SIGKILL
        assert switch.identity is None

        switch.start()
        a.send(B, b"after")

        assert b.hear() == b"after"


def test_a_switch_whose_orders_are_gone_ends(tmp_path: Path) -> None:
    with joined(tmp_path, A) as (switch, _):
        process = switch._processes[0]
        (switch.directory / "wire.orders").unlink()

        assert process.wait(LIMIT) == 0


def test_latency_is_what_was_asked_for_one_way(tmp_path: Path) -> None:
    with joined(tmp_path, A, B, latency=0.1) as (_, (a, b)):
        began = time.monotonic()
        a.send(B, b"slow")
        b.hear()

        assert 0.1 <= time.monotonic() - began < 1


def test_loss_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    def arrived(directory: Path, seed: int) -> list[bytes]:
        directory.mkdir()
        found = []
        with joined(directory, A, B, loss=0.5, seed=seed) as (_, (a, b)):
            for number in range(60):
                a.send(B, bytes([number]))
            while True:
                try:
                    found.append(b.hear(0.5))
                except TimeoutError:
                    return found

    first = arrived(tmp_path / "1", 5)
    assert 10 < len(first) < 50
    assert arrived(tmp_path / "2", 5) == first
    assert arrived(tmp_path / "3", 6) != first


def test_a_rate_holds_a_sender_back(tmp_path: Path) -> None:
    with joined(tmp_path, A, B, rate=200_000) as (_, (a, b)):
        began = time.monotonic()
        for _ in range(60):
            a.send(B, bytes(1000))
        for _ in range(60):
            b.hear()

        assert 0.25 <= time.monotonic() - began < 2
