"""Networks with root: bridges and taps in a namespace, leases by dnsmasq, filters by nft.

Effects: idempotent. Everything follows from an environment's record, which is durable before anything else is there;
names are uniform, so that what nobody owns is found.
"""

import asyncio
import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks import namespace as namespaces
from paddock.agent.skills.hypervisor.networks import record as records
from paddock.agent.skills.hypervisor.networks import rules, uplink
from paddock.agent.skills.hypervisor.networks.homes import Homes, write_orders
from paddock.agent.skills.hypervisor.networks.namespace import Namespace
from paddock.agent.skills.hypervisor.networks.programs import Programs, ours
from paddock.agent.skills.hypervisor.networks.record import Record
from paddock.agent.skills.hypervisor.networks.rootless import check
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.errors import PaddockError
from paddock.core.machine import Nic
from paddock.hands import trees
from paddock.wire.framing import JSON
from paddock.wire.specs import NetworkSpec

_log = logging.getLogger(__name__)

LEASES, META = "leases", "metadata"
_HOST = ".host"
"""A directory for what serves all environments: metadata for guests on bridges of the host."""
_TAP = "tap"
_OPEN_TAP = """\
import ctypes, fcntl, os, struct, sys, _socket as s
place, tap = sys.argv[1:3]
back = next(int(word[5:]) for word in sys.argv if word.startswith("--fd="))
if place != "-" and ctypes.CDLL(None).setns(os.open(place, os.O_RDONLY), 0x40000000):
    sys.exit(place + ": cannot be entered")
handle = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(handle, 0x400454CA, struct.pack("16sH22x", tap.encode(), 0x5002))
rights = [(s.SOL_SOCKET, s.SCM_RIGHTS, struct.pack("i", handle))]
s.socket(fileno=back).sendmsg([b"."], rights)
"""
"""QEMU's helper for a card: it opens a tap where the tap is, hands it over, and is gone. So a machine may be powered
off and on by whoever drives it, and no descriptor is anybody's to keep.
"""


