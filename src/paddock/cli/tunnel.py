"""`paddock env tunnel`: stdin and stdout joined with a port of a machine by its agent."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from paddock.cli.connection import connects
from paddock.cli.grammar import Noun, verb
from paddock.cli.naming import machine_of
from paddock.cli.root import complain

if TYPE_CHECKING:
    from paddock.client import Client

tunnels = Noun("env")
"""The verbs of this file, which `paddock env` takes up."""
SIGNALLED = 128
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Told(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def hearing() -> Iterator[None]:
    """Within, a signal that ends is raised, so that what is open is closed."""

    def hear(number: int, frame: Any) -> NoReturn:
        raise Told(number)

    before = {number: signal.signal(number, hear) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@verb(
    tunnels,
    "tunnel",
    example="paddock env tunnel k3f9 one 5432\n"
    "ssh -o ProxyCommand='paddock env tunnel k3f9 one %p' root@one\n"
    "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | paddock env tunnel k3f9 one 80",
)
@click.argument("id", metavar="ENV")
@click.argument("machine")
@click.argument("port", type=click.IntRange(1, 65535))
@connects
def tunnel(client: "Client", id: str, machine: str, port: int) -> int:
    """Join stdin and stdout with a TCP port on a machine's own loopback.

    The bytes go by way of its agent: the machine's network may be cut. Ends when the machine's side has ended.
    """
    from paddock.client.tunnel import Tunnel

    _, found = machine_of(client, id, machine)
    carried = Tunnel(client, found.agent, port)
    try:
        with hearing():
            over = carried.carry(0, 1)
    except Told as told:
        carried.cut()
        return SIGNALLED + told.number
    except BaseException:
        carried.cut()
        raise
    if over.state == "failed":
        # OpenSSH leaves as soon as it knows how it ended: what becomes of the connection then concerns nobody.
        if over.code == "cancelled" or ("reset" in over.message and carried.is_read):
            return 1
        complain(f"machine {found.name}: {over.message or over.code}")
        return 1
    return 0
