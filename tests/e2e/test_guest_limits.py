"""Limits of tasks under a real systemd: they hold for whole trees, and tasks outlive the unit of their agent."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.guest import Guest

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

SOURCE = Path(__file__).parents[2] / "src"
AGENT = """
import asyncio, dataclasses, json, os, sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, "/opt/src")
from paddock.core.errors import Refused
from paddock.hands.launcher import Launcher, Order, attach, read_group, read_exit
from paddock.hands.order import Limits

HOG = "exec python3 -IS -c 'x = bytearray(150 << 20); print(len(x))'"
ASKED = {
    "hog": (f"sleep 60 & {HOG}", Limits(memory=40 << 20)),
    "daemon": (f'setsid sh -c "{HOG}" & wait', Limits(memory=40 << 20)),
    "small": ("exit 3", Limits(memory=40 << 20)),
    "forks": ("for i in 1 2 3 4 5 6 7 8; do sleep 60 & done; exit 0", Limits(pids=4)),
    "slow": ("cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/cpu.max", Limits(cpus=0.25)),
    "plain": ("sed -n 's/^0:://p' /proc/self/cgroup", Limits()),
}
life = Path(sys.argv[1])
life.mkdir(exist_ok=True)


def order(place, script, limits):
    env = {"PATH": os.environ["PATH"]}
    argv = ("/bin/sh", "-c", script)
    grace = timedelta(milliseconds=100)
    return Order(task=place.name, directory=place, argv=argv, env=env, cwd=Path("/"), limits=limits, grace=grace)


async def main():
    told = {"own": Path("/proc/self/cgroup").read_text().strip()}
    async with Launcher() as launcher:
        for name, (script, limits) in ASKED.items():
            place = life / f"{name}-{os.getpid()}"
            try:
                held = await launcher.fork(order(place, script, limits))
            except Refused as exc:
                told[name] = exc.message
                continue
            await held.open_gate()
            ended = await held.ended()
            output = (place / "output").read_text(errors="replace")
            told[name] = [ended.exit, ended.signal, ended.oom_kills, output]
        survivor = life / "survivor"
        if not survivor.exists():
            # A disk's worth of words is not needed: the file says that it lives.
            script = "while sleep 0.2; do date +%s%N > /run/alive; done"
            held = await launcher.fork(order(survivor, script, Limits(memory=64 << 20)))
            await held.open_gate()
        told["survivor"] = [str(read_group(survivor)), (read_group(survivor) / "memory.max").read_text().strip()]
        (life / "told.new").write_text(json.dumps(told))
        (life / "told.new").rename(life / f"told-{len(list(life.glob('told-*')))}")
        await asyncio.Event().wait()

asyncio.run(main())
"""
UNIT = """
[Service]
ExecStart=/usr/bin/python3 -S /opt/agent.py /run/life
KillMode={mode}
Delegate=yes
"""


@pytest.fixture(scope="module")
def guest(common_guest: Guest) -> Guest:
    common_guest.run("mkdir -p /opt/src && tar -x -C /opt/src", stdin=_packed(SOURCE / "paddock"))
    common_guest.write("/opt/agent.py", AGENT)
    return common_guest


def _packed(package: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for room in ("__init__.py", "core", "hands", "wire"):
            archive.add(
                package / room, f"paddock/{room}", filter=lambda one: None if "__pycache__" in one.name else one
            )
    return packed.getvalue()


def _life(guest: Guest, number: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(guest.until(f"cat /run/life/told-{number}", limit=60))
    return told


@pytest.mark.parametrize("mode", ["process", "control-group"])
def test_limits_hold_and_tasks_outlive_a_restart_of_their_agents_unit(guest: Guest, mode: str) -> None:
    guest.write("/etc/systemd/system/limits.service", UNIT.format(mode=mode))
    guest.run("systemctl daemon-reload && systemctl start limits")
    first = _life(guest, 0)
    _expect(first)
    assert "limits.service" in first["own"]
    assert "limits.service" not in first["survivor"][0]

    alive = guest.until("cat /run/alive")
    guest.run("systemctl restart limits")
    second = _life(guest, 1)
    _expect(second)
    assert second["survivor"] == first["survivor"]
    guest.until(f"test $(cat /run/alive) -gt {alive}")
    guest.until("now=$(cat /run/alive); sleep 1; test $(cat /run/alive) -gt $now")

    guest.run("systemctl stop limits")
    guest.run(f"echo 1 > {first['survivor'][0]}/cgroup.kill; rm -rf /run/life")
    guest.until("! systemctl list-units --all --plain --no-legend 'paddock-tasks-*' | grep .")


def _expect(told: dict[str, Any]) -> None:
    """Killed whole by its memory limit, daemons included; no more processes than allowed; its share of time."""
    assert told["hog"][:2] == [None, 9]
    assert told["hog"][2] >= 1
    assert told["daemon"][2] >= 1
    assert told["small"][:3] == [3, None, 0]
    assert told["forks"][0] != 0
    assert "fork" in told["forks"][3].lower()
    assert told["slow"][3].strip() == "25000 100000"
    assert "paddock-tasks-" in told["plain"][3]
    assert told["survivor"][1] == str(64 << 20)
