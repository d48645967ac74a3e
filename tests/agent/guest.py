"""A guest that is a directory and a port: what is on it, and its hypervisor's end of the serial line.

Loads little: whole machines of paper are processes that begin with this.
"""

import asyncio
import contextlib
import os
import pty
import tty
from collections.abc import AsyncIterator
from pathlib import Path

MACHINE = {
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/hostname": "localhost\n",
    "etc/machine-id": "",
    "etc/environment": "LANG=C.UTF-8\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "root/.ssh/authorized_keys": "ssh-ed25519 BBBB the operator\n",
    "usr/lib/systemd/systemd-networkd": "",
}
"""What is on every machine of the image."""


class Hypervisor:
    """The guest has a device, the host a socket; while no host is connected, what the guest says waits in the port.

    As with QEMU, the guest does not see the host go and come again.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._master, guest = pty.openpty()
        tty.setraw(self._master)
        self.device = Path(os.ttyname(guest))
        self._guest = guest
        os.set_blocking(self._master, False)
        self.hosts = 0
        """How often somebody connected."""
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def guest_end(self) -> int:
        """A descriptor on which the guest hears and says what it does, while nobody else serves it."""
        return self._master

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Hypervisor"]:
        server = await asyncio.start_unix_server(self._serve, self.socket)
        try:
            yield self
        finally:
            server.close()
            self.drop()
            await asyncio.sleep(0)
            os.close(self._master)
            os.close(self._guest)

    def drop(self) -> None:
        """Cut the host off, wherever it is in a message."""
        for writer in self._writers:
            writer.transport.abort()

    def inject(self, data: bytes) -> None:
        """Bytes to the guest, of nobody in particular."""
        os.write(self._master, data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hosts += 1
        self._writers.append(writer)
        loop = asyncio.get_running_loop()

        def up() -> None:
            with contextlib.suppress(OSError):
                writer.write(os.read(self._master, 65536))

        loop.add_reader(self._master, up)
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await self._down(data)
        finally:
            self._writers.remove(writer)
            if not self._writers:
                loop.remove_reader(self._master)
            writer.close()

    async def _down(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await asyncio.sleep(0.001)
