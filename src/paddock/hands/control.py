"""The keeper's ear: one socket to who asked for the task, one name for who comes later.

Effects: none that need a journal; a socket without a keeper refuses, and is taken away with the next one's directory.
"""

import os
import select
import socket
from contextlib import suppress
from pathlib import Path

CONTROL = "control"
_CONNECTIONS = 16
_LONGEST_LINE = 4096


def address(directory: int) -> str:
    """The socket's name by way of an open directory: a name may have 107 bytes only, a path has more."""
    return f"/proc/self/fd/{directory}/{CONTROL}"


class Control:
    """All connections of one keeper. The maker's is the one that may open the gate."""

    def __init__(self, maker: socket.socket, poll: select.poll) -> None:
        self._maker: int | None = maker.fileno()
        self._poll = poll
        self._connections: dict[int, tuple[socket.socket, bytearray]] = {}
        self._add(maker)

    @property
    def has_maker(self) -> bool:
        return self._maker is not None

    def listen(self, directory: Path) -> None:
        """Make the name; whoever connects waits until `hear` is called."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(address(handle))
        finally:
            os.close(handle)
        self._listener.listen(_CONNECTIONS)
        self._poll.register(self._listener, select.POLLIN)

    def hear(self, handle: int, *, greeting: list[str]) -> list[tuple[list[str], bool]]:
        """What was said on a handle that poll named: words of each line, and whether the maker said it.

        A newcomer is greeted. Somebody else's handle says nothing.
        """
        if handle == self._listener.fileno():
            self._accept(greeting)
        if handle not in self._connections:
            return []
        connection, waiting = self._connections[handle]
        try:
            data = connection.recv(_LONGEST_LINE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        is_maker = handle == self._maker
        waiting += data
        *lines, rest = bytes(waiting).split(b"\n")
        waiting[:] = rest
        if not data or len(rest) > _LONGEST_LINE:
            self._lose(handle)
        return [(line.decode("ascii", "replace").split(), is_maker) for line in lines]

    def tell(self, word: str) -> None:
        """Say it to everyone. Who is so far behind that its buffer is full has an older `more` to read."""
        for connection, _ in self._connections.values():
            with suppress(OSError):
                connection.send(word.encode("ascii") + b"\n")

    def _accept(self, greeting: list[str]) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            if len(self._connections) >= _CONNECTIONS:
                connection.close()
                return
            self._add(connection)
            connection.send("".join(f"{word}\n" for word in greeting).encode("ascii"))

    def _add(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        self._connections[connection.fileno()] = (connection, bytearray())
        self._poll.register(connection, select.POLLIN)

    def _lose(self, handle: int) -> None:
        connection, _ = self._connections.pop(handle)
        self._poll.unregister(handle)
        connection.close()
        if handle == self._maker:
            self._maker = None
