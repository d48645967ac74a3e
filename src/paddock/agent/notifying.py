"""Tells systemd how the service is: that it began, lives, leaves, and what it does.

Effects: none; without a NOTIFY_SOCKET nothing is said.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import timedelta


class Notifier:
    """One service's ear at systemd. The variables are taken out of the environment: they are not for tasks."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        # In the abstract name space the first byte is nought.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every = _watchdog(environment)
        self._socket: socket.socket | None = None

    @property
    def every(self) -> timedelta | None:
        """How often it has to be said that the service lives: twice in the time that systemd gives. None: never."""
        return self._every

    def ready(self) -> None:
        """The service began."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The service leaves."""
        self._say("STOPPING=1", "STATUS=leaves")

    def tell(self, status: str) -> None:
        """What it does, for `systemctl status`."""
        line = "".join(letter if letter.isprintable() else " " for letter in status)
        self._say(f"STATUS={line[:500]}")

    async def keep(self, is_alive: Callable[[], Awaitable[None]]) -> None:
        """Say for ever that the service lives, each time after `is_alive` returned in time; else systemd ends it."""
        if self._every is None:
            return
        every = self._every.total_seconds()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await is_alive()
                self._say("WATCHDOG=1")
            await asyncio.sleep(every)

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        # Systemd may be busy or starting anew: what it does not take now is no reason to wait or to end.
        with suppress(OSError):
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)  # noqa: FBT003 - the standard library's signature
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _watchdog(environment: MutableMapping[str, str]) -> timedelta | None:
    given, whose = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not given.isdecimal() or int(given) == 0 or whose not in ("", str(os.getpid())):
        return None
    return timedelta(microseconds=int(given) / 2)
