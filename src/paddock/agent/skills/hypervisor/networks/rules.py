"""What nftables, dnsmasq and tc are told of an environment's networks, by its record.

Effects: none.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from paddock.agent.skills.hypervisor.networks.record import Record
from paddock.core.machine import NetworkSettings, Nic, subnet
from paddock.wire.specs import NetworkSpec

METADATA = "169.254.169.254"
_LEASE = "1h"
_LARGEST = 128 << 10
"""Bytes: more than the 64 KiB that a guest may hand over at once, to be cut into frames later."""
_BURST = 2 * _LARGEST


@dataclass(frozen=True, kw_only=True)
class Tap:
    """The far end of a card: an interface on a bridge, of the environment's namespace or of the host itself."""

    name: str
    machine: str
    nic: Nic
    network: NetworkSpec

    @property
    def is_of_host(self) -> bool:
        """Whether it is on a bridge of the host."""
        return bool(self.network.bridge)


def taps(record: Record, instance: str) -> list[Tap]:
    """One for each card that is on a network."""
    return [
        Tap(
            name=tap_name(instance, record, machine, index),
            machine=machine,
            nic=nic,
            network=record.network(nic.network),
        )
        for machine, wired in record.machines.items()
        for index, nic in enumerate(wired.nics)
        if nic.network
    ]


def host_prefix(instance: str) -> str:
    """What the names of our interfaces among the host's own begin with: a sweep finds them by it."""
    return f"p{instance[:6]}"


def tap_name(instance: str, record: Record, machine: str, index: int) -> str:
    """15 bytes, as many as an interface's name may have."""
    made = hashlib.sha256(f"{record.environment}\0{machine}\0{index}".encode()).hexdigest()
    return host_prefix(instance) + made[:8]


def bridge_name(network: str) -> str:
    """A bridge of the environment's own namespace."""
    return f"b{hashlib.sha256(network.encode()).hexdigest()[:12]}"


def private(record: Record) -> Iterator[tuple[NetworkSpec, IPv4Network]]:
    """Networks that are the environment's own, with where their machines have their addresses."""
    for index, network in enumerate(record.networks):
        if not network.bridge:
            yield network, subnet(NetworkSettings(name=network.name, subnet=network.subnet), index)


def filters(record: Record, instance: str) -> str:
    """For `nft -f`: guests reach leases, names and what they are told about themselves, and nobody routes for them.

    The whole text is taken at once. A card that sends from another hardware address than its own is not heard.
    """
    bridges = [bridge_name(network.name) for network, _ in private(record)]
    lines = [
        "add table inet paddock",
        "delete table inet paddock",
        "add table bridge paddock",
        "delete table bridge paddock",
        "table inet paddock {",
        "  chain input {",
        "    type filter hook input priority filter; policy drop;",
        "    iifname lo accept",
        "    ct state established accept",
        "    udp dport { 53, 67 } accept",
        "    tcp dport 53 accept",
        f"    ip daddr {METADATA} tcp dport 80 accept",
        "  }",
        "  chain forward {",
        "    type filter hook forward priority filter; policy drop;",
        # A host with br_netfilter asks here even for frames that stay on one bridge.
        *(f'    iifname "{name}" oifname "{name}" accept' for name in bridges),
        "  }",
        "}",
        "table bridge paddock {",
        "  chain cards {",
        "    type filter hook prerouting priority -300; policy accept;",
    ]
    lines += _own_names(tap for tap in taps(record, instance) if not tap.is_of_host)
    return "\n".join([*lines, "  }", "}", ""])


def host_table(instance: str, environment: str) -> str:
    """Of an environment's filters among the host's own; a sweep finds it by its beginning."""
    return host_prefix(instance) + hashlib.sha256(environment.encode()).hexdigest()[:8]


def host_filters(record: Record, instance: str) -> str:
    """For `nft -f` where the bridges of the host are: our cards on them speak in their own names only."""
    table = host_table(instance, record.environment)
    return "\n".join(
        [
            f"add table bridge {table}",
            f"delete table bridge {table}",
            f"table bridge {table} {{",
            "  chain cards {",
            "    type filter hook prerouting priority -300; policy accept;",
            *_own_names(tap for tap in taps(record, instance) if tap.is_of_host),
            *("  }", "}", ""),
        ]
    )


def _own_names(found: Iterable[Tap]) -> Iterator[str]:
    for tap in found:
        yield f'    iifname "{tap.name}" ether saddr != {tap.nic.mac} drop'
        yield f'    iifname "{tap.name}" arp saddr ether != {tap.nic.mac} drop'


def leases(record: Record, instance: str, *, metadata: bool) -> str:
    """dnsmasq's configuration: addresses that were known beforehand, names of the machines, nothing from outside."""
    lines = [
        *("bind-interfaces", "except-interface=lo", "no-resolv", "no-hosts", "no-poll", "no-ping", "leasefile-ro"),
        *("dhcp-authoritative", "pid-file", "log-facility=-"),
    ]
    for network, where in private(record):
        lines.append(f"interface={bridge_name(network.name)}")
        lines.append(f"dhcp-range=set:{network.name},{where.network_address},static,{where.netmask},{_LEASE}")
        lines.append(f"dhcp-option=tag:{network.name},option:router")  # empty: there is no way out here
        if metadata:
            lines.append(f"dhcp-option=tag:{network.name},option:classless-static-route,{METADATA}/32,{gateway(where)}")
    for tap in taps(record, instance):
        address = tap.nic.address.partition("/")[0]
        if address and not tap.is_of_host:
            lines.append(f"dhcp-host={tap.nic.mac},{address},{tap.machine},{_LEASE}")
            lines.append(f"host-record={tap.machine},{address}")
            lines.append(f"local=/{tap.machine}/")  # whatever else is asked about it is answered, too: there is none
    return "\n".join([*lines, ""])


def gateway(where: IPv4Network) -> str:
    """The address of the namespace itself on a network: the first."""
    return str(where.network_address + 1)


def shaping(tap: Tap) -> Sequence[Sequence[str]]:
    """What `tc` is told of a card: latency and loss of what it receives, the rate of what it sends."""
    network, found = tap.network, []
    if network.latency or network.loss:
        # As many frames as a fast sender has on a slow way; beyond, they are lost.
        netem = ["netem", "limit", "10000"]
        netem += ["delay", f"{round(network.latency.total_seconds() * 1e6)}us"] if network.latency else []
        netem += ["loss", f"{network.loss * 100:g}%"] if network.loss else []
        found.append(["qdisc", "replace", "dev", tap.name, "root", *netem])
    if network.rate:
        burst = max(network.rate // 4, _BURST)
        here = ["dev", tap.name, "parent", "ffff:"]
        police = ["police", "rate", f"{network.rate}bps", "burst", str(burst), "mtu", str(_LARGEST)]
        found.append(["qdisc", "replace", "dev", tap.name, "handle", "ffff:", "ingress"])
        found.append(["filter", "delete", *here])  # matchall knows no replacing
        found.append(
            ["filter", "add", *here, "protocol", "all", "matchall", "action", *police, "conform-exceed", "drop"]
        )
    return found
