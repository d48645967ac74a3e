"""What a display shows, as a PNG: QEMU's own picture format, packed with zlib.

Effects: none. QEMU writes PNG itself only since 7.1, and only where it was built so.
"""

import re
import struct
import zlib
from dataclasses import dataclass

from paddock.core.errors import Broken
from paddock.wire.framing import MESSAGE_LIMIT

MOST = (MESSAGE_LIMIT - (64 << 10)) // 4 * 3
"""Bytes: a picture travels in one message, in base64, with room for what else that says."""
_HEAD = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")
_RGB8 = (8, 2, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much of a picture is shown: bits of each colour, and one pixel of so many in each direction."""

    bits: int = 8
    step: int = 1


SHAPES = (Shape(), *(Shape(bits=bits, step=1 << doubled) for doubled in range(7) for bits in (4, 3, 2)))
"""From all of it to very little; fewer colours first, for words are read by their outlines."""


def png(ppm: bytes, most: int = MOST) -> bytes:
    """A binary PPM as a PNG of at most so many bytes: what does not fit has fewer colours, then fewer pixels.

    Broken if it is no PPM, or ends early.
    """
    head = _HEAD.match(ppm)
    if head is None:
        raise Broken("a screen: QEMU has written no picture")
    width, height = int(head[1]), int(head[2])
    pixels = ppm[head.end() :][: width * height * 3]
    if len(pixels) < width * height * 3 or not width * height:
        raise Broken("a screen: QEMU has written half a picture")
    for shape in SHAPES:
        if (image := _packed(pixels, width, shape, most)) is not None:
            return image
    raise Broken(f"a screen: {width}x{height} pixels do not fit into {most} bytes")


def _packed(pixels: bytes, width: int, shape: Shape, most: int) -> bytes | None:
    """Nothing as soon as it is too much: most of the work for a shape that does not fit is not done."""
    palette, packed, found, height = _palette(shape.bits), zlib.compressobj(6), bytearray(), 0
    for start in range(0, len(pixels), width * 3 * shape.step):
        row = _thinned(pixels[start : start + width * 3], shape.step)
        found += packed.compress(b"\0" + (row.translate(palette) if shape.bits < 8 else row))
        height += 1
        if len(found) > most:
            return None
    found += packed.flush()
    head = struct.pack(">II5B", -(-width // shape.step), height, *_RGB8)
    chunks = ((b"IHDR", head), (b"IDAT", bytes(found)), (b"IEND", b""))
    image = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in chunks)
    return image if len(image) <= most else None


def _palette(bits: int) -> bytes:
    """Each brightness as the nearest of 2 ** bits; black stays black and white stays white."""
    top = (1 << bits) - 1
    return bytes(round(round(each * top / 255) * 255 / top) for each in range(256))


def _thinned(row: bytes, step: int) -> bytes:
    if step == 1:
        return row
    kept = bytearray(-(-len(row) // (3 * step)) * 3)
    for colour in range(3):
        kept[colour::3] = row[colour :: 3 * step]
    return bytes(kept)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
