"""Makes a device hold a file system of a kind and a label; what already does is left alone.

Effects: idempotent, by this rule. A device that holds a whole file system of the kind and label that are asked (and of
the UUID, if one is given) is as described: it is never made anew, not even with `force`. So a command that is issued
again, after the agent died and its mkfs went on, or after everything was done and put to use, takes nothing away. Who
wants what is there wiped describes something else: another label, or a new UUID.

The UUID is remembered durably before the device is touched. Where it is found again, the command before was ours; if
its checker says that it is not whole, mkfs was killed, nobody has been told of it, and it is begun anew. What is not as
described and not ours is kept, unless it is given up by `serial` and `force`. All of it is looked at twice: before
anything is touched, and under the kernel's exclusive lock.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from paddock.agent.entry import Outcome
from paddock.agent.skills import tools
from paddock.agent.skills.disks import devices, guarding, mounting, probing, records
from paddock.agent.skills.disks.devices import Device
from paddock.agent.skills.disks.guarding import Consent
from paddock.agent.skills.disks.probing import Signature
from paddock.agent.skills.disks.records import Record
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Broken, Refused
from paddock.hands import faults
from paddock.wire.framing import JSON

LIMIT = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """How a file system is made. `force`: over what is there."""

    package: str
    argv: tuple[str, ...]
    uuid: tuple[str, str]
    force: str
    longest_label: int


_MAKERS: Mapping[str, _Maker] = {
    "ext4": _Maker(package="e2fsprogs", argv=("mkfs.ext4", "-q"), uuid=("-U", "{}"), force="-F", longest_label=16),
    "xfs": _Maker(package="xfsprogs", argv=("mkfs.xfs", "-q"), uuid=("-m", "uuid={}"), force="-f", longest_label=12),
    "btrfs": _Maker(package="btrfs-progs", argv=("mkfs.btrfs", "-q"), uuid=("-U", "{}"), force="-f", longest_label=255),
}


def format_(place: Place, call: Call) -> Outcome:
    """The file system that is there afterwards, and whether it was made."""
    device = devices.find(call.text("device"))
    kind, label, named = call.text("fs"), call.text("label"), call.text("uuid").lower()
    maker = _MAKERS[kind]
    tools.find(maker.argv[0], package=maker.package)
    if len(label.encode()) > maker.longest_label:
        raise Refused(f"label {label!r}: {kind} takes {maker.longest_label} bytes")
    consent = Consent(serial=call.text("serial"), force=call.params.get("force") is True)
    with guarding.alone(place, device):
        return _ensure(place, device, maker, consent, kind=kind, label=label, named=named)


def _ensure(
    place: Place, device: Device, maker: _Maker, consent: Consent, *, kind: str, label: str, named: str
) -> Outcome:
    record = records.load(place, device.identity)
    found = probing.signature(device.path)
    is_described = found is not None and _is_described(found, kind, label, named)
    if found is not None and is_described and (not _is_ours(record, found) or _is_whole(device, kind)):
        records.forget(place, device.identity)
        return _told(device, found, changed=False)
    ours = record.uuid if record is not None else ""
    guarding.check(device, consent, ours=ours)
    wanted = Record(identity=device.identity, kind=kind, label=label, uuid=named or ours or str(uuid.uuid4()))
    with blank(device, consent, ours=ours):
        records.save(place, wanted)
        faults.at("disk.formatting")
    _make(device, maker, wanted)
    faults.at("disk.formatted")
    made = probing.signature(device.path)
    if made is None or not _is_described(made, kind, label, wanted.uuid):
        raise Broken(f"{device.path}: holds {made} after {maker.argv[0]}")
    records.forget(place, device.identity)
    return _told(device, made, changed=True)


def _is_described(found: Signature, kind: str, label: str, named: str) -> bool:
    return found.kind == kind and found.label == label and named in ("", found.uuid)


def _is_ours(record: Record | None, found: Signature) -> bool:
    """Whether we have begun it, and never seen it done."""
    return record is not None and record.uuid == found.uuid


def _is_whole(device: Device, kind: str) -> bool:
    """What is mounted was whole, or could not have been."""
    return bool(devices.mounted_on(device)) or probing.is_whole(device.path, kind)


@contextmanager
def blank(device: Device, consent: Consent, *, ours: str) -> Iterator[None]:
    """Nobody uses the device while the block runs; after it, no signature is left. Refused, as guarding.check says."""
    pieces = [device, *(() if device.is_partition else device.partitions)]
    with guarding.locked(device):
        for piece in pieces:
            for mount in reversed(devices.mounted_on(piece)):
                mounting.detach(mount.target)
        with guarding.exclusively(device):
            guarding.check(device, consent, ours=ours, is_free=True)
            yield
            # A table's copy at the end of the disk would outlive what is made at its beginning. Forced is only that it
            # does not ask for the exclusive right, which we have.
            tools.run("wipefs", "--all", "--force", "--quiet", device.path)
        if len(pieces) > 1:
            tools.attempt("partx", "--delete", device.path)


def _make(device: Device, maker: _Maker, wanted: Record) -> None:
    words = [*maker.argv, *(word.format(wanted.uuid) for word in maker.uuid)]
    words += ["-L", wanted.label] if wanted.label else []
    # ext4 asks on a terminal only; the others look once more whether the device is blank, so none is told to force it.
    tools.run(*words, device.path, limit=LIMIT)


def _told(device: Device, found: Signature, *, changed: bool) -> Outcome:
    result: dict[str, JSON] = {
        "device": device.path,
        "fs": found.kind,
        "label": found.label,
        "uuid": found.uuid,
        "size": device.size,
        "changed": changed,
    }
    return Outcome(result=result)
