"""Puts the agent into an image without cloud-init, by the helper machine.

The helper mounts the disk and copies an installed agent into the system on it.

Effects: idempotent; the same files again. A disk that it was killed at is thrown away by whoever made it.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from paddock.agent.bundle.bundled import ARCHIVE
from paddock.agent.conf import Conf
from paddock.agent.setup import installing, placing
from paddock.agent.setup.installing import Wanted
from paddock.agent.skills.hypervisor.errands import machine
from paddock.agent.skills.hypervisor.errands.cpio import Archive
from paddock.agent.skills.hypervisor.errands.machine import Work
from paddock.agent.skills.hypervisor.ports import SYSTEM, Disks, Driver
from paddock.core.errors import Missing
from paddock.core.machine import uniform

LINE = "virtio:/dev/virtio-ports/org.paddock.0"
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "crc32c_intel", "ext4", "xfs", "btrfs")
_PAYLOAD = Path("/payload")
_SCRIPT = r"""
tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1)); [ $tries -gt 500 ] && refuse "its disk does not appear"; sleep 0.02
done
there() { for one; do if [ -e "$one" ] || [ -L "$one" ]; then return 0; fi; done; return 1; }
is_system() {
    there "$1/etc/os-release" "$1/usr/lib/os-release" &&
        there "$1/sbin/init" "$1/usr/sbin/init" "$1/lib/systemd/systemd" "$1/usr/lib/systemd/systemd"
}
# Mounts it, and says where in it an operating system is: btrfs may keep one in a subvolume.
find_system() {
    for way in "ext4 ro" "xfs ro" "btrfs ro" "btrfs ro,subvolid=5"; do
        mount -t ${way% *} -o ${way#* } $1 /disk 2>/dev/null || continue
        for top in /disk /disk/@ /disk/@rootfs /disk/root; do is_system $top && return 0; done
        umount /disk
    done
    return 1
}
put() {
    there $top/lib/systemd/systemd $top/usr/lib/systemd/systemd || refuse "$name: its system is not run by systemd"
    there $top/usr/bin/python3 || refuse "$name: it has no python3, which the agent needs"
    mount -o remount,rw /disk 2>/dev/null || refuse "$name: its file system cannot be written to"
    said=$(cp -af /payload/. $top/ 2>&1) || refuse "$name: the agent does not go in: $(echo $said | head -c 200)"
    # Files that come without labels are labelled by the system itself, at its next start.
    grep -qs '^SELINUX=enforcing' $top/etc/selinux/config && touch $top/.autorelabel
    umount /disk && end done
    refuse "$name: its file system is not closed"
}
bytes() { dd if=$1 bs=1 skip=$2 count=$3 2>/dev/null; }
# For a person to read: why nobody looked into it.
kind() {
    [ "$(bytes $1 0 4)" = LUKS ] && echo LUKS && return
    [ "$(bytes $1 512 8)" = LABELONE ] && echo LVM && return
    [ "$(bytes $1 0 4)" = XFSB ] && echo xfs && return
    [ "$(bytes $1 65600 8)" = _BHRfS_M ] && echo btrfs && return
    [ "$(bytes $1 82 3)" = FAT ] || [ "$(bytes $1 54 3)" = FAT ] && echo vfat && return
    [ "$(bytes $1 1080 2 | od -An -tx1 | tr -d ' ')" = 53ef ] && echo ext && return
    echo unknown
}
mkdir -p /disk
seen=
for place in /sys/block/vda/vda[0-9]* /sys/block/vda; do
    name=${place##*/}
    [ -b /dev/$name ] || continue
    find_system /dev/$name && put
    seen="$seen $name ($(kind /dev/$name))"
done
refuse "no operating system is found on its disk, only$seen"
"""


class Helper:
    """The helper machine of this host. `archive` gives the agent as one file."""

    def __init__(self, driver: Driver, disks: Disks, *, instance: str, archive: Callable[[], bytes]) -> None:
        self._driver = driver
        self._disks = disks
        self._instance = instance
        self._archive = archive

    async def put_agent(self, volume: Path, *, directory: Path, limit: timedelta) -> None:
        """It is in the root file system of the volume's system disk, and starts with it. Its machine lives below
        `directory`. Broken, with the helper's words, if there is no root file system, or nothing can go into it.
        """
        disk = next((one for one in await self._disks.disks(volume) if one.name == SYSTEM), None)
        if disk is None:
            raise Missing(f"{volume.name}: has no system disk")
        work = Work(script=_SCRIPT, modules=MODULES, payload=await asyncio.to_thread(self._payload))
        await machine.run(
            self._driver,
            work,
            name=uniform(self._instance, "helper", directory.name),
            directory=directory / "helper",
            disks=[disk],
            limit=limit,
        )

    def _payload(self) -> Archive:
        return payload(self._archive())


def payload(archive: bytes) -> Archive:
    """An installed agent as it would install itself, below /payload: program, configuration, and a unit that is on."""
    changes = {
        ("connection", "line"): LINE,
        ("connection", "parked"): "yes",
        ("service", "on-boot"): "yes",
        ("system", "user"): "root",
    }
    wanted = Wanted(conf=Conf.fresh().put(changes), root=_PAYLOAD, program=(ARCHIVE, archive))
    made = Archive()
    for thing in installing.plan(wanted):
        name = str(thing.path.relative_to("/"))
        match thing:
            case placing.Directory():
                made.directory(name, mode=thing.mode)
            case placing.File():
                made.file(name, thing.content, mode=thing.mode)
            case placing.Link():
                made.link(name, thing.target)
            case placing.Absent():
                raise AssertionError("nothing is removed from where nothing was")
    return made
