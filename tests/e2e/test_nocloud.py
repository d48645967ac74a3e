"""A real cloud-init in a machine that boots: it takes the seed for its own, and nothing that the agent sees to."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from paddock.agent.cables import shapes
from paddock.agent.skills.hypervisor import nocloud, planting
from paddock.agent.skills.hypervisor.drivers.qemu import Qemu
from paddock.agent.skills.hypervisor.ports import SYSTEM, Card, Disk, Plan
from paddock.hands.lines import reachable
from tools import cloudimage, guest
from tools.maven import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = timedelta(minutes=10)
INSTANCE = "0c0ffee1"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0 lab-1"
MAC, ADDRESS = "52:54:00:12:34:56", "192.168.80.10/24"
TELL = """\
exec > /dev/ttyS0 2>&1
echo
echo "instance=$(cat /var/lib/cloud/data/instance-id)"
echo "source=$(cut -d: -f2 /var/lib/cloud/instance/datasource)"
echo "name=$(hostname)"
echo "logins=$(cat /root/.ssh/authorized_keys)"
echo "host keys=$(ls /etc/ssh | grep -c ssh_host)"
echo "peers=$(grep -c 192.168.80.11 /etc/hosts)"
echo "networks=$(grep -l {mac} /etc/systemd/network/*cloud-init*)"
echo "addresses=$(grep -h Address={address} /etc/systemd/network/*cloud-init*)"
echo "invalid=$(grep -c 'Invalid cloud-config' /var/log/cloud-init.log)"
echo over
"""
"""What its cloud-init runs last, and what became of all else by then."""
EXPECTED = {
    "instance": f"paddock-{INSTANCE}-lab-1-web.7",
    "source": " DataSourceNoCloud [seed=/dev/vdb1][dsmode=net]",
    "name": "web",
    "logins": KEY,
    "host keys": "0",
    "peers": "1",
    "networks": "/etc/systemd/network/10-cloud-init-enp0s16.network",
    "addresses": f"Address={ADDRESS}",
    "invalid": "0",
}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    try:
        source = cloudimage.image()
    except Unavailable as exc:
        pytest.skip(str(exc))
    place = tmp_path / "system.qcow2"
    guest.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(source), str(place))
    return Disk(name=SYSTEM, path=place, format="qcow2")


async def test_cloud_init_is_who_the_seed_says(disk: Disk, tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    directory.mkdir(mode=0o700)
    name = f"paddock-{INSTANCE}-lab-1-web"
    told = {
        "bootcmd": ["echo 192.168.80.11 db >> /etc/hosts"],
        "runcmd": [["sh", "-c", TELL.format(mac=MAC, address=ADDRESS)]],
    }
    facts = shapes.Facts(
        name=name,
        hostname="web",
        cards=(shapes.Card(mac=MAC, address=ADDRESS),),
        keys=(KEY,),
        user_data="#cloud-config\n" + yaml.safe_dump(told),
    )
    planting.plant(directory / "seed", nocloud.files(facts, fence=7))
    plan = Plan(
        name=name,
        directory=directory,
        memory=512 << 20,
        vcpus=1,
        disks=[disk],
        cards=[Card(mac=MAC, netdev="", address=ADDRESS)],
        seed=directory / "seed",
    )
    driver = Qemu(tmp_path, instance=INSTANCE)
    try:
        await driver.boot(plan)
        said = await _said(directory)
    finally:
        await driver.end(directory, name)

    assert {name: said[name] for name in said if name in EXPECTED} == EXPECTED


async def _said(directory: Path) -> dict[str, str]:
    """What its serial line says until its commands are over: what stands behind each name."""
    with reachable(directory / "console") as address:
        reader, writer = await asyncio.open_unix_connection(address)
    said: dict[str, str] = {}
    try:
        async with asyncio.timeout(LIMIT.total_seconds()):
            while line := await reader.readline():
                name, _, value = line.decode("utf-8", "replace").strip().partition("=")
                said[name] = value
                if name == "over":
                    break
    finally:
        writer.close()
    return said
