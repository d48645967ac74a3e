"""How fast virtual machines come: forks beside a cold boot of the same image, many at once, and a pool turned round.

The server, the host's agent and the guests are real ones; guests are forked from Debian (tools/guest.py), 384 MiB each.
A fork's time is what its host counts: from the order until the server has answered the hello of the agent inside.
"""

import contextlib
import functools
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import place
from bench.aims import FORK_COLD, FORK_MEMORY, FORK_P50, FORK_P95, TURNAROUND
from bench.figure import Measured, quantile
from bench.pace import Pace
from paddock.cli import guests
from tests.story.house import House
from tools.guest import image

MIB = 1 << 20
_GUEST = 384
_FORKS = 40
_MANY = 60
_TURNS = 10
_LIMIT = 900.0
HOST = "- host: {name: local, skills: [hypervisor], memory: 64GiB, vcpus: 1000, disk: 1000GiB}\n"
IMAGE = (
    "- image: {{name: debian, path: {disk}, kernel: {kernel}, initrd: {initrd}, entry: helper, memory: 512MiB,"
    " cmdline: 'root=/dev/vda rw console=ttyS0 quiet panic=1 mitigations=off apparmor=0 selinux=0'}}\n"
)
ONE = "- environment: {{name: {name}, machines: [{machine}], host: local, max: {most}, start: {start}}}\n"
PAIR = (
    "- environment: {name: pair, machines: [{name: one, image: debian, memory: 384MiB, nets: [lan]},"
    " {name: two, image: debian, memory: 384MiB, nets: [lan]}], networks: [{name: lan}], host: local, max: 1}\n"
)


def forks(pace: Pace) -> Mapping[str, Measured]:
    """One fork after the other, and cold boots of the same image between them."""
    with _house() as house:
        cold, warm = [], []
        for _ in range(max(1, pace.runs - 2)):
            cold.append(_build(house, "cold"))
        _build(house, "warm")  # the first one makes the template
        times = max(5, _FORKS * pace.runs // 5)
        for _ in range(times):
            warm.append(1e3 * _build(house, "warm"))
    boot = 1e3 * statistics.median(cold)
    return {
        FORK_P50: Measured(values=_spread(warm, 0.5), peer="cold boot", peer_values=(boot,)),
        FORK_P95: Measured(values=_spread(warm, 0.95)),
        FORK_COLD: Measured(values=tuple(boot / one for one in _spread(warm, 0.5))),
    }


def many(pace: Pace) -> Mapping[str, Measured]:
    """Sixty at once, all answering: what each of them has of its own."""
    most = _MANY if pace.runs > 1 else 4
    with _house() as house:
        _build(house, "warm")
        leases = [house.post("leases", pool="warm", ttl=3600)["id"] for _ in range(most)]
        for lease in leases:
            _granted(house, lease)
        own = [_dirty(json.loads(file.read_text())["pid"]) for file in _hypervisor().glob("machines/*/*/qemu.json")]
        assert len(own) >= most, f"{len(own)} machines run, not {most}"
    return {FORK_MEMORY: Measured(values=(100 * sum(own) / (len(own) * _GUEST * MIB),))}


def turns(pace: Pace) -> Mapping[str, Measured]:
    """From the release of a two-machine environment until it is ready again, by forks."""
    with _house() as house:
        took = []
        for _ in range(1 + max(2, _TURNS * pace.runs // 5)):
            lease = _granted(house, house.post("leases", pool="pair", ttl=3600)["id"])
            began = time.perf_counter()
            house.post(f"leases/{lease['id']}/release", fence=lease["fence"])
            _until_ready(house, lease["environment"])
            took.append(time.perf_counter() - began)
    return {TURNAROUND: Measured(values=tuple(took[1:]))}


# ---- the house


@contextlib.contextmanager
def _house() -> Iterator[House]:
    """A house with the three pools, whose images and templates are kept from one bench to the next."""
    made = image()
    one = f"{{name: one, image: debian, memory: {_GUEST}MiB}}"
    with place.place() as house:
        house.host = HOST
        house.host_program = (
            *("-m", "paddock.agent", "run", "--skills", "hypervisor"),
            *("--hypervisor", f"storage={_hypervisor()}"),
        )
        house.configure(
            IMAGE.format(disk=made.disk, kernel=made.kernel, initrd=made.initrd)
            + ONE.format(name="cold", machine=one, most=1, start="boot")
            + ONE.format(name="warm", machine=one, most=_MANY + 1, start="fork")
            + PAIR
        )
        house.start_server()
        house.start_agent()
        try:
            yield house
        finally:
            _destroy(house)


@functools.cache
def _hypervisor() -> Path:
    return guests.storage("bench")


def _destroy(house: House) -> None:
    """The machines go with the house; their directories too, or the next one would find them."""
    house.kill(house.agent)
    house.close()
    for directory in ("machines", "networks", "making"):
        shutil.rmtree(_hypervisor() / directory, ignore_errors=True)


def _granted(house: House, id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        lease: dict[str, Any] = house.get(f"leases/{id}")
        assert lease["state"] in ("queued", "granted"), lease
        return lease if lease["state"] == "granted" else None

    found = house.until(look, f"lease {id} is granted", limit=_LIMIT)
    assert found is not None
    return found


def _until_ready(house: House, environment: str) -> None:
    until = time.monotonic() + _LIMIT
    while (state := house.get(f"environments/{environment}")["state"]) != "ready":
        assert state in ("dirty", "cleaning"), state
        assert time.monotonic() < until
        time.sleep(0.01)


def _build(house: House, pool: str) -> float:
    """Seconds in which a machine of a pool was made anew, as its host counts."""
    lease = _granted(house, house.post("leases", pool=pool, ttl=3600)["id"])
    house.post(f"leases/{lease['id']}/release", fence=lease["fence"])
    _until_ready(house, lease["environment"])
    host = house.get("hosts")["items"][0]["agent"]
    last = house.get(f"agents/{host}/commands", limit=1)["items"][0]
    assert (last["method"], last["state"]) == ("machine.clean", "complete"), last
    wanted = "boot" if pool == "cold" else "fork"
    assert last["result"]["start"] == wanted, last["result"]["why"]
    return float(last["result"]["seconds"])


def _spread(times: list[float], share: float) -> tuple[float, ...]:
    """The quantile of all of them, between those of its fifths."""
    size = max(1, len(times) // 5)
    parts = [quantile(times[at : at + size], share) for at in range(0, len(times), size)]
    return (*sorted(parts)[: len(parts) // 2], quantile(times, share), *sorted(parts)[len(parts) // 2 :])


def _dirty(pid: int) -> int:
    """Bytes of memory that a process has for itself, and has written to."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid}: no figures of its memory")
