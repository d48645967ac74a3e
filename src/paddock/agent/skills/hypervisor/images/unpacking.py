"""What a downloaded file is, by its first bytes; decompressed as a stream, with its holes.

Effects: idempotent; it writes one new file, which its caller removes if this raises.
"""

import os
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from paddock.agent.skills import tools
from paddock.agent.skills.hypervisor.disks import headers
from paddock.agent.skills.hypervisor.images.downloading import RESERVE
from paddock.agent.skills.hypervisor.stopping import Stop
from paddock.core.errors import Broken, Missing, Refused

_MAGIC = {b"\x1f\x8b": "gz", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
_CHUNK = 1 << 20
_HOLE = 1 << 16
_ZEROS = bytes(_HOLE)


def kind_of(path: Path) -> str:
    """gz, xz, zst, qcow2 or raw."""
    with path.open("rb") as file:
        head = file.read(8)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), headers.format_of(path))


def check(url: str) -> None:
    """Refused, before anything is fetched, for a file that its name says this host could not unpack."""
    if url.partition("?")[0].endswith((".zst", ".zstd")):
        _zstd()


def unpack(name: str, source: Path, kind: str, target: Path, *, most: int, stop: Stop) -> None:
    """A new file with what a compressed one holds. Broken if it is cut off or damaged, Refused beyond `most` bytes."""
    parts = {"gz": _gunzip, "xz": _unxz, "zst": _unzstd}[kind]
    size = 0
    with source.open("rb") as file, target.open("xb") as made:
        for data in parts(name, file, stop):
            stop.check()
            size += len(data)
            if size > most:
                raise Refused(f"{name}: unpacked it has more than {most} bytes")
            _write(made, data)
            if _room(made) < RESERVE:
                raise Broken(f"{name}: there is no room to unpack it", hint="image.collect makes room")
        made.truncate(size)


def _write(file: BinaryIO, data: bytes) -> None:
    """Zeros become holes."""
    for at in range(0, len(data), _HOLE):
        block = data[at : at + _HOLE]
        if block == _ZEROS:
            file.seek(_HOLE, os.SEEK_CUR)
        else:
            file.write(block)


def _room(file: BinaryIO) -> int:
    found = os.fstatvfs(file.fileno())
    return found.f_bavail * found.f_frsize


def _gunzip(name: str, file: BinaryIO, stop: Stop) -> Iterator[bytes]:
    one, rest = zlib.decompressobj(31), b""
    try:
        while data := rest or file.read(_CHUNK):
            if one.eof:
                if not data.strip(b"\0"):  # padding after the last member
                    rest = b""
                    continue
                one = zlib.decompressobj(31)
            yield one.decompress(data, _CHUNK)
            rest = one.unconsumed_tail or one.unused_data
        while not one.eof and (last := one.decompress(b"", _CHUNK)):
            yield last
    except zlib.error as exc:
        raise Broken(f"{name}: is no whole gzip file: {exc}") from None
    if not one.eof:
        raise Broken(f"{name}: is cut off")


def _unxz(name: str, file: BinaryIO, stop: Stop) -> Iterator[bytes]:
    import lzma

    one = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    rest = b""
    try:
        while True:
            if one.eof:
                rest = (one.unused_data or file.read(_CHUNK)).lstrip(b"\0")
                if not rest:
                    return
                one = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elif one.needs_input and not rest and not (rest := file.read(_CHUNK)):
                raise Broken(f"{name}: is cut off")
            yield one.decompress(rest, _CHUNK)
            rest = b""
    except lzma.LZMAError as exc:
        raise Broken(f"{name}: is no whole xz file: {exc}") from None


def _unzstd(name: str, file: BinaryIO, stop: Stop) -> Iterator[bytes]:
    """By the system's program: this Python has none."""
    words = [tools.find("setpriv"), "--pdeathsig", "KILL", "--", _zstd(), "-dcq"]
    with subprocess.Popen(
        words, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tools.ENVIRONMENT, cwd="/"
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        stop.attend(child.kill)
        try:
            while data := child.stdout.read(_CHUNK):
                yield data
            said = child.stderr.read().decode("utf-8", "replace").strip()
            code = child.wait()
        finally:
            stop.attend(None)
            with suppress(ProcessLookupError):
                child.kill()
    if code != 0:
        raise Broken(f"{name}: is no whole zstd file: {said or code}")


def _zstd() -> str:
    try:
        return tools.find("zstd", package="zstd")
    except Missing as exc:
        raise Refused(exc.message, hint="install zstd on this host, or give the image as gz or xz") from None
