"""The directories of environments that have networks: records, gates, access logs, programs.

Effects: idempotent. An environment's networks exist once their record is durable; what has none, or one
that cannot be read, is swept.
"""

import asyncio
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from paddock.agent.cables.gate import HAND as HAND_TEXT
from paddock.agent.paths import name_for
from paddock.agent.skills.hypervisor.metadata import Metadata
from paddock.agent.skills.hypervisor.networks import record as records
from paddock.agent.skills.hypervisor.networks import uplink
from paddock.agent.skills.hypervisor.networks.programs import Programs, ours
from paddock.agent.skills.hypervisor.networks.record import Record, Wired
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.egress import Egress
from paddock.core.errors import Broken, Refused
from paddock.core.machine import Nic, uniform
from paddock.wire.framing import JSON
from paddock.wire.specs import NetworkSpec

_log = logging.getLogger(__name__)

_ACCESS = ".access"
_KEPT = 30 * 86400
"""Seconds for which the access log of an environment that is gone is kept."""


class Homes:
    """One directory for each environment, below a root that is its owner's alone."""

    def __init__(self, root: Path, instance: str, programs: Programs, metadata: Metadata | None) -> None:
        self.root = root
        self.instance = instance
        self.programs = programs
        self.metadata = metadata
        self._turns: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, environment: str) -> AsyncIterator[Path]:
        """One thing at a time happens to an environment. Gives its directory, which need not exist."""
        async with self._turns.setdefault(environment, asyncio.Lock()):
            yield self.home(environment)

    def home(self, environment: str) -> Path:
        """Its directory."""
        return self.root / name_for(environment)

    def name(self, environment: str, machine: str = "") -> str:
        """Its uniform name on this computer."""
        return uniform(self.instance, environment, machine)

    def prepare(self) -> None:
        """The root exists, and old access logs do not."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.root / _ACCESS).mkdir(mode=0o700, exist_ok=True)
        for log in (self.root / _ACCESS).iterdir():
            with suppress(OSError):
                if time.time() - log.stat().st_mtime > _KEPT:
                    log.unlink()

    def access_log(self, environment: str) -> Path:
        """What its guests asked its gate for, a line each; it stays when the environment goes."""
        return self.root / _ACCESS / f"{name_for(environment)}.log"

    def recorded(self) -> tuple[dict[Path, Record], list[Path]]:
        """Directories with their records, and those without one that can be read: nobody knows whose those are."""
        found: dict[Path, Record] = {}
        unowned: list[Path] = []
        for directory in sorted(self.root.glob("[!.]*")):
            try:
                known = records.load(directory)
            except Broken as exc:
                _log.error("a record of networks is unreadable", extra={"why": exc.message})
                known = None
            if known is None:
                unowned.append(directory)
            else:
                found[directory] = known
        return found, unowned

    # Changes of a record; each with the environment's turn

    def described(
        self, directory: Path, environment: str, networks: Sequence[NetworkSpec], egress: Sequence[str]
    ) -> Record:
        """The record of an environment that has these networks, with the machines that it knows."""
        Egress.read(egress)
        known = records.load(directory) or Record(environment=environment)
        wanted = replace(known, networks=tuple(networks), egress=tuple(egress))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if wanted != known or not (directory / records.FILE).exists():
            records.save(directory, wanted)
        return wanted

    def known(self, directory: Path, environment: str) -> Record:
        """Refused if its networks were not opened."""
        found = records.load(directory)
        if found is None:
            raise Refused(f"{environment}: its networks are not open")
        return found

    def wired(self, directory: Path, known: Record, machine: str, place: Path, nics: Sequence[Nic]) -> Record:
        """The record with a machine. Refused where a card is on no network, or others could reach its sockets."""
        for nic in nics:
            if nic.network and nic.network not in [network.name for network in known.networks]:
                raise Refused(f"{known.environment}/{machine}: there is no network {nic.network}")
        if stat.S_IMODE(os.stat(place).st_mode) & 0o077:
            raise Refused(f"{place}: is not its owner's alone", hint="chmod 0700: whoever enters it hears the network")
        former = known.machines.get(machine)
        wired = Wired(directory=str(place), nics=tuple(nics), keys=former.keys if former else ())
        if wired != former:
            known = known.having(machine, wired)
            records.save(directory, known)
        return known

    # The gate

    async def keep_gate(self, directory: Path, known: Record, *, metadata: bool = True) -> None:
        """Its gate runs and serves the machines of the record, if anybody needs it.

        `metadata`: it tells machines about themselves, too, where this host does that at all.
        """
        if not known.egress and not (metadata and self.metadata):
            await self.programs.drop(directory, uplink.GATE)
            return
        hand = directory / uplink.HAND
        if not hand.exists() or hand.read_text() != HAND_TEXT:
            hand.write_text(HAND_TEXT)
        write_orders(directory, uplink.GATE, self.gate_orders(known, metadata=metadata))
        self.programs.keep(directory, uplink.GATE, ours("gate", self.name(known.environment), directory, uplink.GATE))

    def gate_orders(self, known: Record, *, metadata: bool) -> dict[str, JSON]:
        """What a gate is told that serves machines at sockets of theirs."""
        return {
            "egress": list(known.egress),
            "guests": self.guests(known, way_out=bool(known.egress), metadata=metadata),
            "listen": [],
            "log": str(self.access_log(known.environment)),
        }

    def guests(self, known: Record, *, way_out: bool = False, metadata: bool = False) -> dict[str, JSON]:
        """Each machine: its cards, what it may know, its sockets for either purpose."""
        found: dict[str, JSON] = {}
        for machine, wired in known.machines.items():
            facts = None
            if self.metadata is not None:
                name = self.name(known.environment, machine)
                facts = self.metadata.facts(name, machine, wired.nics, wired.keys).params()
            found[machine] = {
                "macs": [nic.mac.lower() for nic in wired.nics],
                "uplink": uplink.uplink_socket(machine) if way_out else "",
                "metadata": uplink.metadata_socket(machine) if facts and metadata else "",
                "facts": facts,
            }
        return found

    def outward(self, directory: Path, known: Record, machine: str, *, metadata: bool = True) -> list[Card]:
        """The cards that lead to the gate, the uplink last."""
        cards = []
        if metadata and self.metadata is not None:
            cards.append(uplink.metadata(known.environment, machine, directory))
        if known.egress:
            cards.append(uplink.uplink(known.environment, machine, directory))
        return cards

    # The end

    async def close(self, directory: Path, undo: Callable[[], Awaitable[None]] | None = None) -> None:
        """Nothing of it is left: its programs, whatever `undo` undoes, its directory. Idempotent."""
        records.forget(directory)
        await self.programs.drop_all(directory)
        if undo is not None:
            await undo()
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def write_orders(directory: Path, name: str, orders: dict[str, JSON]) -> None:
    """What a program is told from now on, whole or not at all; nothing is written where it is told so already.

    Not synced: after a power cut it is written anew from the record, before anybody reads it.
    """
    path = directory / f"{name}.orders"
    text = json.dumps(orders)
    with suppress(OSError):
        if path.read_text("utf-8") == text:
            return
    draft = path.with_suffix(".draft")
    draft.write_text(text, "utf-8")
    draft.rename(path)
