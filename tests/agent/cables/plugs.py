"""The machines' side of a switch: a socket that listens where a card would, and speaks frames."""

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paddock.agent.cables.signing import signed_in
from paddock.agent.skills.hypervisor.networks.programs import ours
from paddock.hands import trees

EVERYBODY = "ff:ff:ff:ff:ff:ff"
LIMIT = 20.0


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frame(source: str, target: str, content: bytes) -> bytes:
    """An Ethernet frame of a type that nobody has."""
    return octets(target) + octets(source) + b"\x88\xb5" + content


class Plug:
    """One card. Like QEMU's, it listens, and listens again when the line was lost."""

    def __init__(self, directory: Path, mac: str, *, name: str = "net0") -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.mac = mac
        self.directory, self.name = directory, name
        self._listener = socket.socket(socket.AF_UNIX)
        place = Path(os.path.relpath(directory / name))
        place.unlink(missing_ok=True)
        # Paths of sockets are short; those of tests are not.
        handle = os.open(directory, os.O_PATH)
        self._listener.bind(f"/proc/self/fd/{handle}/{name}")
        os.close(handle)
        self._listener.listen(1)
        self._line: socket.socket | None = None
        self._heard = b""

    @property
    def line(self) -> socket.socket:
        """What it is joined by."""
        assert self._line is not None
        return self._line

    def close(self) -> None:
        self.lose()
        self._listener.close()

    def lose(self) -> None:
        """Hang up; whoever dials again is heard again."""
        if self._line is not None:
            self._line.close()
        self._line, self._heard = None, b""

    def accept(self) -> None:
        """Wait for the switch."""
        self._listener.settimeout(LIMIT)
        self._line, _ = self._listener.accept()
        self._heard = b""

    def send(self, target: str, content: bytes, *, source: str = "") -> None:
        """Raises ConnectionError where the switch is gone."""
        said = frame(source or self.mac, target, content)
        self.write(len(said).to_bytes(4, "big") + said)

    def write(self, data: bytes) -> None:
        if self._line is None:
            self.accept()
        assert self._line is not None
        self._line.settimeout(LIMIT)
        self._line.sendall(data)

    def hear(self, limit: float = LIMIT) -> bytes:
        """The content of the next frame. TimeoutError if none comes, ConnectionError if the line is lost."""
        return self.frame(limit)[14:]

    def frame(self, limit: float = LIMIT) -> bytes:
        """The next frame."""
        if self._line is None:
            self.accept()
        assert self._line is not None
        end = time.monotonic() + limit
        while len(self._heard) < 4 or len(self._heard) < 4 + int.from_bytes(self._heard[:4], "big"):
            if not select.select([self._line], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError
            got = self._line.recv(1 << 18)
            if not got:
                self.lose()
                raise ConnectionResetError
            self._heard += got
        size = int.from_bytes(self._heard[:4], "big")
        found, self._heard = self._heard[4 : 4 + size], self._heard[4 + size :]
        return found

    def port(self, **other: Any) -> dict[str, Any]:
        """What a switch is told of it."""
        told = {"name": self.mac, "directory": str(self.directory), "socket": self.name, "macs": [self.mac]}
        return told | other


class Switch:
    """A switch as a process, in a directory of its own."""

    def __init__(self, directory: Path, **shape: Any) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.shape = shape
        self._processes: list[subprocess.Popen[bytes]] = []

    def tell(self, ports: Sequence[Mapping[str, Any]]) -> None:
        draft = self.directory / "wire.draft"
        draft.write_text(json.dumps({"shape": self.shape, "ports": list(ports)}))
        draft.rename(self.directory / "wire.orders")

    def start(self, **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(ours("switch", "x", self.directory, "wire"), env={**os.environ, **env})
        self._processes.append(process)
        return process

    @property
    def identity(self) -> trees.Identity | None:
        return signed_in(self.directory, "wire")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def joined(directory: Path, *macs: str, **shape: Any) -> Iterator[tuple[Switch, list[Plug]]]:
    """A switch with these cards, all of them joined."""
    switch = Switch(directory / "switch", **shape)
    plugs = [Plug(directory / f"m{number}", mac) for number, mac in enumerate(macs)]
    try:
        switch.tell([plug.port() for plug in plugs])
        switch.start()
        for plug in plugs:
            plug.accept()
        yield switch, plugs
    finally:
        switch.close()
        for plug in plugs:
            plug.close()
