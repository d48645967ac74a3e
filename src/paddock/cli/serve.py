"""`paddock serve`: the server in this process, until it is told to stop."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from paddock.cli.connection import json_option
from paddock.cli.grammar import Verb

if TYPE_CHECKING:
    from paddock.server import Ready


@click.command("serve", cls=Verb, example="paddock serve paddock.yaml\npaddock serve paddock.yaml --listen 127.0.0.1:0")
@click.argument("config", type=click.Path(path_type=Path))
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

    try:
        from paddock import journal, server
    except ModuleNotFoundError as exc:
        raise Broken(f"server: {exc.name} is not installed", hint="pip install 'paddock[server]'") from exc

    def ready(told: "Ready") -> None:
        if as_json:
            painting.tell({"url": told.url, "state": str(told.state), "token_file": str(told.token_file)})
        else:
            painting.print_line(f"paddock serves {told.url}   pages and API, agents at /agent")
            painting.print_line(f"  state   {told.state}")
            painting.print_line(f"  token   {told.token_file} (the commands of this machine find it)")
        sys.stdout.flush()

    journal.begin(level=log_level.upper(), as_json=as_json)
    asyncio.run(server.serve(config, listen=listen, ready=ready))
    return 0
