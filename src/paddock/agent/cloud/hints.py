"""Which clouds are worth asking, as the firmware has it; none on bare metal.

Effects: none.
"""

from contextlib import suppress
from pathlib import Path

_NAMED = (
    ("amazon ec2", "Amazon"),
    ("google", "Google"),
    ("openstack", "OpenStack"),
    ("rdo", "OpenStack"),
    ("7783-7084-3265-9085-8269-3286-77", "Azure"),
)
"""What stands in the firmware's tables, in small letters, and whose it is."""
_FIELDS = ("sys_vendor", "product_name", "product_version", "bios_vendor", "chassis_vendor", "chassis_asset_tag")
_ALIKE = {"eucalyptus": "Amazon", "cloudstack": "Amazon", "cloudstack3": "Amazon", "rackspace": "OpenStack"}
"""Clouds that tell of themselves as another one does."""
_CONTAINERS = (".dockerenv", "run/.containerenv", "run/systemd/container")


def worth_asking(rootfs: Path, told: str = "") -> tuple[str, ...]:
    """Names of dialects, best first. Nobody is asked on bare metal or in a container, where anybody could answer.

    `told` is the cloud's name, as somebody configured it: then no other is asked, and none at all if it is not known.
    """
    # Whoever only wants to know what kind of machine it is does without.
    from paddock.agent.cloud.dialects import DIALECTS

    if told:
        known = {name.lower(): name for name in DIALECTS} | _ALIKE
        name = known.get(told.lower())
        return (name,) if name else ()
    if is_container(rootfs):
        return ()
    told_by_firmware = " ".join(read(rootfs / "sys/class/dmi/id" / name) for name in _FIELDS).lower()
    hinted = tuple(dict.fromkeys(name for text, name in _NAMED if text in told_by_firmware))
    return hinted or (tuple(DIALECTS) if _is_virtual(rootfs) else ())


def is_container(rootfs: Path) -> bool:
    """Whether this is a container: its firmware's tables are those of its host."""
    return any((rootfs / name).exists() for name in _CONTAINERS)


def read(path: Path) -> str:
    """A small file's text; empty if it cannot be had."""
    with suppress(OSError, ValueError):
        return path.read_bytes()[:4096].decode("utf-8", "replace").strip()
    return ""


def _is_virtual(rootfs: Path) -> bool:
    with suppress(OSError), (rootfs / "proc/cpuinfo").open("rb") as file:
        # Of the first processor: the others say the same.
        return b"hypervisor" in file.read(8192)
    return False
