"""A tiny guest for tests of drivers: it answers lines on its channel, one second after its start.

`count` counts what it has been asked since it booted, `store WORD` and `stored` use its first disk, `disks` lists
them with their serials, `cards` looks at its bus again and lists addresses, `seed FILE` reads the disk `cidata`,
`label` is what that is called, `say WORD` writes to its console, `heard` reads from it, `uuid` is its firmware's,
`cpus` counts processors, `reboot` and `off` do so.
"""

import hashlib
from pathlib import Path

from paddock.agent.skills.hypervisor.errands import kernel
from paddock.agent.skills.hypervisor.errands.cpio import Archive
from paddock.core.errors import PaddockError
from tools.maven import Unavailable, cache

MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "virtio_rng"),
    *("vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"),
)
CMDLINE = "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off"
INIT = r"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for module in MODULES; do insmod /modules/$module 2>/dev/null; done
until [ -e /dev/vport0p1 ] || [ -e /dev/vport1p1 ] || [ -e /dev/vport2p1 ]; do sleep 0.02; done
port=$(ls /dev/vport?p1)
echo "tiny is up" > /dev/console
count=0
seed_drive() { echo /dev/$(grep -lx cidata /sys/block/vd*/serial | cut -d/ -f4)1; }
answer() {
    case $1 in
    count) count=$((count + 1)); echo $count ;;
    store) printf '%s\n' "$2" | dd of=/dev/vda bs=512 conv=notrunc,sync,fsync 2>/dev/null; echo stored ;;
    stored) echo $(head -n 1 /dev/vda) ;;
    disks) for disk in /sys/block/vd*; do echo -n "$(cat $disk/serial)=$(cat $disk/size) "; done; echo ;;
    cards) echo 1 > /sys/bus/pci/rescan; echo $(cat /sys/class/net/e*/address) ;;
    seed) mount -t vfat -o ro $(seed_drive) /mnt && echo $(cat /mnt/$2); umount /mnt ;;
    label) echo $(dd if=$(seed_drive) bs=1 skip=43 count=11 2>/dev/null) ;;
    say) echo "$2" > /dev/console; echo said ;;
    heard) read -r line < /dev/ttyS0; echo "$line" ;;
    uuid) cat /sys/class/dmi/id/product_uuid ;;
    cpus) grep -c ^processor /proc/cpuinfo ;;
    reboot) sync; reboot -f ;;
    off) sync; poweroff -f ;;
    *) echo "what is $1" ;;
    esac
}
exec 3<>$port
while true; do
    if read -r line <&3; then answer $line >&3; else sleep 0.02; fi
done
"""


def start() -> tuple[Path, Path]:
    """Its kernel and its initrd, made once. `Unavailable` where this machine has not what it is made of."""
    try:
        found = kernel.find()
        busybox = kernel.busybox()
    except PaddockError as exc:
        raise Unavailable(f"tiny: {exc.message}; {exc.hint}") from exc
    archive, names = Archive(), []
    for name, content in found.files(MODULES):
        archive.file(f"modules/{name}", content)
        names.append(name)
    archive.file("bin/busybox", busybox, mode=0o755)
    archive.file("init", INIT.replace("MODULES", " ".join(names)).encode(), mode=0o755)
    content = archive.content()
    made = cache(".").resolve() / f"tiny-{hashlib.sha256(content).hexdigest()[:12]}"
    if not made.exists():
        draft = made.with_name(f"{made.name}.new")
        draft.write_bytes(content)
        draft.rename(made)
    return found.image, made
