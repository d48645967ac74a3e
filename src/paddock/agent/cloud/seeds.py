"""What a cloud left in files: NoCloud seeds, config drives, what cloud-init made of either.

Effects: none. Nothing is mounted: a disk that a stranger may have filled is read where the system mounted it.
"""

import json
from pathlib import Path

from paddock.agent.cloud import dialects
from paddock.agent.cloud.facts import CloudFacts, code_in, word
from paddock.agent.cloud.hints import read

_SEEDS = ("var/lib/cloud/seed/nocloud", "var/lib/cloud/seed/nocloud-net")
_DRIVE = "var/lib/cloud/seed/config_drive"
_LABELS = {"cidata": "NoCloud", "config-2": "OpenStack"}
_CLOUD_INIT = "run/cloud-init/instance-data.json"
_USER_DATA = "var/lib/cloud/instance/user-data.txt"
_LONGEST = 1 << 20
_SPELLED = {"aws": "Amazon", "gce": "Google", "azure": "Azure", "openstack": "OpenStack", "nocloud": "NoCloud"}


def found(rootfs: Path) -> CloudFacts | None:
    """The first that says which instance this is."""
    for directory in (*(rootfs / seed for seed in _SEEDS), *_mounted(rootfs, "NoCloud")):
        told = dialects.nocloud(_bytes(directory / "meta-data"), _bytes(directory / "user-data"))
        if told is not None:
            return told
    for directory in (rootfs / _DRIVE, *_mounted(rootfs, "OpenStack")):
        latest = directory / "openstack/latest"
        told = dialects.config_drive(_bytes(latest / "meta_data.json"), _bytes(latest / "user_data"))
        if told is not None:
            return told
    return _cloud_init(rootfs)


def _cloud_init(rootfs: Path) -> CloudFacts | None:
    try:
        said = json.loads(_bytes(rootfs / _CLOUD_INIT))["v1"]
        instance, name = word(said.get("instance_id")), word(said.get("cloud_name"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not instance:
        return None
    code = code_in(_bytes(rootfs / _USER_DATA).decode("utf-8", "replace"))
    return CloudFacts(name=_SPELLED.get(name, name), instance=instance, code=code)


def _mounted(rootfs: Path, kind: str) -> list[Path]:
    """Where disks with such a label are mounted; none where they are not."""
    labels = rootfs / "dev/disk/by-label"
    try:
        wanted = {one.resolve() for one in labels.iterdir() if _LABELS.get(one.name.lower()) == kind}
    except OSError:
        return []
    places = []
    for line in read(rootfs / "proc/mounts").splitlines():
        device, place, *_ = [*line.split(" "), "", ""]
        if device.startswith("/") and (rootfs / device[1:]).resolve() in wanted:
            places.append(rootfs / place.replace("\\040", " ")[1:])
    return places


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except OSError:
        return b""
