"""What is said where the server's parts are needed and not installed."""

from collections.abc import Iterator
from contextlib import contextmanager

from paddock.core.errors import Refused

MEND = "pip install 'paddock[server]'"


@contextmanager
def server_parts(what: str) -> Iterator[None]:
    """Import within; Refused, naming the package and what brings it, if one is not installed. `what` needs it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] == "paddock":
            raise
        raise Refused(f"{what}: {exc.name} is not installed", hint=MEND) from exc
