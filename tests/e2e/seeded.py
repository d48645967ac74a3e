"""A machine of an image that has cloud-init, booted with its seed: both it and our agent know who it is."""

from datetime import timedelta
from pathlib import Path

from paddock.agent.cables import shapes
from paddock.agent.skills.hypervisor import identities, keys, nocloud, planting
from paddock.agent.skills.hypervisor.disks.files import Files
from paddock.agent.skills.hypervisor.drivers.qemu import Qemu
from paddock.agent.skills.hypervisor.inside import Channels
from paddock.agent.skills.hypervisor.ports import Card, Plan
from paddock.core.image import Image
from paddock.core.machine import uniform
from paddock.wire.specs import MachineSpec, Peer

LIMIT = timedelta(minutes=10)
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


async def assert_both_know_it(driver: Qemu, disks: Files, volume: Path, directory: Path, *, instance: str) -> None:
    """Boot a clone of an image in this empty directory, and ask inside."""
    name = uniform(instance, "lab-1", "web")
    host, login = await keys.pair("web"), await keys.pair("lab-1")
    cards = (shapes.Card(mac=CARD.mac, address=CARD.address),)
    facts = shapes.Facts(name=name, hostname="web", cards=cards, keys=(login.public,))
    planting.plant(directory / "seed", nocloud.files(facts, fence=7))
    await disks.clone(volume, directory / "disks")
    plan = Plan(
        name=name,
        directory=directory,
        memory=512 * MIB,
        vcpus=1,
        disks=await disks.disks(directory / "disks"),
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
    said = list[bytes]()
    try:
        await driver.boot(plan)
        async with Channels().inside(directory) as inside:
            await inside.parked(LIMIT)
            await inside.wake(wake, LIMIT)
            assert await inside.run(ASK, interpreter="/bin/sh", env={}, limit=LIMIT, output=said.append) == 0
    finally:
        await driver.end(directory, name)
        await disks.remove(directory / "disks")

    told = dict(line.split("=", 1) for line in b"".join(said).decode().splitlines())
    assert told == {
        "instance": f"{name}.7",
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
