"""Reads how busy the machine is, from /proc, /sys and statvfs.

Effects: none. Sizes are bytes, shares are 0 to 1, rates are per second of the time between two samples.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from paddock.wire.framing import JSON

NAMES = ("cpu", "memory", "load", "disks", "network", "processes")
"""What can be collected."""
_SECTOR = 512
_MOST = 64
"""File systems, devices and interfaces in one sample."""
_TOP = 5
"""Processes that are named: those with most memory, and those with most processor time."""
_ROOTS = ("overlay", "zfs", "btrfs", "tmpfs")
"""What may be the root though no device stands behind it."""
_CPU = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(kw_only=True)
class Sampler:
    """One who looks again and again: what it saw last is what rates are counted from."""

    root: Path
    _before: dict[str, Mapping[str, float]] = field(default_factory=dict)
    _looked: float = 0.0

    def look(self, names: tuple[str, ...]) -> dict[str, JSON]:
        """One sample. What cannot be read is told in its place; the first one has no rates."""
        now = time.monotonic()
        passed, self._looked = now - self._looked if self._looked else 0.0, now
        found: dict[str, JSON] = {}
        for name in names:
            try:
                found[name] = self._collector(name)(passed)
            except (OSError, ValueError, IndexError, KeyError) as exc:
                found[name] = {"error": f"{type(exc).__name__}: {exc}"}
        return found

    def _collector(self, name: str) -> Callable[[float], JSON]:
        return {
            "cpu": self._cpu,
            "memory": lambda passed: dict(memory(self.root)),
            "load": lambda passed: dict(load(self.root)),
            "disks": self._disks,
            "network": self._network,
            "processes": self._processes,
        }[name]

    def _since(self, about: str, counters: Mapping[str, float]) -> dict[str, float]:
        """How much each counter has grown since the last look; nothing for what was not there."""
        before, self._before[about] = self._before.get(about, {}), counters
        return {name: max(value - before[name], 0) for name, value in counters.items() if name in before}

    def _cpu(self, passed: float) -> JSON:
        grown = self._since("cpu", processor(self.root))
        total = sum(grown.values())
        if not total:
            return {}
        shares = {name: round(grown[name] / total, 4) for name in ("user", "system", "iowait", "steal")}
        return {"busy": round(1 - (grown["idle"] + grown["iowait"]) / total, 4), **shares}

    def _disks(self, passed: float) -> JSON:
        grown = self._since("disks", dict(_devices(self.root)))
        rates: dict[str, dict[str, JSON]] = {}
        for name, value in grown.items() if passed else ():
            device, _, about = name.rpartition(" ")
            rates.setdefault(device, {})[about] = round(value / passed, 1 if about != "busy" else 4)
        space: dict[str, JSON] = {}
        for mount in list(mounts(self.root))[:_MOST]:
            with suppress(OSError):
                space[mount] = dict(room(mount))
        return {"filesystems": space, "devices": dict(list(rates.items())[:_MOST])}

    def _network(self, passed: float) -> JSON:
        grown = self._since("network", dict(_interfaces(self.root)))
        rates: dict[str, dict[str, JSON]] = {}
        for name, value in grown.items() if passed else ():
            interface, _, about = name.rpartition(" ")
            rates.setdefault(interface, {})[about] = round(value / passed, 1)
        return dict(list(rates.items())[:_MOST])

    def _processes(self, passed: float) -> JSON:
        found = list(processes(self.root))
        used = self._since("processes", {f"{one.pid} {one.started}": one.ticks for one in found})
        busy = sorted(found, key=lambda one: used.get(f"{one.pid} {one.started}", 0), reverse=True)
        large = sorted(found, key=lambda one: one.memory, reverse=True)
        shown = {one.pid: one for one in (*large[:_TOP], *(busy[:_TOP] if passed else ()))}
        top: list[JSON] = []
        for one in shown.values():
            told: dict[str, JSON] = {"pid": one.pid, "name": one.name, "memory": one.memory}
            ticks = used.get(f"{one.pid} {one.started}")
            if passed and ticks is not None:
                told["cpu"] = round(ticks / _TICKS / passed, 4)
            top.append(told)
        return {
            "count": len(found),
            "threads": sum(one.threads for one in found),
            "running": sum(one.state == "R" for one in found),
            "blocked": sum(one.state == "D" for one in found),
            "zombies": sum(one.state == "Z" for one in found),
            "top": top,
        }


def processor(root: Path) -> dict[str, float]:
    """Ticks of all processors together since the boot."""
    first = (root / "proc/stat").read_text("ascii").partition("\n")[0].split()
    return dict(zip(_CPU, map(float, first[1:]), strict=False))


def memory(root: Path) -> dict[str, int]:
    """What there is, and what programs could still get."""
    fields = {}
    for line in (root / "proc/meminfo").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) << 10
    return {
        "total": fields["MemTotal"],
        "available": fields.get("MemAvailable", fields["MemFree"]),
        "free": fields["MemFree"],
        "cached": fields.get("Cached", 0) + fields.get("Buffers", 0),
        "swap_total": fields.get("SwapTotal", 0),
        "swap_free": fields.get("SwapFree", 0),
    }


def load(root: Path) -> dict[str, float]:
    """Processes that ran or wanted to, averaged over so many minutes."""
    fields = (root / "proc/loadavg").read_text("ascii").split()
    return {name: float(value) for name, value in zip(("one", "five", "fifteen"), fields, strict=False)}


def mounts(root: Path) -> Iterator[str]:
    """Where disks are mounted, each disk once; what is no disk (and may hang, being far away) is not looked at."""
    seen = set()
    for line in (root / "proc/self/mounts").read_text("utf-8", "replace").splitlines():
        device, mount, kind, *_ = line.split()
        mount = mount.encode("ascii", "backslashreplace").decode("unicode_escape")
        is_disk = device.startswith("/dev/") and kind != "squashfs"
        if (is_disk and device not in seen) or (mount == "/" and kind in _ROOTS):
            seen.add(device)
            yield mount


def room(mount: str) -> dict[str, JSON]:
    """How full a file system is, as a plain user finds it."""
    found = os.statvfs(mount)
    used, free = found.f_blocks - found.f_bfree, found.f_bavail
    return {
        "total": found.f_blocks * found.f_frsize,
        "free": free * found.f_frsize,
        "used": round(used / (used + free), 4) if used + free else 0.0,
        "inodes_used": round(1 - found.f_favail / found.f_files, 4) if found.f_files else 0.0,
    }


def _devices(root: Path) -> Iterator[tuple[str, float]]:
    """Counters of whole disks: `<device> <what>`."""
    for line in (root / "proc/diskstats").read_text("ascii").splitlines():
        fields = line.split()
        name = fields[2]
        if name.startswith(("loop", "ram", "zram")) or (root / "sys/class/block" / name / "partition").exists():
            continue
        yield f"{name} reads", float(fields[3])
        yield f"{name} read", float(fields[5]) * _SECTOR
        yield f"{name} writes", float(fields[7])
        yield f"{name} written", float(fields[9]) * _SECTOR
        yield f"{name} busy", float(fields[12]) / 1000


def _interfaces(root: Path) -> Iterator[tuple[str, float]]:
    """Counters of each interface but loopback: `<interface> <what>`."""
    for line in (root / "proc/net/dev").read_text("utf-8", "replace").splitlines()[2:]:
        name, _, rest = line.strip().partition(":")
        fields = rest.split()
        if name == "lo":
            continue
        for about, column in (("received", 0), ("packets_in", 1), ("sent", 8), ("packets_out", 9)):
            yield f"{name} {about}", float(fields[column])
        yield f"{name} errors", float(fields[2]) + float(fields[10])
        yield f"{name} dropped", float(fields[3]) + float(fields[11])


@dataclass(frozen=True, kw_only=True, slots=True)
class Process:
    """One process. Its command line is not read: it may hold secrets."""

    pid: int
    name: str
    state: str
    ticks: float
    threads: int
    started: int
    memory: int


def processes(root: Path) -> Iterator[Process]:
    """All of them; one that ends meanwhile is left out."""
    for entry in os.scandir(root / "proc"):
        if entry.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                yield _process(Path(entry.path, "stat").read_bytes().decode("utf-8", "replace"))


def _process(line: str) -> Process:
    # A name may hold spaces and brackets: the last bracket ends it.
    head, _, rest = line.rpartition(")")
    pid, _, name = head.partition("(")
    fields = rest.split()
    return Process(
        pid=int(pid),
        name="".join(letter if letter.isprintable() else "?" for letter in name),
        state=fields[0],
        ticks=float(fields[11]) + float(fields[12]),
        threads=int(fields[17]),
        started=int(fields[19]),
        memory=int(fields[21]) * _PAGE,
    )
