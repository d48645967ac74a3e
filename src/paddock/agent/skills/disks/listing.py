"""Names the disks of a machine: what they are, what is on them, what they carry.

Effects: none.
"""

import json
import os
from collections.abc import Mapping

from paddock.agent.entry import Outcome
from paddock.agent.skills import tools
from paddock.agent.skills.disks import devices, probing
from paddock.agent.skills.disks.devices import Device
from paddock.agent.skills.skill import Call
from paddock.core.errors import Missing
from paddock.wire.framing import JSON

_COLUMNS = (
    *("KNAME", "PATH", "TYPE", "SIZE", "MODEL", "VENDOR", "TRAN", "ROTA", "RM", "RO", "FSTYPE", "LABEL", "UUID"),
    *("PTTYPE", "PARTUUID", "PARTLABEL"),
)
_MOST = 1000


def list_(call: Call) -> Outcome:
    """Every device with a size; a disk's pieces and what is made of them name it in `parents`."""
    seen = devices.mounts()
    system = devices.system_numbers()
    swaps = {one.number for one in devices.swaps()}
    told = _lsblk()
    found: list[JSON] = []
    wanted = call.text("device")
    chosen = [devices.find(wanted)] if wanted else devices.all_devices()
    for device in chosen[:_MOST]:
        try:
            found.append(_described(device, told.get(device.name, {}), seen, system, swaps))
        except (Missing, OSError):
            continue  # unplugged while we looked
    return Outcome(result={"disks": found, "more": len(chosen) > _MOST})


def _lsblk() -> dict[str, Mapping[str, JSON]]:
    """By kernel name, the tree made flat."""
    answer = json.loads(tools.run("lsblk", "--json", "--bytes", "--list", "--output", ",".join(_COLUMNS)))
    return {str(one["kname"]): one for one in answer["blockdevices"]}


def _described(
    device: Device,
    told: Mapping[str, JSON],
    seen: list[devices.Mount],
    system: Mapping[str, str],
    swaps: set[str],
) -> JSON:
    mounted = [one.target for one in devices.mounted_on(device, seen)]
    holders = [one.path for one in device.holders]
    there = probing.signature(device.path) if not told.get("fstype") and os.geteuid() == 0 else None
    kind, label, named = (there.kind, there.label, there.uuid) if there else ("", "", "")
    table = there.table if there else ""
    why = system.get(device.number) or system.get(device.disk.number) or ""
    result: dict[str, JSON] = {
        "device": device.path,
        "kind": told.get("type"),
        "size": device.size,
        "serial": device.serial,
        "model": told.get("model"),
        "vendor": told.get("vendor"),
        "transport": told.get("tran"),
        "rotates": told.get("rota"),
        "removable": told.get("rm"),
        "read_only": told.get("ro"),
        # Where udev does not run nobody has told lsblk.
        "fs": told.get("fstype") or ("" if table else kind),
        "label": told.get("label") or label,
        "uuid": told.get("uuid") or named,
        "table": told.get("pttype") or table,
        "part_uuid": told.get("partuuid"),
        "part_label": told.get("partlabel"),
        "mounted": list[JSON](mounted),
        "swap": device.number in swaps,
        "parents": [one.path for one in device.below],
        "holders": list[JSON](holders),
        "partitions": [one.path for one in device.partitions],
        "system": why,
    }
    return {name: value for name, value in result.items() if value not in (None, "", [])}
