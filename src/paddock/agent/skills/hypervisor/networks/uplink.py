"""A guest's way to its gate: cards that lead there alone, and the variables that say so.

Effects: none.
"""

import shlex
import sys
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path

from paddock.agent.paths import name_for
from paddock.agent.skills.hypervisor.networks.record import Record
from paddock.agent.skills.hypervisor.ports import Card
from paddock.core.machine import mac
from paddock.wire.specs import NetworkSpec

GATE = "gate"
HAND = "hand"
PROXY = "10.0.2.100:3128"
METADATA = "169.254.169.254:80"
_UPLINK_CARD, _METADATA_CARD = 255, 254  # places of cards that no configuration has


def uplink_socket(machine: str) -> str:
    """The gate's socket for what a machine sends outside."""
    return f"out-{name_for(machine)}"


def metadata_socket(machine: str) -> str:
    """The gate's socket for what a machine asks about itself."""
    return f"self-{name_for(machine)}"


def uplink(environment: str, machine: str, directory: Path) -> Card:
    """A card whose network has one address that answers, the proxy's: neither the host nor anybody else.

    `restrict` alone closes the host's loopback (10.0.2.2), name service and the way outside.
    """
    return Card(
        mac=mac(environment, machine, _UPLINK_CARD),
        address="10.0.2.15/24",
        netdev=f"user,restrict=on,ipv6=off,guestfwd=tcp:{PROXY}-cmd:{_hand(directory, uplink_socket(machine))}",
    )


def metadata(environment: str, machine: str, directory: Path) -> Card:
    """A card on whose network the metadata service stands, at the address at which images look for it."""
    around = "net=169.254.169.0/24,host=169.254.169.2,dns=169.254.169.3,dhcpstart=169.254.169.15"
    command = _hand(directory, metadata_socket(machine))
    return Card(
        mac=mac(environment, machine, _METADATA_CARD),
        address="169.254.169.15/24",
        netdev=f"user,restrict=on,ipv6=off,{around},guestfwd=tcp:{METADATA}-cmd:{command}",
    )


def variables(egress: Iterable[str], networks: Iterable[NetworkSpec], names: Iterable[str] = ()) -> dict[str, str]:
    """What leads a guest's programs to the proxy, and keeps them from it for their own networks and peers."""
    if not list(egress):
        return {}
    subnets = [str(ip_network(network.subnet)) for network in networks if network.subnet]
    direct = ",".join(dict.fromkeys(["localhost", "127.0.0.1", "::1", METADATA.partition(":")[0], *names, *subnets]))
    found = {"http_proxy": f"http://{PROXY}", "https_proxy": f"http://{PROXY}", "no_proxy": direct}
    return found | {name.upper(): value for name, value in found.items()}


def of(record: Record, peers: Iterable[str] = ()) -> Mapping[str, str]:
    """The variables of an environment's guests. Not every peer may be wired yet."""
    addresses = [nic.address.partition("/")[0] for wired in record.machines.values() for nic in wired.nics]
    names = [*peers, *record.machines, *(address for address in addresses if address)]
    return variables(record.egress, record.networks, names)


def _hand(directory: Path, name: str) -> str:
    """The command that QEMU runs for each connection; a comma in it would end QEMU's option."""
    words = [sys.executable, "-I", "-S", str(directory / HAND), name]
    return shlex.join(words).replace(",", ",,")
