"""A real guest is parked and woken: it is who its host says, at once, and forgets it again."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from paddock.agent.skills.hypervisor import keys
from paddock.agent.skills.hypervisor.inside import Inside
from paddock.wire.specs import Peer, Wake
from tests.e2e.guest import CHANNEL, Guest
from tools.guest import Image

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

T = TypeVar("T")
UNIT = "paddock-agent"
STATE = "/opt/paddock-agent/state"
LIMIT = timedelta(seconds=90)
MAC = "52:54:00:12:34:56"
"""QEMU's own, of the first card."""
ADDRESS = "192.168.80.10/24"


@pytest.fixture(scope="module")
def guest(guest_image: Image, archive: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(tmp_path_factory.mktemp("park") / "guest", guest_image) as made:
        made.start()
        made.write("/root/paddock-agent.pyz", archive.read_bytes())
        line = f"virtio:/dev/virtio-ports/{CHANNEL}"
        made.run(f"python3 /root/paddock-agent.pyz configure --line {line} --parked", limit=120)
        made.run(f"systemctl start {UNIT}", limit=60)
        yield made


def do(act: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(act)


def wake(number: int, **other: Any) -> Wake:
    told: dict[str, Any] = {
        "agent": f"lab-{number}.web",
        "environment": f"lab-{number}",
        "machine": "web",
        "fence": number,
        "hostname": f"web-{number}",
        "machine_id": f"{number:032x}",
        "wake_id": f"wake-{number}",
        "time": datetime.now(UTC),
        "entropy": bytes(range(256)),
    }
    return Wake(**told | other)


async def woken(guest: Guest, told: Wake) -> str:
    """Its boot id, as it says itself in hello; the host leaves then."""
    inside = Inside(guest.channel)
    try:
        await inside.parked(LIMIT)
        boot = await inside.wake(told, LIMIT)
        hello = await inside.hello(LIMIT)
        assert (hello.boot_id, hello.facts.hostname, hello.fences) == (
            boot,
            told.hostname,
            {told.environment: told.fence},
        )
        # The second step is over once a command that may change something ran.
        assert await inside.run("true", interpreter="/bin/sh -e", env={}, limit=LIMIT) == 0
        return boot
    finally:
        await inside.close()


async def parked(guest: Guest, *, power_off: bool = False) -> None:
    inside = Inside(guest.channel)
    try:
        await inside.park(LIMIT, power_off=power_off)
    finally:
        await inside.close()


def test_it_becomes_who_its_host_says(guest: Guest) -> None:
    guest.run("rm -f /etc/ssh/ssh_host_*; date -s '2020-01-01' > /dev/null")
    card = guest.run("basename $(readlink -f /sys/class/net/en*/device/..)")
    guest.run(f"echo 1 > /sys/bus/pci/devices/{card}/remove")
    assert guest.run("ls /sys/class/net") == "lo", "as in a fork that got its cards unnoticed"
    host, login = do(keys.pair("web")), do(keys.pair("login"))
    told = wake(
        1,
        host_keys={"ssh_host_ed25519_key": host.private, "ssh_host_ed25519_key.pub": f"{host.public}\n"},
        authorized_keys=(login.public,),
        login_key=login.private,
        macs=(MAC,),
        addresses=(ADDRESS,),
        peers=(Peer(machine="db", addresses=("192.168.80.11/24",)),),
        env={"http_proxy": "http://10.0.2.100:3128"},
        restart=("ssh.service",),
    )
    boot = do(woken(guest, told))
    assert boot == f"{guest.boot_id}+wake-1"
    assert guest.run("hostname; cat /etc/hostname /etc/machine-id").split() == ["web-1", "web-1", f"{1:032x}"]
    assert abs(float(guest.run("date +%s")) - time.time()) < 30
    assert guest.run("getent hosts db").split() == ["192.168.80.11", "db"]
    assert ADDRESS in guest.run("ip -br -4 addr show up")
    assert host.public.split()[1] in guest.run("ssh-keyscan -t ed25519 127.0.0.1 2> /dev/null")
    inside = "ssh -i /root/.ssh/paddock -o StrictHostKeyChecking=no -o BatchMode=yes root@127.0.0.1 printenv http_proxy"
    assert guest.run(inside).splitlines()[-1] == "http://10.0.2.100:3128"


def test_after_a_reboot_it_is_the_same_under_another_boot_id(guest: Guest) -> None:
    former = guest.boot_id
    booted = guest.reboot()
    assert booted != former

    async def heard() -> str:
        inside = Inside(guest.channel)
        try:
            return (await inside.hello(LIMIT)).boot_id
        finally:
            await inside.close()

    assert do(heard()) == f"{booted}+wake-1"
    guest.until(f"ip -br -4 addr show up | grep -q {ADDRESS}")
    assert guest.run("hostname") == "web-1"


def test_parked_it_is_nobody_and_woken_again_somebody_else(guest: Guest) -> None:
    pid = guest.run(f"systemctl show -P MainPID {UNIT}")
    guest.run("date -s '2020-01-01' > /dev/null")
    do(parked(guest))
    boot = do(woken(guest, wake(2)))
    assert boot == f"{guest.boot_id}+wake-2"
    assert guest.run(f"systemctl show -P MainPID {UNIT}") == pid, "it is the same process"
    assert guest.run("cat /etc/hostname /etc/machine-id").split() == ["web-2", f"{2:032x}"]
    assert abs(float(guest.run("date +%s")) - time.time()) < 30
    assert guest.run("ls /etc/ssh/ssh_host_* /root/.ssh/paddock /etc/systemd/network/05-* 2> /dev/null || true") == ""
    assert "web-1" not in guest.run(f"cat /etc/hosts /etc/environment {STATE}/woken.json 2> /dev/null || true")


def test_the_host_that_comes_is_noticed_at_once(guest: Guest) -> None:
    """What a relay takes over from whoever woke the guest is said on a new session without a pause."""

    async def comes() -> float:
        inside = Inside(guest.channel)
        began = time.monotonic()
        try:
            await inside.hello(LIMIT)
            return time.monotonic() - began
        finally:
            await inside.close()

    async def several() -> list[float]:
        found = []
        for _ in range(3):
            found.append(await comes())
            # It sees that nobody is there: only then it has to be told of the next one.
            await asyncio.sleep(1.2)
        return found

    took = do(several())
    assert min(took) < 0.25, took


def test_a_guest_that_is_to_go_off_is_off(guest: Guest) -> None:
    do(parked(guest, power_off=True))
    assert guest._process is not None
    guest._process.wait(60)
    guest.kill()
