"""Whether what is on a device may be destroyed: asked twice, at last under a lock.

Effects: none.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from paddock.agent.skills.disks import devices, probing
from paddock.agent.skills.disks.devices import Device
from paddock.agent.skills.skill import Place
from paddock.core.errors import Refused

_HINT = "give its serial (disk.list tells it) and force: true, if what is on it may be lost"


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What the command says about losing what is there."""

    serial: str
    force: bool


def check(device: Device, consent: Consent, *, ours: str = "", is_free: bool = False) -> None:
    """Refused unless the device is blank, or what it holds is given up by its serial and `force`.

    The system's disk is never given up. `ours` is the UUID of what we have begun here and never finished, and may begin
    anew. `is_free` says that what was mounted had to be gone by now.
    """
    if why := devices.system_reason(device):
        raise Refused(f"{device.path}: {why}: the system's disk is never touched")
    if consent.serial and consent.serial != device.serial:
        raise Refused(f"{device.path}: has serial {device.serial or '(none)'}, not {consent.serial}")
    if (device.sys / "ro").read_text().strip() == "1":
        raise Refused(f"{device.path}: can only be read")
    pieces = (device, *(() if device.is_partition else device.partitions))
    for piece in pieces:
        if held := piece.holders:
            raise Refused(f"{piece.path}: is part of {', '.join(one.path for one in held)}")
    is_given_up = consent.force and consent.serial != ""
    for piece in pieces:
        _check_piece(piece, is_given_up=is_given_up, ours=ours, is_free=is_free)
    if pieces[1:] and not is_given_up:
        raise Refused(f"{device.path}: has {len(pieces) - 1} partitions", hint=_HINT)


def _check_piece(piece: Device, *, is_given_up: bool, ours: str, is_free: bool) -> None:
    mounted = devices.mounted_on(piece)
    if mounted and (is_free or not is_given_up):
        raise Refused(f"{piece.path}: is mounted on {mounted[0].target}", hint="disk.unmount it first")
    if is_given_up:
        return
    found = probing.signature(piece.path)
    if found is not None and not (ours and found.uuid == ours):
        raise Refused(f"{piece.path}: holds {found}", hint=_HINT)


@contextmanager
def alone(place: Place, device: Device) -> Iterator[None]:
    """No other command of this agent works on the disk. Refused if one does."""
    home = place.state / "disk"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{device.disk.name.replace('!', '-')}.lock"
    handle = os.open(home / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{device.disk.path}: another command works on it") from None
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(device: Device) -> Iterator[int]:
    """Nobody else who asks (udev, sfdisk) works on the disk now. Refused if somebody does."""
    handle = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(handle).st_rdev
        if f"{os.major(found)}:{os.minor(found)}" != device.number:
            raise Refused(f"{device.path}: is another device by now")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{device.path}: somebody else works on it right now") from None
        yield handle
    finally:
        os.close(handle)


@contextmanager
def exclusively(device: Device) -> Iterator[None]:
    """The kernel lets nobody mount, map or format it meanwhile. Refused if somebody has it.

    Programs that make file systems ask for the same right: it is held while we look again, and given to them.
    """
    try:
        handle = os.open(device.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as exc:
        raise Refused(f"{device.path}: is in use ({exc.strerror}), in another namespace perhaps") from exc
    try:
        yield
    finally:
        os.close(handle)
