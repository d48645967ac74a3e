"""What a private network without root carries: frames through a switch of ours, and the same bytes without one."""

import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.aims import SWITCH_DELAY, SWITCH_RATE, SWITCH_RSS
from bench.figure import Measured, quantile
from bench.pace import Pace
from bench.place import resident
from tests.agent.cables.plugs import Plug, Switch, frame, joined

A, B = "52:54:00:00:00:01", "52:54:00:00:00:02"
_SIZE = 1500
_BYTES = 256 << 20
_PIECE = 40  # frames that a card sends at once
_ASKED = 2000


def switched(pace: Pace) -> Mapping[str, Measured]:
    """Through a switch between two cards, beside the same cards' sockets tied together."""
    rates, directs, delays, sizes = [], [], [], []
    for _ in range(pace.runs):
        with _joined() as (switch, a, b):
            rates.append(_rate(a.line, b.line))
            delays.append(_delay(a, b))
            assert switch.identity is not None
            sizes.append(resident(switch.identity.pid))
        ours, theirs = socket.socketpair()
        with ours, theirs:
            directs.append(_rate(ours, theirs))
    return {
        SWITCH_RATE: Measured(values=tuple(rates), peer="one socket, no switch", peer_values=tuple(directs)),
        SWITCH_DELAY: Measured(values=tuple(delays)),
        SWITCH_RSS: Measured(values=tuple(sizes)),
    }


@contextmanager
def _joined() -> Iterator[tuple[Switch, Plug, Plug]]:
    with tempfile.TemporaryDirectory() as scratch, joined(Path(scratch), A, B) as (switch, (a, b)):
        yield switch, a, b


def _rate(sender: socket.socket, receiver: socket.socket) -> float:
    """Megabytes of frames a second."""
    said = frame(A, B, bytes(_SIZE - 14))
    piece = (len(said).to_bytes(4, "big") + said) * _PIECE
    times = _BYTES // len(piece)
    sender.settimeout(60)
    receiver.settimeout(60)

    def send() -> None:
        for _ in range(times):
            sender.sendall(piece)

    thread = threading.Thread(target=send)
    began = time.perf_counter()
    thread.start()
    got, buffer, last = 0, bytearray(1 << 18), began
    while got < times * len(piece):
        try:
            got += receiver.recv_into(buffer)
            last = time.perf_counter()
        except TimeoutError:
            break
        if not thread.is_alive() and got < times * len(piece):
            receiver.settimeout(0.5)  # what a reader was too slow for is dropped, and does not come
    thread.join()
    return got / (last - began) / 1e6


def _delay(a: Plug, b: Plug) -> float:
    """Microseconds from one card to the other and back, p50."""
    took = []
    for number in range(_ASKED):
        began = time.perf_counter()
        a.send(B, number.to_bytes(4, "big"))
        b.hear()
        b.send(A, b"back")
        a.hear()
        took.append(1e6 * (time.perf_counter() - began))
    return quantile(took, 0.5)