class Rooted:
    """A context: while it is open, the networks of every environment that has a record are kept as it says."""

    name = "rooted"

    def __init__(
        self, root: Path, instance: str, *, bridges: Sequence[str] = (), metadata: Metadata | None = None
    ) -> None:
        """`bridges` are those of the host that a network may be; the others are none of ours."""
        self._programs = Programs()
        self._homes = Homes(root, instance, self._programs, metadata)
        self._bridges = tuple(bridges)
        self._metadata = metadata
        self._stack = AsyncExitStack()
        self._hosting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        namespaces.check()
        self._homes.prepare()
        await self._stack.enter_async_context(self._programs)
        found, unowned = self._homes.recorded()
        await self._sweep(list(found.values()), unowned)
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
        """Refused, saying what is missing."""
        namespaces.check()

    async def open(self, environment: str, networks: Sequence[NetworkSpec], egress: Sequence[str]) -> None:
        """Idempotent; what is told otherwise than before changes while it runs."""
        check(environment, networks)
        for network in networks:
            if network.bridge:
                await asyncio.to_thread(namespaces.check_bridge, network.bridge, self._bridges)
        async with self._homes.turn(environment) as directory:
            await self._serve(directory, self._homes.described(directory, environment, networks, egress))

    async def wire(self, environment: str, machine: str, directory: Path, nics: Sequence[Nic]) -> Sequence[Card]:
        """Taps that a helper of QEMU's opens when the machine is powered on."""
        async with self._homes.turn(environment) as home:
            known = self._homes.known(home, environment)
            known = self._homes.wired(home, known, machine, directory, nics)
            await self._serve(home, known)
            cards = [
                Card(
                    mac=nic.mac,
                    netdev=self._netdev(home, known, machine, index) if nic.network else "",
                    address=nic.address,
                )
                for index, nic in enumerate(nics)
            ]
            return [*cards, *self._homes.outward(home, known, machine, metadata=False)]

    async def tell(self, environment: str, machine: str, keys: Sequence[str]) -> None:
        """The public keys of its lease, for who asks over HTTP; those of a former one are forgotten."""
        async with self._homes.turn(environment) as home:
            known = self._homes.known(home, environment)
            known = known.having(machine, replace(known.machine(machine), keys=tuple(keys)))
            records.save(home, known)
            await self._serve(home, known)

    async def unwire(self, environment: str, machine: str) -> None:
        """Its taps go."""
        async with self._homes.turn(environment) as home:
            known = records.load(home)
            if known is not None and machine in known.machines:
                gone = [tap.name for tap in rules.taps(known, self._homes.instance) if tap.machine == machine]
                known = known.without(machine)
                records.save(home, known)
                await self._serve(home, known)
                await asyncio.to_thread(namespaces.remove_taps, gone)
                if not any(tap.is_of_host for tap in rules.taps(known, self._homes.instance)):
                    await asyncio.to_thread(namespaces.remove_filters, self._tables([environment]))

    async def close(self, environment: str) -> None:
        """Its programs end; its namespace with all in it, its taps and its directory go."""
        async with self._homes.turn(environment) as home:
            known = records.load(home)
            gone = rules.taps(known, self._homes.instance) if known is not None else []
            await self._undo(self._homes.name(environment), home, [tap.name for tap in gone])
            if any(tap.is_of_host for tap in gone):
                await asyncio.to_thread(namespaces.remove_filters, self._tables([environment]))
        await self._serve_bridges()

    async def found(self, instance: str) -> Sequence[str]:
        """Environments with a record or a namespace."""
        if instance != self._homes.instance:
            return []
        recorded = [known.environment for known in self._homes.recorded()[0].values()]
        prefix = f"{self._homes.name('')}-"
        return list(dict.fromkeys([*recorded, *(name.removeprefix(prefix) for name in namespaces.known(prefix))]))

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

    # As the record says

    async def _serve(self, directory: Path, known: Record) -> None:
        namespace = self._namespace(known.environment)
        is_metadata = self._metadata is not None
        await asyncio.to_thread(namespace.make, known, metadata=is_metadata)
        tap = directory / _TAP
        if not tap.exists() or tap.read_text() != _OPEN_TAP:
            tap.write_text(_OPEN_TAP)
        await self._lease(directory, known, namespace)
        await self._homes.keep_gate(directory, known, metadata=False)
        if is_metadata:
            orders = _metadata_orders(self._homes.guests(known), rules.METADATA, 80)
            write_orders(directory, META, {**orders, "namespace": str(namespace.path)})
            self._programs.keep(directory, META, ours("gate", namespace.name, directory, META))
        await self._serve_bridges()

    async def _lease(self, directory: Path, known: Record, namespace: Namespace) -> None:
        """dnsmasq runs on the networks that are the environment's own, with what it is to say now."""
        if not list(rules.private(known)):
            await self._programs.drop(directory, LEASES)
            return
        conf = directory / "leases.conf"
        text = rules.leases(known, self._homes.instance, metadata=self._metadata is not None)
        if not conf.exists() or conf.read_text() != text:
            await self._programs.drop(directory, LEASES)  # it reads it as root, once
            conf.write_text(text)
        command: list[JSON] = ["dnsmasq", "--keep-in-foreground", f"--conf-file={conf}", "--user=nobody"]
        write_orders(directory, LEASES, {"namespace": str(namespace.path), "command": command})
        self._programs.keep(directory, LEASES, ours("hosted", namespace.name, directory, LEASES))

    async def _serve_bridges(self) -> None:
        """Guests on bridges of the host are told about themselves at the address that is configured for them."""
        if self._metadata is None or not self._metadata.listen_port:
            return
        async with self._hosting:
            directory = self._homes.root / _HOST
            guests: dict[str, JSON] = {}
            for known in self._homes.recorded()[0].values():
                on_bridges = {tap.machine for tap in rules.taps(known, self._homes.instance) if tap.is_of_host}
                told = self._homes.guests(known)
                guests |= {f"{known.environment}/{name}": told[name] for name in on_bridges}
            if not guests:
                await self._programs.drop_all(directory)
                return
            directory.mkdir(mode=0o700, exist_ok=True)
            address, port = self._metadata.listen_addr, self._metadata.listen_port
            write_orders(directory, META, _metadata_orders(guests, address, port))
            self._programs.keep(directory, META, ours("gate", self._homes.name("bridges"), directory, META))

    # The end

    async def _sweep(self, owned: Sequence[Record], unowned: Sequence[Path]) -> None:
        """What a crash has left: directories without a record, namespaces, taps and filters of nobody."""
        for directory in unowned:
            await self._homes.close(directory)
        names = {self._homes.name(known.environment) for known in owned}
        for name in await asyncio.to_thread(namespaces.known, f"{self._homes.name('')}-"):
            if name not in names:
                await self._undo(name, None, [])
        kept = {tap.name for known in owned for tap in rules.taps(known, self._homes.instance)}
        there = await asyncio.to_thread(namespaces.host_taps, self._homes.instance)
        await asyncio.to_thread(namespaces.remove_taps, [tap for tap in there if tap not in kept])
        tables = self._tables(known.environment for known in owned)
        there = await asyncio.to_thread(namespaces.host_filters, self._homes.instance)
        await asyncio.to_thread(namespaces.remove_filters, [table for table in there if table not in tables])

    async def _undo(self, name: str, home: Path | None, taps: Sequence[str]) -> None:
        namespace = Namespace(name, self._homes.instance)

        async def undo() -> None:
            # A program that was about to enter it has its mark, or is in it.
            await trees.end(namespace.processes, grace=timedelta())
            await asyncio.to_thread(namespace.remove)
            await asyncio.to_thread(namespaces.remove_taps, taps)

        if home is None:
            await undo()
        else:
            await self._homes.close(home, undo)

    def _namespace(self, environment: str) -> Namespace:
        return Namespace(self._homes.name(environment), self._homes.instance)

    def _tables(self, environments: Iterable[str]) -> set[str]:
        """Filters of theirs among the host's own: they go after the cards, of which none is ever heard unfiltered."""
        return {rules.host_table(self._homes.instance, environment) for environment in environments}

    def _netdev(self, home: Path, known: Record, machine: str, index: int) -> str:
        bridge = known.network(known.machine(machine).nics[index].network).bridge
        place = "-" if bridge else str(self._namespace(known.environment).path)
        tap = rules.tap_name(self._homes.instance, known, machine, index)
        command = shlex.join([sys.executable, "-I", "-S", str(home / _TAP), place, tap])
        return f"tap,helper={command.replace(',', ',,')}"


def _metadata_orders(guests: dict[str, JSON], address: str, port: int) -> dict[str, JSON]:
    """For a gate that nobody goes through: it tells who asks at an address about itself."""
    return {"egress": [], "guests": guests, "listen": [[address, port]], "log": "/dev/null"}
