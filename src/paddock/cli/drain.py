"""`paddock drain`: start nothing new, and wait for what is under way."""

import time
from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks
from paddock.cli.grammar import Verb
from paddock.cli.spans import SPAN

if TYPE_CHECKING:
    from paddock.client import Client

_LOOK = 2.0


@click.command("drain", cls=Verb, example="paddock drain && systemctl restart paddock")
@click.option("--wait", type=SPAN, default=None, help="Wait at most so long. Default: until nothing runs.")
@click.option("--no-wait", is_flag=True, help="Only begin, and say what is under way.")
@asks
def drain(client: "Client", wait: float | None, no_wait: bool, as_json: bool) -> int:
    """Start no new runs from now on, and wait until those under way have ended. Exit 3: they have not, in time.

    A restart of the server ends draining; runs that wait stay in the queue.
    """
    from paddock.cli import painting
    from paddock.client import calls

    until = None if wait is None else time.monotonic() + wait
    said = -1
    while True:
        told = client.send(calls.drain())
        is_over = not told.running or no_wait or (until is not None and time.monotonic() >= until)
        if is_over or told.running != said:
            said = told.running
            if is_over and as_json:
                painting.tell(told)
            elif not as_json:
                painting.print_line(f"drained: {told.running} running, {told.waiting} waiting in the queue")
        if is_over:
            return 0 if no_wait or not told.running else 3
        time.sleep(_LOOK)
