"""What a link is: messages as text, both ways, in order, until it is closed.

Effects: none. A link keeps nothing: what was not acknowledged by a message is sent again on the next link.
"""

import ipaddress
from datetime import timedelta
from typing import Protocol

from paddock.core.errors import Broken

CLOSE_LIMIT = timedelta(seconds=5)
"""How long a close waits for the other side before the connection is cut."""


def is_loopback(host: str) -> bool:
    """Whether what is said to this host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Closed(Broken):
    """The link is over, from this side or the other."""


class Unreachable(Broken):
    """No link came about. `retry_after` is what the server asked for, if it did."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Link(Protocol):
    """Carries messages both ways, in order. One task receives; any number send. In hands: WebSocketLink, LineLink."""

    async def send(self, text: str) -> None:
        """Put one message on the way; waits while the other side does not read. Raises Closed."""

    async def receive(self) -> str:
        """The next message. Raises Closed at the end. Bytes that are no UTF-8 come as surrogates: wire refuses them."""

    async def close(self, reason: str) -> None:
        """End it. Idempotent; waits a few seconds at most; never raises."""
