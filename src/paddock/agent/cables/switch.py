"""A switch: one process for a private network; it dials the cards and carries frames.

Effects: idempotent; it keeps nothing but what it has learned, and begins anew wherever it is started again.

A machine's card listens, and the switch dials: QEMU's end accepts again whenever the line was lost, so that either side
may be started again. Without latency, loss and rate, frames that follow each other to one port are sent in one piece.
"""

import heapq
import os
import selectors
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddock.agent.cables.ends import HEAD, End, Gone
from paddock.agent.cables.orders import EVERY, Orders
from paddock.agent.cables.shaping import Shape, Shaper
from paddock.agent.cables.signing import sign_in
from paddock.agent.cables.switching import Table
from paddock.core.errors import Refused
from paddock.hands import trees

DELAYED = 64 << 20
"""Bytes that are on their way at most, where frames take time."""
_FIRST, _LAST = 0.02, 0.25  # seconds from one dialling to the next, of a port that is not joined
_PATIENT = 50  # diallings after which there is no hurry


class Port(End):
    """A machine's card, and when to dial it again."""

    def __init__(self, directory: Path, name: str, shaper: Shaper | None) -> None:
        super().__init__(directory, name)
        self.shaper = shaper
        self.tries = 0
        self.next_try = 0.0


class Switch:
    """Carries frames. One thread, one loop."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._ports: dict[str, Port] = {}
        self._told: dict[str, Any] = {}
        self._table = Table({})
        self._selector = selectors.DefaultSelector()
        self._delayed: list[tuple[float, int, tuple[str, ...], memoryview]] = []
        self._counter = self._delayed_size = 0
        self._next_look = 0.0

    def serve(self) -> None:
        """For ever."""
        self._orders.watch()
        woken, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self._selector.register(woken, selectors.EVENT_READ)
        while True:
            self._look()
            # Waits for: frames, room for frames, a change of the orders, the next dialling, the next arrival.
            for key, events in self._selector.select(self._pause()):
                if isinstance(key.data, str):
                    self._serve(key.data, events)
                else:
                    self._next_look = 0.0
                    with suppress(BlockingIOError):
                        os.read(woken, 4096)
            if self._delayed:
                self._deliver(time.monotonic())

    # What it is told

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + EVERY
            news = self._orders.news()
            if news is not None:
                self._change(news)
        for name, port in self._ports.items():
            if port.socket is None and now >= port.next_try:
                self._join(name, port, now)

    def _change(self, news: dict[str, Any]) -> None:
        shape = Shape(**news["shape"])
        wanted: dict[str, dict[str, Any]] = {told["name"]: told for told in news["ports"]}
        is_reshaped = self._told.get("shape") != news["shape"]
        former = {told["name"]: told for told in self._told.get("ports", [])}
        for name in list(self._ports):
            if wanted.get(name) != former[name]:
                self._part(name)
                del self._ports[name]
        for name, told in wanted.items():
            if name not in self._ports:
                self._ports[name] = Port(Path(told["directory"]), told["socket"], None)
                is_new = True
            else:
                is_new = False
            if is_new or is_reshaped:
                self._ports[name].shaper = None if shape.is_plain else Shaper(shape, name)
        table = Table({name: frozenset(map(_octets, told["macs"])) for name, told in wanted.items()})
        table.keep(self._table)
        self._table, self._told = table, news

    def _join(self, name: str, port: Port, now: float) -> None:
        port.tries += 1
        port.next_try = now + (_FIRST if port.tries < _PATIENT else _LAST)
        if port.dial() and port.socket is not None:
            port.tries = 0
            self._selector.register(port.socket, selectors.EVENT_READ, name)

    def _part(self, name: str) -> None:
        port = self._ports[name]
        if port.socket is not None:
            self._selector.unregister(port.socket)
        port.close()

    # What it carries

    def _serve(self, name: str, events: int) -> None:
        port = self._ports.get(name)
        if port is None or port.socket is None:
            return
        if events & selectors.EVENT_WRITE:
            port.flush()
            self._expect(name, port)
        if events & selectors.EVENT_READ:
            try:
                port.receive(lambda frames, places: self._carry(name, port, frames, places))
            except Gone:
                self._part(name)

    def _carry(self, name: str, port: Port, frames: memoryview, places: list[int]) -> None:
        shaper, targets = port.shaper, self._table.targets
        begin, going = 0, None
        for number, place in enumerate(places[:-1]):
            found = targets(name, frames[place + HEAD : place + HEAD + 12].tobytes())
            if shaper is not None:
                self._delay(shaper, found, frames[place : places[number + 1]])
            elif found is not going:
                self._emit(going, frames[begin:place])
                begin, going = place, found
        if shaper is None:
            self._emit(going, frames[begin:])

    def _emit(self, targets: tuple[str, ...] | None, frames: memoryview) -> None:
        for target in targets or ():
            port = self._ports[target]
            was_full = port.is_full
            port.send(frames)
            if port.is_full and not was_full:
                self._expect(target, port)

    def _expect(self, name: str, port: Port) -> None:
        if port.socket is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.is_full else 0)
            self._selector.modify(port.socket, events, name)

    # What takes time

    def _delay(self, shaper: Shaper, targets: tuple[str, ...], frame: memoryview) -> None:
        if not targets:
            return
        arrival = shaper.arrival(len(frame) - HEAD, time.monotonic())
        if arrival is not None and self._delayed_size + len(frame) <= DELAYED:
            self._counter += 1
            self._delayed_size += len(frame)
            heapq.heappush(self._delayed, (arrival, self._counter, targets, memoryview(frame.tobytes())))

    def _deliver(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, _, targets, frame = heapq.heappop(self._delayed)
            self._delayed_size -= len(frame)
            self._emit(tuple(target for target in targets if target in self._ports), frame)

    def _pause(self) -> float:
        moments = [self._next_look, *(port.next_try for port in self._ports.values() if port.socket is None)]
        if self._delayed:
            moments.append(self._delayed[0][0])
        return max(0.0, min(moments) - time.monotonic())


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def main() -> None:
    """Serve the network whose directory and name are the last two arguments."""
    directory, network = Path(sys.argv[-2]), sys.argv[-1]
    trees.call_myself("paddock-switch")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    try:
        sign_in(directory, network)
    except Refused:
        return  # the other one serves it
    Switch(Orders(directory / f"{network}.orders")).serve()
