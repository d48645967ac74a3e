"""How a command finds its server: the options that all share, and the client they make."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from paddock.client import Client

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object, or one a line.")


def asks(function: F) -> F:
    """The command speaks to a server: `client` comes first, `as_json` says how to answer."""
    decorated: F = json_option(connects(function))
    return decorated


def connects(function: F) -> F:
    """The command speaks to a server, and what it prints is not its own: `client` comes first."""

    @wraps(function)
    def connected(*args: Any, server: str, token_file: str, state: str, **rest: Any) -> Any:
        # Here, because it loads httpx, which the help of a command does not need.
        from paddock.client import Client

        with Client.found(server=server, token_file=token_file, state=state) as client:
            return function(client, *args, **rest)

    options = (
        click.option("--server", default="", metavar="URL", help="The server. Default: PADDOCK_SERVER, or yours here."),
        click.option("--token-file", default="", metavar="FILE", help="File with your token. Or set PADDOCK_TOKEN."),
        click.option("--state", default="", metavar="DIR", help="State directory of a server of this machine."),
    )
    decorated: Any = connected
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def every(client: "Client", ask: Callable[[str | None], Any], limit: int | None = None) -> list[Any]:
    """The items of a list, as many as wanted (None: all), page by page."""
    found: list[Any] = []
    for page in client.every(ask):
        found += page.items
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found
