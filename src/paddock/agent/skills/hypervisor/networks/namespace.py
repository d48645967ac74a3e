"""An environment's network namespace: bridges, taps and filters, as its record says.

Effects: idempotent; what is there already stays, what is there and should not be goes. Needs root. Among the host's own
there are only taps on bridges that its configuration allows, and filters of what comes from them.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from paddock.agent.skills.hypervisor.networks import rules
from paddock.agent.skills.hypervisor.networks.record import Record
from paddock.agent.skills.hypervisor.networks.rules import Tap
from paddock.core.errors import Broken, Refused
from paddock.hands import faults, trees

PLACE = Path("/run/netns")
TOOLS = {"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "dnsmasq": "dnsmasq-base", "nsenter": "util-linux"}
_LIMIT = 30.0
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def check() -> None:
    """Refused, saying what is missing and what to do, where namespaces cannot be made."""
    if os.geteuid() != 0:
        raise Refused("networks: bridges take root", hint="run the host's agent as root, or with networks: rootless")
    for tool, package in TOOLS.items():
        if shutil.which(tool, path=_PATH) is None:
            raise Refused(f"networks: there is no {tool} on this host", hint=f"apt-get install {package}")
    if not Path("/dev/net/tun").exists():
        raise Refused("networks: there is no /dev/net/tun on this host", hint="modprobe tun")


def check_bridge(name: str, allowed: Iterable[str]) -> None:
    """Refused if the host's configuration does not allow this bridge, or if there is none of this name."""
    if name not in allowed:
        raise Refused(f"bridge {name}: is not one that this host allows", hint="name it in the bridges of the host")
    if not Path(f"/sys/class/net/{name}/bridge").is_dir() and name not in _names(_links("", "type", "bridge")):
        raise Refused(f"bridge {name}: is not on this host", hint=f"ip link add {name} type bridge")


class Namespace:
    """One, by its uniform name."""

    def __init__(self, name: str, instance: str) -> None:
        self.name = name
        self.path = PLACE / name
        self._instance = instance

    def make(self, record: Record, *, metadata: bool) -> None:
        """It is as the record says. Refused where the kernel cannot shape a network as asked for."""
        if not self.path.exists():
            faults.at("hypervisor.namespace_making")
            _run(["ip", "netns", "add", self.name])
        faults.at("hypervisor.namespace_made")
        there = _names(_links(self.name))
        found = rules.taps(record, self._instance)
        lines = ["link set lo up"]
        if metadata:
            lines.append(f"address replace {rules.METADATA}/32 dev lo")
        for network, where in rules.private(record):
            bridge = rules.bridge_name(network.name)
            if bridge not in there:
                lines.append(f"link add {bridge} type bridge forward_delay 0 mcast_snooping 0")
            lines.append(f"address replace {rules.gateway(where)}/{where.prefixlen} dev {bridge}")
            # An interface's name has 15 bytes; its alias says whose it is.
            lines.append(f"link set {bridge} alias {self.name}-{network.name} up")
        _batch(self.name, lines)
        # Before any card is there: none is ever heard unfiltered.
        _run(["nsenter", f"--net={self.path}", "nft", "-f", "-"], text=rules.filters(record, self._instance))
        self._attach([tap for tap in found if not tap.is_of_host], there, self.name)
        if any(tap.is_of_host for tap in found):
            _run(["nft", "-f", "-"], text=rules.host_filters(record, self._instance))
            self._attach([tap for tap in found if tap.is_of_host], _names(_links("")), "")
        wanted = {tap.name for tap in found} | {rules.bridge_name(network.name) for network, _ in rules.private(record)}
        _batch(self.name, [f"link delete {name}" for name in there - wanted - {"lo"}])

    def _attach(self, found: Sequence[Tap], there: set[str], where: str) -> None:
        lines = []
        for tap in found:
            if tap.name not in there:
                lines.append(f"tuntap add dev {tap.name} mode tap vnet_hdr")
            bridge = tap.network.bridge or rules.bridge_name(tap.network.name)
            lines.append(f"link set {tap.name} alias {self.name}-{tap.machine} master {bridge} up")
        faults.at("hypervisor.taps_making")
        _batch(where, lines)
        faults.at("hypervisor.taps_made")
        for tap in found:
            for words in rules.shaping(tap):
                self._shape(tap, words, where)

    def _shape(self, tap: Tap, words: Sequence[str], where: str) -> None:
        try:
            _run(["tc", *(("-n", where) if where else ()), *words])
        except Broken as exc:
            raise Refused(
                f"network {tap.network.name}: this kernel cannot give it latency, loss or rate: {exc.message}",
                hint="modprobe -a sch_netem sch_ingress cls_matchall act_police, or networks: rootless",
            ) from exc

    def processes(self) -> list[trees.Identity]:
        """Whoever runs in it."""
        try:
            own = self.path.stat().st_ino
        except OSError:
            return []
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.stat(f"/proc/{entry}/ns/net").st_ino == own:
                    found.append(trees.identify(int(entry)))
            except OSError:
                continue
        return [one for one in found if one is not None]

    def remove(self) -> None:
        """It does not exist, and nothing in it. Idempotent."""
        if self.path.exists():
            faults.at("hypervisor.namespace_removing")
            _run(["ip", "netns", "delete", self.name])
        faults.at("hypervisor.namespace_removed")


def remove_taps(names: Iterable[str]) -> None:
    """These taps of ours are on no bridge of the host. Idempotent."""
    there = _names(_links(""))
    _batch("", [f"link delete {name}" for name in names if name in there])


def host_taps(instance: str) -> list[str]:
    """Interfaces of ours among the host's own, whoever made them."""
    return sorted(name for name in _names(_links("")) if name.startswith(rules.host_prefix(instance)))


def remove_filters(names: Iterable[str]) -> None:
    """These tables of ours are not among the host's own. Idempotent."""
    lines = [f"{verb} table bridge {name}" for name in names for verb in ("add", "delete")]
    if lines:
        _run(["nft", "-f", "-"], text="\n".join([*lines, ""]))


def host_filters(instance: str) -> list[str]:
    """Tables of ours among the host's own, whoever made them."""
    told = [line.split()[-1] for line in _run(["nft", "list", "tables", "bridge"]).splitlines()]
    return sorted(name for name in told if name.startswith(rules.host_prefix(instance)))


def known(prefix: str) -> list[str]:
    """Namespaces whose names begin like this."""
    return sorted(path.name for path in PLACE.glob(f"{prefix}*")) if PLACE.is_dir() else []


def _links(namespace: str, *words: str) -> list[dict[str, object]]:
    where = ("-n", namespace) if namespace else ()
    found: list[dict[str, object]] = json.loads(_run(["ip", *where, "-j", "link", "show", *words]) or "[]")
    return found


def _names(links: Iterable[dict[str, object]]) -> set[str]:
    return {str(link["ifname"]) for link in links if link}


def _batch(namespace: str, lines: Sequence[str]) -> None:
    if lines:
        where = ("-n", namespace) if namespace else ()
        _run(["ip", *where, "-batch", "-"], text="\n".join([*lines, ""]))


def _run(command: Sequence[str], *, text: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Broken(f"{command[0]}: {exc}") from exc
    if done.returncode != 0:
        raise Broken(f"{command[0]}: {' '.join(done.stderr.split())[:500]}")
    return done.stdout
