"""Methods of the skill `disk`."""

from paddock.core.access import Role
from paddock.wire.methods.table import KIB, Effect, Kind, Method, Param, Toward

_DEVICE = Param(
    name="device", kind=Kind.PATH, required=True, doc="/dev/..., by-id and the like too, or UUID=... of what is on it"
)
_SERIAL = Param(
    name="serial", kind=Kind.TEXT, most=KIB, doc="the disk's serial number, as disk.list tells it; another is refused"
)
_FORCE = Param(
    name="force",
    kind=Kind.BOOLEAN,
    default=False,
    doc="with serial: what is on it may be lost; the system's disk is never touched",
)
_PERSIST = Param(name="persist", kind=Kind.BOOLEAN, default=True, doc="at each boot too")
_PLACE = Param(name="path", kind=Kind.PATH, required=True, doc="the directory, absolute, through no symbolic link")

METHODS = (
    Method(
        name="disk.list",
        caption="Name the disks, their pieces and what is made of them, and which carry the system.",
        toward=Toward.AGENT,
        effect=Effect.READ,
        role=Role.PERSON,
        params=(Param(name="device", kind=Kind.PATH, doc="this one alone"),),
        result="{disks: [{device, kind, size, serial, model, fs, label, uuid, mounted, parents, holders, system}]}",
    ),
    Method(
        name="disk.format",
        caption="Make a device hold a file system of this kind and label; one that does is left alone.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        params=(
            _DEVICE,
            Param(name="fs", kind=Kind.TEXT, required=True, pattern="ext4|xfs|btrfs", doc="ext4, xfs or btrfs"),
            Param(
                name="label",
                kind=Kind.TEXT,
                most=255,
                pattern="[A-Za-z0-9_.+-]*",
                default="",
                doc="its label: 16 bytes for ext4, 12 for xfs",
            ),
            Param(
                name="uuid",
                kind=Kind.TEXT,
                pattern="[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
                doc="its UUID, part of the description: a new one wipes a disk that is as described otherwise",
            ),
            _SERIAL,
            _FORCE,
        ),
        result="{device, fs, label, uuid, size, changed}",
    ),
    Method(
        name="disk.mount",
        caption="Mount a file system in a directory, now and by its UUID in fstab.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(
            _DEVICE,
            _PLACE,
            Param(
                name="options",
                kind=Kind.LIST,
                of=Kind.TEXT,
                most=100,
                doc="as mount and fstab have them, x-systemd ones too; defaults and nofail if absent",
            ),
            _PERSIST,
        ),
        result="{device, path, uuid, fs, changed: [what]}",
    ),
    Method(
        name="disk.unmount",
        caption="Have nothing mounted in a directory, now and in fstab; busy, naming who uses it.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        params=(_PLACE, _PERSIST),
        result="{path, changed: [what]}",
    ),
    Method(
        name="disk.resize",
        caption="Grow a partition to the room behind it, and its file system to the partition.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        params=(_DEVICE,),
        result="{device, fs, size, changed: [what]}",
    ),
    Method(
        name="disk.encrypt",
        caption="Make a device an open LUKS2 container, now and by its UUID in crypttab.",
        toward=Toward.AGENT,
        effect=Effect.ENSURE,
        role=Role.OPERATOR,
        task=True,
        params=(
            _DEVICE,
            Param(
                name="name",
                kind=Kind.TEXT,
                required=True,
                pattern="[A-Za-z0-9][A-Za-z0-9_-]{0,62}",
                doc="what it is opened as: /dev/mapper/NAME",
            ),
            Param(
                name="key_file",
                kind=Kind.PATH,
                required=True,
                doc="a file of the machine that root alone reads; the key itself never travels in params",
            ),
            Param(
                name="make_key",
                kind=Kind.BOOLEAN,
                default=False,
                doc="make the file with a random key if it is not there",
            ),
            _SERIAL,
            _FORCE,
            _PERSIST,
        ),
        result="{device: /dev/mapper/NAME, uuid, changed: [what]}",
    ),
)
