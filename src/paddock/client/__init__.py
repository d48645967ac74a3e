"""The Python client library, sync and async, with leases as context managers.

    with Client.found() as client, client.lease("two-node") as lease:
        print(lease.environment, [machine.address for machine in lease.machines])
        reproduce()
        lease.check()

Everything else is a call that either client sends: `client.send(calls.runs(state="running"))`.
"""

from paddock.client.asynchronous import AsyncClient, AsyncHeld
from paddock.client.errors import LeaseLost, NoEnvironment, NotAllowed, Unreachable
from paddock.client.finding import Place, find
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
