"""What a host of virtual machines needs: looked for on this machine, with what mends it.

Effects: none but files that are gone again, where the disks of machines would lie.
"""

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paddock.cli.check import BROKEN, NOTE, OK, Check

if TYPE_CHECKING:
    from paddock.agent.conf import Conf
    from paddock.agent.settings import Hypervisor
    from paddock.agent.skills.hypervisor.layout import Layout

OLDEST = (7, 2)
"""The first QEMU whose cards speak over unix sockets as streams."""
_EMULATOR = "qemu-system-x86_64"
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_LEAST_ROOM = 4 << 30
_LEAST_MEMORY = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a host's agent is told, and where its machines lie. `lack` is what something missing means here."""

    chosen: "Hypervisor"
    layout: "Layout"
    lack: str


def examine(conf: Path | None) -> Iterator[Check]:
    """One line where this machine is no such host and cannot be one as it is; else all of them."""
    known, trouble = _conf(conf)
    if trouble is not None:
        yield trouble
    is_host = known is not None and "hypervisor" in known.skills
    if not is_host and shutil.which(_EMULATOR, path=_PATH) is None:
        yield Check(
            name="machines",
            state=NOTE,
            found=f"no virtual machines here: there is no {_EMULATOR}",
            mend="apt-get install qemu-system-x86 qemu-utils openssh-client, for the skill hypervisor",
        )
        return
    place = _place(known, lack=BROKEN if is_host else NOTE)
    yield _emulator(place)
    yield from _programs(place)
    yield _helper()
    yield _accelerator(place)
    yield _disks(place)
    if place.chosen.networks == "rooted":
        yield _networks(place)
    yield _room(place)


def _conf(path: Path | None) -> "tuple[Conf | None, Check | None]":
    from paddock.agent import conf
    from paddock.core.errors import PaddockError

    where = path or conf.usual()
    if path is None and not conf.is_there(where):
        return None, None
    try:
        return conf.Conf.load(where), None
    except PaddockError as exc:
        state = NOTE if path is None else BROKEN
        return None, Check(name="agent.conf", state=state, found=exc.message, mend=exc.hint)


def _place(known: "Conf | None", *, lack: str) -> Place:
    from paddock.agent.settings import Hypervisor
    from paddock.agent.skills.hypervisor.layout import Layout

    chosen = Hypervisor.read(known.section("hypervisor")) if known is not None else Hypervisor()
    state = known.state if known is not None else Path.cwd()
    return Place(chosen=chosen, layout=Layout.of(chosen.storage or state / "hypervisor"), lack=lack)


def _emulator(place: Place) -> Check:
    if platform.machine() != "x86_64":
        other = f"machines are x86_64, and this is {platform.machine()}"
        return Check(name="qemu", state=place.lack, found=other, mend="another host")
    found = shutil.which(_EMULATOR, path=_PATH)
    if found is None:
        mend = "apt-get install qemu-system-x86"
        return Check(name="qemu", state=place.lack, found=f"there is no {_EMULATOR}", mend=mend)
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)\S*", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST:
        what = version[0] if version is not None else "of an unknown version"
        mend = f"QEMU {'.'.join(map(str, OLDEST))} or newer, as in Debian 12"
        return Check(name="qemu", state=place.lack, found=f"{found}, {what}", mend=mend)
    return Check(name="qemu", state=OK, found=f"{found}, {version[0]}")


def _programs(place: Place) -> Iterator[Check]:
    """What is run beside QEMU; without the first no machine is made, the others are for some images only."""
    for name, state, why, package in (
        ("ssh-keygen", place.lack, "machines get their host keys from it", "openssh-client"),
        ("qemu-img", NOTE, "images that are qcow2 files are read with it", "qemu-utils"),
        ("zstd", NOTE, "images that are packed by it, and modules of some kernels", "zstd"),
    ):
        program = shutil.which(name, path=_PATH)
        if program is not None:
            yield Check(name=name, state=OK, found=program)
        else:
            yield Check(name=name, state=state, found=f"not found: {why}", mend=f"apt-get install {package}")


def _helper() -> Check:
    """The kernel and the busybox of our own small machines."""
    from paddock.agent.skills.hypervisor.errands import kernel
    from paddock.core.errors import PaddockError

    try:
        found = kernel.find()
        kernel.busybox()
    except (PaddockError, OSError) as exc:
        said, mend = (exc.message, exc.hint) if isinstance(exc, PaddockError) else (str(exc), "")
        lack = f"{said}: no images without cloud-init, and KVM is not tried"
        return Check(name="helper machine", state=NOTE, found=lack, mend=mend)
    return Check(name="helper machine", state=OK, found=f"it boots {found.image}")


