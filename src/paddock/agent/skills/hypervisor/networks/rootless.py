"""Networks without root: a small switch for each, and a gate for what leads outside.

Effects: idempotent. Everything follows from an environment's record, which is durable before anything else is there.
"""

import logging
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks import record as records
from paddock.agent.skills.hypervisor.networks import uplink
from paddock.agent.skills.hypervisor.networks.homes import Homes, write_orders
from paddock.agent.skills.hypervisor.networks.programs import Programs, ours
from paddock.agent.skills.hypervisor.networks.record import Record, Wired
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.errors import PaddockError, Refused
from paddock.core.machine import Nic
from paddock.wire import fields
from paddock.wire.framing import JSON
from paddock.wire.specs import NetworkSpec

_log = logging.getLogger(__name__)

_SWITCH = "net-"  # before a network's name, which is then no name of another file here


class Rootless:
    """A context: while it is open, the programs of every environment that has a record are kept running."""

    name = "rootless"

    def __init__(self, root: Path, instance: str, *, metadata: Metadata | None = None) -> None:
        """`root` is a directory of its own on this host; `instance` tells the hosts of one computer apart."""
        self._programs = Programs()
        self._homes = Homes(root, instance, self._programs, metadata)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._homes.prepare()
        await self._stack.enter_async_context(self._programs)
        found, unowned = self._homes.recorded()
        for directory in unowned:
            await self._homes.close(directory)
        for directory, known in found.items():
            try:
                await self._serve(directory, known)
            except (PaddockError, OSError) as exc:
                # One environment's trouble is not the host's: whoever owns it opens it again, and hears why.
                _log.error("networks do not come back", extra={"environment": known.environment, "why": str(exc)})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, exc, trace)

    async def check(self) -> None:
        """It needs nothing but QEMU."""

    async def open(self, environment: str, networks: Sequence[NetworkSpec], egress: Sequence[str]) -> None:
        """Idempotent; what is told otherwise than before changes while it runs."""
        check(environment, networks)
        for network in networks:
            if network.bridge:
                raise Refused(
                    f"{environment}: network {network.name} is the bridge {network.bridge}, which takes root",
                    hint="run the host's agent as root with networks: rooted",
                )
        async with self._homes.turn(environment) as directory:
            await self._serve(directory, self._homes.described(directory, environment, networks, egress))

    async def wire(self, environment: str, machine: str, directory: Path, nics: Sequence[Nic]) -> Sequence[Card]:
        """Sockets of the machine's cards lie in its directory, where QEMU listens."""
        async with self._homes.turn(environment) as home:
            known = self._homes.known(home, environment)
            known = self._homes.wired(home, known, machine, directory, nics)
            await self._serve(home, known)
            cards = [
                Card(mac=nic.mac, netdev=_netdev(index) if nic.network else "", address=nic.address)
                for index, nic in enumerate(nics)
            ]
            return [*cards, *self._homes.outward(home, known, machine)]

    async def tell(self, environment: str, machine: str, keys: Sequence[str]) -> None:
        """The public keys of its lease, for who asks over HTTP; those of a former one are forgotten."""
        async with self._homes.turn(environment) as home:
            known = self._homes.known(home, environment)
            wired = known.machine(machine)
            known = known.having(machine, Wired(directory=wired.directory, nics=wired.nics, keys=tuple(keys)))
            records.save(home, known)
            await self._serve(home, known)

    async def unwire(self, environment: str, machine: str) -> None:
        """Its switches and its gate forget it."""
        async with self._homes.turn(environment) as home:
            known = records.load(home)
            if known is not None and machine in known.machines:
                known = known.without(machine)
                records.save(home, known)
                await self._serve(home, known)

    async def close(self, environment: str) -> None:
        """Its programs end, and its directory goes."""
        async with self._homes.turn(environment) as home:
            await self._homes.close(home)

    async def found(self, instance: str) -> Sequence[str]:
        """Environments with a record; what had none was swept when this was opened."""
        if instance != self._homes.instance:
            return []
        return [known.environment for known in self._homes.recorded()[0].values()]

    def variables(self, environment: str, peers: Sequence[str] = ()) -> Mapping[str, str]:
        """What leads its guests' programs to its proxy, and past it to their peers; nothing where it has no egress."""
        known = records.load(self._homes.home(environment))
        return uplink.of(known, peers) if known is not None else {}

    def home(self, environment: str) -> Path:
        """Where its programs run, and say who they are."""
        return self._homes.home(environment)

    def access_log(self, environment: str) -> Path:
        """What its guests asked its gate for."""
        return self._homes.access_log(environment)

    async def _serve(self, directory: Path, known: Record) -> None:
        """Its programs run, and are told what the record says."""
        for network in known.networks:
            name = _SWITCH + network.name
            write_orders(directory, name, switch_orders(known, network))
            title = self._homes.name(known.environment, network.name)
            self._programs.keep(directory, name, ours("switch", title, directory, name))
        wanted = {_SWITCH + network.name for network in known.networks}
        for name in list(self._programs.kept(directory)):
            if name.startswith(_SWITCH) and name not in wanted:
                await self._programs.drop(directory, name)
                (directory / f"{name}.orders").unlink(missing_ok=True)
        await self._homes.keep_gate(directory, known)


def check(environment: str, networks: Sequence[NetworkSpec]) -> None:
    """Refused, saying which and why, if a network cannot be made."""
    names = [network.name for network in networks]
    for network in networks:
        if names.count(network.name) > 1:
            raise Refused(f"{environment}: two networks are called {network.name}")
        if not 0 <= network.loss <= 1 or network.rate < 0 or network.latency.total_seconds() < 0:
            raise Refused(
                f"{environment}: network {network.name} has a latency, loss or rate that cannot be",
                hint="loss is a share from 0 to 1, rate is in bytes a second, latency is a time",
            )


def switch_orders(known: Record, network: NetworkSpec) -> dict[str, JSON]:
    """What the switch of a network is told: how it is, and where the machines' cards listen."""
    ports: list[JSON] = [
        {"name": f"{machine}/{index}", "directory": wired.directory, "socket": _socket(index), "macs": [nic.mac]}
        for machine, wired in known.machines.items()
        for index, nic in enumerate(wired.nics)
        if nic.network == network.name
    ]
    shape: dict[str, JSON] = {
        "latency": fields.seconds(network.latency),
        "loss": network.loss,
        "rate": network.rate,
        "seed": zlib.crc32(f"{known.environment} {network.name}".encode()),
    }
    return {"shape": shape, "ports": ports}


def _netdev(index: int) -> str:
    return f"stream,server=on,addr.type=unix,addr.path={_socket(index)}"


def _socket(index: int) -> str:
    return f"net{index}"
