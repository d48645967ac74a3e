"""What a host remembers of an environment's networks, in a file; all else follows from it.

Effects: idempotent; the file appears whole or not at all and is durable when `save` returns.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from paddock.agent import durable
from paddock.core.errors import Broken, Missing, PaddockError
from paddock.core.machine import Nic
from paddock.hands import faults
from paddock.wire import fields
from paddock.wire.fields import Fields
from paddock.wire.framing import JSON
from paddock.wire.specs import NetworkSpec

FILE = "environment.json"


@dataclass(frozen=True, kw_only=True)
class Wired:
    """A machine whose cards are joined: where its sockets lie, and whom it lets in."""

    directory: str
    nics: tuple[Nic, ...] = ()
    keys: tuple[str, ...] = ()
    """Public keys of its lease, for who asks over HTTP."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """An environment's networks, and the machines on them by name."""

    environment: str
    networks: tuple[NetworkSpec, ...] = ()
    egress: tuple[str, ...] = ()
    machines: Mapping[str, Wired] = field(default_factory=dict)

    def network(self, name: str) -> NetworkSpec:
        """The network of this name. Missing if there is none."""
        for network in self.networks:
            if network.name == name:
                return network
        raise Missing(f"{self.environment}: has no network {name}")

    def machine(self, name: str) -> Wired:
        """The machine of this name. Missing if it is not wired."""
        if name not in self.machines:
            raise Missing(f"{self.environment}/{name}: is on no network")
        return self.machines[name]

    def having(self, name: str, wired: Wired) -> "Record":
        """The same with this machine."""
        return replace(self, machines={**self.machines, name: wired})

    def without(self, name: str) -> "Record":
        """The same without this machine."""
        return replace(self, machines={key: value for key, value in self.machines.items() if key != name})


def load(directory: Path) -> Record | None:
    """The record; None if there is none. Broken if it is not one of ours."""
    try:
        return _read(json.loads((directory / FILE).read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, PaddockError) as exc:
        raise Broken(f"{directory / FILE}: no record of networks: {exc}") from exc


def save(directory: Path, record: Record) -> None:
    """Temporary name, sync, rename, sync."""
    faults.at("hypervisor.net_recording")
    durable.write(directory / FILE, _params(record))
    faults.at("hypervisor.net_recorded")


def forget(directory: Path) -> None:
    """From now on nothing in the directory is owned. Idempotent."""
    faults.at("hypervisor.net_forgetting")
    durable.remove(directory / FILE)
    faults.at("hypervisor.net_forgotten")


def _params(record: Record) -> dict[str, JSON]:
    machines: dict[str, JSON] = {
        name: {
            "directory": wired.directory,
            "nics": [{"network": nic.network, "mac": nic.mac, "address": nic.address} for nic in wired.nics],
            "keys": list(wired.keys),
        }
        for name, wired in record.machines.items()
    }
    return {
        "environment": record.environment,
        "networks": [network.params() for network in record.networks],
        "egress": list(record.egress),
        "machines": machines,
    }


def _read(value: JSON) -> Record:
    found = Fields(value, FILE)
    return Record(
        environment=found.need("environment", fields.text),
        networks=found.each("networks", NetworkSpec.read),
        egress=found.each("egress", fields.text),
        machines=found.table("machines", _wired),
    )


def _wired(value: JSON, path: str) -> Wired:
    found = Fields(value, path)
    return Wired(
        directory=found.need("directory", fields.text),
        nics=found.each("nics", _nic),
        keys=found.each("keys", fields.text),
    )


def _nic(value: JSON, path: str) -> Nic:
    found = Fields(value, path)
    return Nic(
        network=found.need("network", fields.text),
        mac=found.need("mac", fields.text),
        address=found.need("address", fields.text),
    )
