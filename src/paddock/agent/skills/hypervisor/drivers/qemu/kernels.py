"""Kernels given to QEMU so that no machine holds a copy of its own.

Effects: idempotent; what is made of a kernel and an initrd appears whole under a name made of both.

QEMU reads a kernel into memory of its own, 14 MiB for each machine: a third of all that a fork has for itself, and
read again at each fork's start, for a reboot that may never come. An initrd it maps instead, and shares. So the bulk
of the kernel goes in front of the initrd, and in its place stands a mover of 80 bytes: it is started as the kernel's
protected mode part, copies the real one to where it belongs, and tells it where its own initrd begins. The kernel's
real mode part and header stay as they are (the kernel's Documentation/x86/boot.rst).
"""

import logging
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from paddock.agent.skills.hypervisor.ports import Plan

_log = logging.getLogger(__name__)

PLACE = "boot"
_MOST = 16
"""Pairs that are kept; each is as large as its kernel and its initrd."""
_MAGIC, _VERSION, _FLAGS = 0x202, 0x206, 0x211
_OLDEST = 0x0202
_LOADED_HIGH = 1
_ADDRESS, _SIZE = 0x218, 0x21C
"""Of the initrd, in the header."""
_KERNEL = 0x100000
"""Where QEMU puts the protected mode part, and where its header says that it begins."""
_SPARE = 0x8000
"""Memory that nobody uses at that moment: not BIOS, nor the kernel's real mode part."""
_PAGE = 4096


def lean(root: Path, plan: Plan) -> tuple[Path | None, Path | None]:
    """What QEMU is given as kernel and initrd. The plan's own where nothing else can be made of them."""
    if plan.kernel is None:
        return None, None
    try:
        place = root / PLACE / _name(plan.kernel, plan.initrd)
        if not (place / "kernel").exists():
            made = _made(plan.kernel, plan.initrd)
            if made is None:
                return plan.kernel, plan.initrd
            _put(place, *made)
    except OSError as exc:
        _log.warning("a kernel is given to QEMU as it is", extra={"kernel": str(plan.kernel), "why": str(exc)})
        return plan.kernel, plan.initrd
    return place / "kernel", place / "initrd"


def _name(*files: Path | None) -> str:
    """Another file, another name."""
    told = [os.stat(file) for file in files if file is not None]
    return "-".join(f"{one.st_dev:x}.{one.st_ino:x}.{one.st_size:x}.{one.st_mtime_ns:x}" for one in told)


def _made(kernel: Path, initrd: Path | None) -> tuple[bytes, bytes] | None:
    """Real mode part with the mover, and the rest with the initrd. None for what is no such kernel."""
    whole = kernel.read_bytes()
    if whole[_MAGIC : _MAGIC + 4] != b"HdrS" or not whole[_FLAGS] & _LOADED_HIGH:
        return None
    if struct.unpack_from("<H", whole, _VERSION)[0] < _OLDEST:
        return None
    sectors = whole[0x1F1] or 4
    real, rest = whole[: (sectors + 1) * 512], whole[(sectors + 1) * 512 :]
    rest += bytes(-len(rest) % _PAGE)
    return real + mover(len(rest)), rest + (initrd.read_bytes() if initrd is not None else b"")


def mover(size: int) -> bytes:
    """32-bit code that begins as a kernel does: flat segments, no interrupts, ESI at the boot parameters.

    It copies its second half out of the way, because what it moves lands where it stands itself.
    """
    second = b"".join(
        (
            _with(b"\xbf", _KERNEL),  # mov edi, kernel
            _with(b"\xb9", size // 4),  # mov ecx, size / 4
            b"\xf3\xa5",  # rep movsd
            b"\x89\xee",  # mov esi, ebp: the boot parameters
            b"\x31\xed\x31\xff\x31\xdb",  # xor ebp, ebp; xor edi, edi; xor ebx, ebx: as the protocol wants it
            _with(b"\xb8", _KERNEL),  # mov eax, kernel
            b"\xff\xe0",  # jmp eax
        )
    )
    first = [
        b"\xfc",  # cld
        _with(b"\x8b\x9e", _ADDRESS),  # mov ebx, [esi + address]: what was given as the initrd
        _with(b"\x81\x86", _ADDRESS, size),  # add dword [esi + address], size
        _with(b"\x81\xae", _SIZE, size),  # sub dword [esi + size], size
        b"\x89\xf5",  # mov ebp, esi
        _with(b"\xbf", _SPARE),  # mov edi, spare
        _with(b"\xb9", len(second)),  # mov ecx, length of the second half
    ]
    last = b"\xf3\xa4" + b"\x89\xde" + _with(b"\xb8", _SPARE) + b"\xff\xe0"  # rep movsb; mov esi, ebx; jmp spare
    start = _KERNEL + sum(map(len, first)) + 5 + len(last)
    return b"".join((*first, _with(b"\xbe", start), last, second))  # mov esi, start of the second half


def _with(code: bytes, *numbers: int) -> bytes:
    return code + b"".join(struct.pack("<I", number) for number in numbers)


def _put(place: Path, kernel: bytes, initrd: bytes) -> None:
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    draft.mkdir(mode=0o700, parents=True, exist_ok=True)
    (draft / "initrd").write_bytes(initrd)
    (draft / "kernel").write_bytes(kernel)
    with suppress(FileExistsError):
        draft.rename(place)
    for old in _old(place.parent, place):
        for file in old.iterdir():
            file.unlink(missing_ok=True)
        old.rmdir()


def _old(home: Path, new: Path) -> Iterator[Path]:
    """Those that are one too many: machines that run have what they were started with."""
    pairs = sorted((one for one in home.iterdir() if one != new), key=lambda one: one.stat().st_mtime, reverse=True)
    yield from pairs[_MOST - 1 :]
