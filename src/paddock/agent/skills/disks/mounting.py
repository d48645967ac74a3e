"""Mounts and unmounts file systems, now and at each boot.

Effects: idempotent; mounted first and written into fstab then, unmounted first and taken out of it then: after a kill
the same command does the rest, and no boot waits for what was never mounted.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills import tools
from paddock.agent.skills.disks import devices, probing, tables
from paddock.agent.skills.disks.devices import Device, Mount
from paddock.agent.skills.skill import Call
from paddock.core.errors import Broken, Missing, PaddockError, Refused
from paddock.hands import faults, trees
from paddock.wire.framing import JSON
from paddock.wire.messages import Code

_OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:=@/+%-]*")
_NO_PLACES = devices.SYSTEM_PLACES | frozenset(
    Path(path) for path in "/bin /dev /lib /lib64 /proc /root /run /sbin /sys /tmp /var/lib /var/log /var/tmp".split()
)
_FILE_SYSTEMS = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "f2fs", "iso9660", "udf", "squashfs"))
_BUSY = 32
_SHOWN = 10


class Busy(Refused):
    """Somebody uses it."""


def mount(call: Call) -> Outcome:
    """Where the file system is mounted, and what was changed for that."""
    device = devices.find(call.text("device"))
    place = _place(call.text("path"))
    options = call.texts("options") or ("defaults", "nofail")
    for option in options:
        if not _OPTION.fullmatch(option):
            raise Refused(f"option {option!r}: is none; each of them stands alone")
    found = probing.signature(device.path)
    if found is None or found.kind not in _FILE_SYSTEMS or not found.uuid:
        raise Refused(f"{device.path}: holds {found or 'nothing'}, which cannot be mounted by its UUID")
    persist = call.params.get("persist") is not False
    fields = [f"UUID={found.uuid}", str(place), found.kind, ",".join(options), "0", _pass(found.kind)]
    known = tables.entry(tables.read(tables.FSTAB), column=1, value=str(place))
    if persist and known is not None and not _is_same(known[0], found.uuid, device):
        raise Refused(f"{place}: fstab has {known[0]} there", hint="disk.unmount it first")
    here = _mounted_at(place)
    is_mounted = here is not None and here in devices.mounted_on(device)
    if here is not None and not is_mounted:
        raise Refused(f"{place}: {here.source} is mounted there")
    changed: list[str] = []
    if not is_mounted:
        _make(place)
        live = [option for option in options if not option.startswith(("x-", "nofail", "noauto", "comment="))]
        tools.run("mount", "-t", found.kind, "-o", ",".join(live or ["defaults"]), "--", device.path, str(place))
        changed.append("mounted")
        faults.at("disk.mounted")
    if persist and tables.change(tables.FSTAB, lambda text: tables.with_entry(text, fields, column=1)):
        changed.append("fstab")
        _tell_systemd()
    result: dict[str, JSON] = {
        "device": device.path,
        "path": str(place),
        "uuid": found.uuid,
        "fs": found.kind,
        "changed": list[JSON](changed),
    }
    return Outcome(result=result)


def unmount(call: Call) -> Outcome:
    """It is mounted there no more, neither now nor at the next boot. `busy`, naming who uses it, if it cannot be."""
    place = _place(call.text("path"))
    changed: list[str] = []
    while (here := _mounted_at(place)) is not None:
        try:
            detach(here.target)
        except Busy as exc:
            return Outcome(code=Code.BUSY, msg=exc.message)
        changed = ["unmounted"]
        faults.at("disk.unmounted")
    if call.params.get("persist") is not False and tables.change(
        tables.FSTAB, lambda text: tables.without_entry(text, column=1, value=str(place))
    ):
        changed.append("fstab")
        _tell_systemd()
    return Outcome(result={"path": str(place), "changed": list[JSON](changed)})


def detach(target: str) -> None:
    """Unmount what lies uppermost there. Busy, naming who uses it; nothing is forced and nothing is left for later."""
    if Path(target) in _NO_PLACES:
        raise Refused(f"{target}: the system lives there")
    ran = tools.attempt("umount", "--", target, limit=300)
    if ran.code == 0:
        return
    users = users_of(target)
    if ran.code == _BUSY and users:
        shown = ", ".join(users[:_SHOWN]) + (f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else "")
        raise Busy(f"{target}: is used by {shown}")
    if ran.code == _BUSY and "busy" in ran.last_words:
        raise Busy(f"{target}: is busy, and nobody that we see uses it: a mount below, or another namespace")
    raise Broken(f"{target}: {ran.last_words}")


def users_of(target: str) -> list[str]:
    """Processes with a directory, a program or an open file there: `pid (name)`."""
    try:
        wanted = os.stat(target).st_dev
    except OSError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and _uses(Path("/proc") / entry, wanted):
            identity = trees.identify(int(entry))
            if identity is not None:
                found.append(trees.name(identity))
    return found


def _uses(process: Path, wanted: int) -> bool:
    links = [process / name for name in ("cwd", "root", "exe")]
    with suppress(OSError):
        links += (process / "fd").iterdir()
    for link in links:
        with suppress(OSError):
            if link.stat().st_dev == wanted:
                return True
    return False


def _place(named: str) -> Path:
    """Where it is to be mounted. Refused where the system lives, and for a way that leads through links."""
    place = Path(named)
    if not place.is_absolute() or Path(os.path.normpath(place)) != place or not str(place).isprintable():
        raise Refused(f"{named}: is no absolute path of printable characters")
    if place in _NO_PLACES:
        raise Refused(f"{place}: the system lives there")
    if Path(os.path.realpath(place)) != place:
        raise Refused(f"{place}: leads through a symbolic link")
    return place


def _make(place: Path) -> None:
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise Refused(f"{place}: is not empty: what it holds would be hidden")


def _mounted_at(place: Path) -> Mount | None:
    """What lies uppermost."""
    return next((one for one in reversed(devices.mounts()) if one.target == str(place)), None)


def _is_same(spec: str, uuid: str, device: Device) -> bool:
    if spec == f"UUID={uuid}":
        return True
    with suppress(PaddockError):
        return devices.find(spec) == device
    return False


def _pass(kind: str) -> str:
    return "2" if kind.startswith("ext") else "0"


def _tell_systemd() -> None:
    """It makes its units from fstab when it is told to look again; where it does not run, nobody has to know."""
    if Path("/run/systemd/system").is_dir():
        with suppress(Broken, Missing):
            tools.attempt("systemctl", "daemon-reload")
