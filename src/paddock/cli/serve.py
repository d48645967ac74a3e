"""`paddock serve`: the server in this process, until it is told to stop."""

import asyncio
import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paddock.cli.connection import json_option
from paddock.cli.extras import server_parts
from paddock.cli.grammar import Verb

if TYPE_CHECKING:
    from paddock.core.errors import Broken, PaddockError
    from paddock.server import Ready


@click.command("serve", cls=Verb, example="paddock serve paddock.yaml\npaddock serve paddock.yaml --listen 127.0.0.1:0")
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--listen", default="", metavar="HOST:PORT", help="Where to listen, whatever the configuration says.")
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="How much it says on stderr.",
)
@json_option
def serve(config: Path, listen: str, log_level: str, as_json: bool) -> int:
    """Run the server; with --json, its log is JSON too.

    SIGTERM and Ctrl-C stop it within 5 s and leave runs going; SIGHUP reads CONFIG again.
    """
    from paddock.cli import painting
    from paddock.core.errors import Broken

    with server_parts("server"):
        from paddock import journal, server

    def ready(told: "Ready") -> None:
        if as_json:
            painting.tell({"url": told.url, "state": str(told.state), "token_file": str(told.token_file)})
        else:
            painting.print_line(f"paddock serves {told.url}   pages and API, agents at /agent")
            painting.print_line(f"  state   {told.state}")
            painting.print_line(f"  token   {told.token_file} (the commands of this machine find it)")
        sys.stdout.flush()

    journal.begin(level=log_level.upper(), as_json=as_json)
    try:
        asyncio.run(server.serve(config, listen=listen, ready=ready))
    except Broken as exc:
        raise _sorted(exc) from exc
    return 0


def _sorted(exc: "Broken") -> "PaddockError":
    """What did not work at the start, as the class of error that its exit code stands for."""
    from paddock.client.errors import Unreachable
    from paddock.core.errors import Refused

    cause, psycopg = exc.__cause__, sys.modules.get("psycopg")
    if psycopg is not None and isinstance(cause, psycopg.OperationalError):
        # The driver spreads its words over lines and tabs.
        return Unreachable(" ".join(exc.message.split()), hint="is PostgreSQL running? server.store says where it is")
    if isinstance(cause, OSError) and cause.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
        return Refused(exc.message, hint=exc.hint)
    return exc
