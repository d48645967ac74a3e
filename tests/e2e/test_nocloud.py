"""A real cloud-init and our agent in one machine that boots: both know who it is, and neither undoes the other's."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from paddock.agent.bundle import bundling
from paddock.agent.bundle.bundled import ARCHIVE
from paddock.agent.cables import shapes
from paddock.agent.skills.hypervisor import identities, keys, nocloud, planting
from paddock.agent.skills.hypervisor.drivers.qemu import Qemu
from paddock.agent.skills.hypervisor.images import seeding
from paddock.agent.skills.hypervisor.inside import Channels
from paddock.agent.skills.hypervisor.ports import SYSTEM, Card, Disk, Plan
from paddock.core.image import Image
from paddock.wire.specs import MachineSpec, Peer
from tools import cloudimage, guest
from tools.maven import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

LIMIT = timedelta(minutes=10)
INSTANCE = "0c0ffee1"
NAME = f"paddock-{INSTANCE}-lab-1-web"
MIB = 1 << 20
CARD = Card(mac="52:54:00:12:34:56", netdev="", address="192.168.80.10/24")
ASK = """\
cloud-init status --wait > /dev/null || true
echo "instance=$(cat /var/lib/cloud/data/instance-id)"
echo "source=$(cut -d: -f2 /var/lib/cloud/instance/datasource)"
echo "invalid=$(grep -c 'Invalid cloud-config' /var/log/cloud-init.log)"
echo "name=$(hostname) $(cat /etc/hostname)"
echo "logins=$(grep -c ssh-ed25519 /root/.ssh/authorized_keys) $(grep -v '^#' /root/.ssh/authorized_keys | sort -u)"
echo "hosts=$(grep -c ' db$' /etc/hosts)"
echo "host keys=$(ls /etc/ssh | grep ssh_host | tr '\\n' ' ')"
echo "host key=$(cat /etc/ssh/ssh_host_ed25519_key.pub)"
echo "machine=$(cat /etc/machine-id)"
echo "addresses=$(grep -h ^Address= /etc/systemd/network/*cloud-init* /etc/systemd/network/*paddock* | sort -u)"
echo "disks=$(cd /sys/block && echo vd*)"
"""


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    try:
        source = cloudimage.image()
    except Unavailable as exc:
        pytest.skip(str(exc))
    place = tmp_path / "system.qcow2"
    guest.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(source), str(place))
    return Disk(name=SYSTEM, path=place, format="qcow2")


async def test_cloud_init_and_the_agent_know_the_same_machine(disk: Disk, tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    directory.mkdir(mode=0o700)
    host, login = await keys.pair("web"), await keys.pair("lab-1")
    # In an image of ours the agent is there already; here it comes by what a host's own user data can do.
    user_data = "#cloud-config\n" + json.dumps({"runcmd": [["sh", "-c", seeding.install()]]})
    facts = shapes.Facts(
        name=NAME,
        hostname="web",
        cards=(shapes.Card(mac=CARD.mac, address=CARD.address),),
        keys=(login.public,),
        user_data=user_data,
    )
    planting.plant(directory / "seed", {**nocloud.files(facts, fence=7), ARCHIVE: bundling.archive()})
    plan = Plan(
        name=NAME,
        directory=directory,
        memory=512 * MIB,
        vcpus=1,
        disks=[disk],
        cards=[CARD],
        seed=directory / "seed",
    )
    peers = (Peer(machine="db", addresses=("192.168.80.11/24",)),)
    wake = identities.of_machine(
        environment="lab-1",
        machine="web",
        fence=7,
        spec=MachineSpec(image=(Image(name="cloud", path="/srv/cloud"),), memory=512 * MIB, peers=peers),
        cards=plan.cards,
        host=host,
        login=login,
        env={},
    )
    driver, said = Qemu(tmp_path, instance=INSTANCE), list[bytes]()
    try:
        await driver.boot(plan)
        async with Channels().inside(directory) as inside:
            await inside.parked(LIMIT)
            await inside.wake(wake, LIMIT)
            assert await inside.run(ASK, interpreter="/bin/sh", env={}, limit=LIMIT, output=said.append) == 0
    finally:
        await driver.end(directory, NAME)

    told = dict(line.split("=", 1) for line in b"".join(said).decode().splitlines())
    assert told == {
        "instance": f"{NAME}.7",
        "source": " DataSourceNoCloud [seed=/dev/vdb1][dsmode=net]",
        "invalid": "0",
        "name": "web web",
        "logins": f"2 {login.public}",  # each has written it, and the agent's are marked as such
        "hosts": "1",
        "host keys": "ssh_host_ed25519_key ssh_host_ed25519_key.pub ",
        "host key": host.public,
        "machine": wake.machine_id,
        "addresses": f"Address={CARD.address}",
        "disks": "vda vdb",
    }
