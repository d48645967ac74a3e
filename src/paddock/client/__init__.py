"""The Python client library, sync and async, with leases as context managers.

    with Client.found() as client, client.lease("two-node") as lease:
        print(lease.environment, [machine.address for machine in lease.machines])
        reproduce()
        lease.check()

Everything else is a call that either client sends: `client.send(calls.runs(state="running"))`.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from paddock.client.errors import LeaseLost, NoEnvironment, NotAllowed, Unreachable
from paddock.client.finding import Place, find

if TYPE_CHECKING:
    from paddock.client.asynchronous import AsyncClient, AsyncHeld
    from paddock.client.sync import Client, Held

__all__ = [
    "AsyncClient",
    "AsyncHeld",
    "Client",
    "Held",
    "LeaseLost",
    "NoEnvironment",
    "NotAllowed",
    "Place",
    "Unreachable",
    "find",
]


def __getattr__(name: str) -> object:
    """Loaded when it is named: the server, which only records its address here, carries no HTTP client for it."""
    home: ModuleType
    if name in ("Client", "Held"):
        from paddock.client import sync as home
    elif name in ("AsyncClient", "AsyncHeld"):
        from paddock.client import asynchronous as home
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(home, name)
    globals()[name] = found
    return found