def _accelerator(place: Place) -> Check:
    """What machines run with; only a guest that was booted tells whether KVM is any good."""
    from paddock.agent.skills.hypervisor.drivers.qemu import accel

    slow = "machines run in TCG, which is some ten times slower"
    closed = accel.closed()
    if place.chosen.accel == "tcg":
        return Check(name="kvm", state=OK, found="not wanted: accel = tcg")
    if closed:
        state = place.lack if place.chosen.accel == "kvm" else NOTE
        mend = (
            "" if "may not" not in closed else f"usermod -aG kvm USER, then log in anew ({accel.DEVICE} is the group's)"
        )
        return Check(name="kvm", state=state, found=f"{closed}: {slow}", mend=mend)
    known = _tried(place.layout.root / accel.FILE)
    if known.get("name") == "tcg":
        return Check(name="kvm", state=NOTE, found=f"tried, and no good here: {known.get('why', '')}: {slow}")
    tried = "a guest of ours ran with it" if known else "tried when the first machine starts"
    return Check(name="kvm", state=OK, found=f"{accel.DEVICE} opens; {tried}")


def _tried(file: Path) -> dict[str, str]:
    try:
        said = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _disks(place: Place) -> Check:
    """The kind of disks that this storage gives, or why the one that was chosen cannot be."""
    from paddock.core.errors import PaddockError

    where = _nearest(place.layout.root)
    if not os.access(where, os.W_OK):
        found = f"{where} may not be written to by this user"
        return Check(name="disks", state=NOTE, found=found, mend="sudo paddock doctor, or [hypervisor] storage")
    try:
        kind = _kind(place.chosen.disks, where)
    except (PaddockError, OSError) as exc:
        said, mend = (exc.message, exc.hint) if isinstance(exc, PaddockError) else (str(exc), "")
        return Check(name="disks", state=place.lack, found=f"{place.chosen.disks}: {said}", mend=mend)
    why = ": its file system shares no blocks, as XFS, btrfs and ZFS do" if kind == "qcow2" else ""
    return Check(name="disks", state=OK, found=f"{kind} at {where}{why}")


def _kind(wanted: str, where: Path) -> str:
    from paddock.agent.skills.hypervisor import disks
    from paddock.agent.skills.hypervisor.disks.zfs import dataset_at
    from paddock.core.errors import Refused

    # A look at ZFS is one at the mounts: its own check tidies up, which is the agent's to do.
    is_zfs = bool(dataset_at(where.resolve(), Path("/proc/self/mounts").read_text()))
    for name in disks.NAMES if wanted == "auto" else (wanted,):
        if name == "zfs":
            if is_zfs and os.geteuid() == 0 and shutil.which("zfs", path=_PATH):
                return name
            refused = Refused(f"{where}: does not lie on ZFS, or this is not root, or there is no zfs")
        else:
            try:
                asyncio.run(disks.named(name, where).check())
            except Refused as exc:
                refused = exc
            else:
                return name
    raise refused


def _nearest(place: Path) -> Path:
    """The directory itself, or where it would be made."""
    return next(one for one in (place, *place.parents) if one.is_dir())


def _networks(place: Place) -> Check:
    from paddock.agent.skills.hypervisor.networks import namespace
    from paddock.core.errors import PaddockError

    try:
        namespace.check()
    except PaddockError as exc:
        return Check(name="networks", state=place.lack, found=exc.message, mend=exc.hint)
    allowed = f"; bridges of the host: {', '.join(place.chosen.bridges)}" if place.chosen.bridges else ""
    return Check(name="networks", state=OK, found=f"rooted: namespaces, dnsmasq, nft{allowed}")


def _room(place: Place) -> Check:
    """What may be booked here, unless the server's configuration says less."""
    from paddock.agent.skills.hypervisor.figures import figures
    from paddock.cli.sizes import spell

    has = figures(place.chosen, place.layout)
    told = f"memory {spell(has.memory)}, vcpus {has.vcpus}, disk {spell(has.disk)} may be booked"
    if has.memory < _LEAST_MEMORY or has.disk < _LEAST_ROOM:
        mend = "a larger host, or [hypervisor] storage on a larger disk"
        return Check(name="room", state=place.lack, found=f"{told}: too little for a machine or two", mend=mend)
    return Check(name="room", state=OK, found=told)
