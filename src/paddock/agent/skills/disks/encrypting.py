"""Makes a device an open LUKS2 container, with a key that lies on the machine.

Effects: idempotent, by the rule of formatting: a LUKS2 header that the key opens is as described and is never made
anew; one of ours that has no key slot yet was not finished, and is begun anew; any other is kept unless it is given up.

The key never stands in a command line, in params or in the ledger: it is in a file that root alone reads, put there by
whoever is to know it or made here, and cryptsetup reads it from a pipe.
"""

import os
import secrets
import stat
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paddock.agent.entry import Outcome
from paddock.agent.skills import drafts, tools
from paddock.agent.skills.disks import devices, guarding, probing, records, tables
from paddock.agent.skills.disks.devices import Device
from paddock.agent.skills.disks.formatting import blank
from paddock.agent.skills.disks.guarding import Consent
from paddock.agent.skills.disks.records import Record
from paddock.agent.skills.skill import Call, Place
from paddock.core.errors import Broken, Missing, Refused
from paddock.hands import faults
from paddock.wire.framing import JSON

_KIND = "crypto_LUKS"
_LONGEST_KEY = 8 << 20  # cryptsetup's own limit
_LIMIT = 600.0
_STRONG_KEY = 64
_QUICK = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
"""For a key that nobody can guess: making each guess slow would only make each boot slow."""


def encrypt(place: Place, call: Call) -> Outcome:
    """The mapping that is open afterwards, and what was changed for it."""
    tools.find("cryptsetup", package="cryptsetup-bin")
    device, name = devices.find(call.text("device")), call.text("name")
    consent = Consent(serial=call.text("serial"), force=call.params.get("force") is True)
    file = Path(call.text("key_file"))
    _check_mapping(device, name)
    persist = call.params.get("persist") is not False
    known = tables.entry(tables.read(tables.CRYPTTAB), column=0, value=name) if persist else None
    with guarding.alone(place, device):
        record = records.load(place, device.identity)
        found = probing.signature(device.path)
        is_luks = found is not None and found.kind == _KIND
        makes_key = call.params.get("make_key") is True and not os.path.lexists(file)
        key = b"" if makes_key else _read_key(file)
        changed: list[str] = []
        is_ours = is_luks and record is not None and found is not None and record.uuid == found.uuid
        if not is_luks or makes_key or not _opens(device, key):
            ours = record.uuid if record is not None and (not is_ours or not _has_slots(device)) else ""
            guarding.check(device, consent, ours=ours)
            if known is not None:
                raise Refused(f"{name}: crypttab has {known[1]} under that name")
            if makes_key:
                key = _make_key(file)
                changed.append("key")
            is_made = call.params.get("make_key") is True and len(key) == _STRONG_KEY
            _make(place, device, key, consent, ours=ours, stretching=() if not is_made else _QUICK)
            changed.append("luks")
        records.forget(place, device.identity)
        named = _uuid(device)
        if known is not None and known[1] != f"UUID={named}":
            raise Refused(f"{name}: crypttab has {known[1]} under that name")
        if not _is_open(device, name):
            tools.run(*_keyed("open", "--type", "luks2", device.path, name), stdin=key, limit=_LIMIT)
            changed.append("opened")
        fields = [name, f"UUID={named}", str(file), "luks,nofail"]
        if persist and tables.change(tables.CRYPTTAB, lambda text: tables.with_entry(text, fields, column=0)):
            changed.append("crypttab")
    result: dict[str, JSON] = {"device": f"/dev/mapper/{name}", "uuid": named, "changed": list[JSON](changed)}
    return Outcome(result=result)


# ---- the key ---------------------------------------------------------------------------------------------------------


def _read_key(file: Path) -> bytes:
    """Refused for a file that others than root could read or have written."""
    _check_place(file)
    with drafts.entered(file.parent) as directory:
        key = drafts.read(directory, file.name, most=_LONGEST_KEY)
        if not key:
            raise Refused(f"key_file {file}: holds no key", hint="make_key: true makes one")
        found = os.stat(file.name, dir_fd=directory, follow_symlinks=False)
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise Refused(f"key_file {file}: others than root may read it", hint=f"chmod 400 {file}")
    return key


def _make_key(file: Path) -> bytes:
    """A new one, durable before anything is locked with it."""
    _check_place(file)
    key = secrets.token_bytes(_STRONG_KEY)
    with drafts.entered(file.parent) as directory:
        drafts.replace(directory, file.name, key, mode=0o400)
    return key


def _check_place(file: Path) -> None:
    if (
        not file.is_absolute()
        or Path(os.path.realpath(file.parent)) != file.parent
        or any(c.isspace() for c in str(file))
    ):
        raise Refused(f"key_file {file}: is no absolute path without links and spaces")
    if not file.parent.is_dir():
        raise Refused(f"key_file {file}: its directory does not exist")
    found = file.parent.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise Refused(f"key_file {file}: others than root may write to its directory")


# ---- the container ---------------------------------------------------------------------------------------------------


def _keyed(*words: str) -> Sequence[str]:
    return ("cryptsetup", "--batch-mode", "--key-file", "-", *words)


def _make(place: Place, device: Device, key: bytes, consent: Consent, *, ours: str, stretching: Sequence[str]) -> None:
    wanted = Record(identity=device.identity, kind=_KIND, label="", uuid=ours or str(uuid.uuid4()))
    with blank(device, consent, ours=ours):
        records.save(place, wanted)
        faults.at("disk.encrypting")
    words = _keyed("luksFormat", "--type", "luks2", "--uuid", wanted.uuid, *stretching, device.path)
    tools.run(*words, stdin=key, limit=_LIMIT)
    faults.at("disk.encrypted")
    if not _opens(device, key):
        raise Broken(f"{device.path}: its own key does not open it")


def _opens(device: Device, key: bytes) -> bool:
    words = _keyed("open", "--type", "luks2", "--test-passphrase", device.path)
    return tools.attempt(*words, stdin=key, limit=_LIMIT).code == 0


def _has_slots(device: Device) -> bool:
    """Whether any key opens it. A header that cannot be read is believed to have one."""
    ran = tools.attempt("cryptsetup", "luksDump", device.path)
    if ran.code != 0:
        return True
    slots = ran.out.partition("Keyslots:")[2].partition("Tokens:")[0]
    return any(line.strip()[:1].isdigit() for line in slots.splitlines())


def _uuid(device: Device) -> str:
    return tools.run("cryptsetup", "luksUUID", device.path).strip()


# ---- the mapping -----------------------------------------------------------------------------------------------------


def _check_mapping(device: Device, name: str) -> None:
    """Refused for a name that something else has."""
    mapper = Path("/dev/mapper") / name
    if mapper.exists() and not _is_open(device, name):
        raise Refused(f"{mapper}: is something else")


def _is_open(device: Device, name: str) -> bool:
    with suppress(Refused, Missing, OSError):
        mapped = devices.find(f"/dev/mapper/{name}")
        return device in mapped.below
    return False
