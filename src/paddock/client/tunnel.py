"""Bytes between two file descriptors and a port of a machine, carried by its agent.

Effects: idempotent once it is open: what is put has its offset, and is written there once however often it is asked.
"""

import os
import threading
import time
import uuid
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING

from paddock.client import calls, term, waiting
from paddock.client.errors import Unreachable
from paddock.core.errors import PaddockError

if TYPE_CHECKING:
    from paddock.client.sync import Client
    from paddock.wire.shapes import AgentCommand

PATIENCE = 180
"""Seconds after which the agent ends a tunnel of which it heard nothing."""
_STILL_THERE = 45.0
"""Seconds after which it is told that we are."""
_PIECE = 256 * 1024
_AHEAD = 4 * _PIECE
"""Bytes that are read before those before them were taken."""
_FINAL = frozenset({"refused", "stale", "bad_params", "unknown_method"})


class Tunnel:
    """One tunnel, opened by making it. The machine's end is told in order, by a thread of its own."""

    def __init__(self, client: "Client", agent: str, port: int) -> None:
        self._client = client
        self.command = client.order(agent, "tunnel.open", {"port": port, "patience": PATIENCE})
        self._read = bytearray()
        self._is_read = False
        self._news = threading.Condition()

    def carry(self, source: int, sink: int) -> "AgentCommand":
        """All of `source` in, all that comes back to `sink`; returns how it ended once the machine's side has ended."""
        for act in (lambda: self._take(source), self._put):
            threading.Thread(target=act, daemon=True).start()
        for data in self._client.output(self.command):
            left = memoryview(data)
            while left:
                left = left[os.write(sink, left) :]
        return self._client.finish(self.command)

    @property
    def is_read(self) -> bool:
        """Whether whoever feeds us has sent its last."""
        return self._is_read

    def cut(self) -> None:
        """End it now. What cannot be reached ends it by its patience."""
        with suppress(PaddockError):
            self._client.send(calls.cancel_command(self.command.agent, self.command.id, grace=0), limit=5)

    def _take(self, source: int) -> None:
        while True:
            try:
                data = os.read(source, _PIECE)
            except OSError:
                data = b""
            with self._news:
                self._read += data
                self._is_read = not data
                self._news.notify_all()
                if not data:
                    return
                self._news.wait_for(lambda: len(self._read) < _AHEAD)

    def _put(self) -> None:
        have, is_told = 0, False
        while True:
            data, is_last = self._next(is_told=is_told)
            now = self._put_once(have, data, is_last=is_last)
            if now is None:
                return
            with self._news:
                del self._read[: now - have]
                self._news.notify_all()
            is_told = is_last and now == have + len(data)
            have = now

    def _next(self, *, is_told: bool) -> tuple[bytes, bool]:
        """What is put next, and whether it is the last: nothing, where the machine's side has to hear that we live."""
        with self._news:
            self._news.wait_for(lambda: self._read or (self._is_read and not is_told), _STILL_THERE)
            data = bytes(self._read[:_PIECE])
            return data, self._is_read and len(data) == len(self._read)

    def _put_once(self, offset: int, data: bytes, *, is_last: bool) -> int | None:
        """How much the machine's side has by then; None where it takes no more."""
        params = {"task_id": self.command.id, "offset": offset, "data": b64encode(data).decode("ascii")}
        name, heard = uuid.uuid4().hex, term.now()
        while term.now() - heard < waiting.SILENCE:
            try:
                over = self._client.order(
                    self.command.agent, "tunnel.put", {**params, "last": is_last}, id=name, wait=None
                )
            except Unreachable:
                time.sleep(waiting.PAUSE)
                continue
            except PaddockError:
                return None  # the environment is somebody else's by now; what it was carried for hears of it
            if over.state == "complete":
                have = over.result.get("have")
                return have if isinstance(have, int) else None
            if over.code in _FINAL:
                return None
            name = uuid.uuid4().hex
            time.sleep(waiting.PAUSE)
        return None
