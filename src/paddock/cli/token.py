"""`paddock token`: who may ask for what."""

from typing import TYPE_CHECKING

import click

from paddock.cli.connection import asks, every
from paddock.cli.grammar import Noun, verb
from paddock.cli.spans import TOKEN_TTL

if TYPE_CHECKING:
    from paddock.client import Client

token = Noun("token", help="Tokens: what a person, a lab or an operator shows.", example="paddock token create anna")


@verb(token, "create", example="paddock token create anna\npaddock token create lab-7 --role lab --ttl 90d")
@click.argument("name")
@click.option(
    "--role", type=click.Choice(("person", "lab", "operator")), default="person", show_default=True, help="May do what."
)
@click.option("--ttl", type=TOKEN_TTL, default=None, help="How long it is valid. Default: until it is revoked.")
@asks
def create(client: "Client", name: str, role: str, ttl: float | None, as_json: bool) -> None:
    """Make a token. Its secret is shown this once: with it, PADDOCK_TOKEN or --token-file."""
    import sys

    from paddock.cli import painting
    from paddock.client import calls

    made = client.send(calls.create_token(name, role=role, ttl=ttl))
    if as_json:
        return painting.tell(made)
    painting.print_line(made.secret)
    if sys.stdout.isatty():
        click.echo(f"token {made.name} ({made.role}); it is not shown again", err=True)


@verb(token, "list", example="paddock token list")
@asks
def list_(client: "Client", as_json: bool) -> None:
    """Tokens, without their secrets."""
    from paddock.cli import painting
    from paddock.client import calls

    rows = every(client, lambda below: calls.tokens(below=below))
    if as_json:
        return painting.tell_all(rows)
    painting.table(
        ("name", "role", "created", "ends", "revoked"),
        [
            (row.name, row.role, painting.ago(row.created), painting.left(row.expires), painting.ago(row.revoked))
            for row in rows
        ],
        empty="no tokens; make one: paddock token create NAME",
    )


@verb(token, "revoke", example="paddock token revoke anna")
@click.argument("name")
@asks
def revoke(client: "Client", name: str, as_json: bool) -> None:
    """End a token at once."""
    from paddock.cli import painting
    from paddock.client import calls

    client.send(calls.revoke_token(name))
    if as_json:
        painting.tell({"name": name, "revoked": True})
    else:
        painting.print_line(f"token {name}: revoked")
