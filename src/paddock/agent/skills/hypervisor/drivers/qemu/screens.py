"""What a display shows, as a PNG: QEMU's own picture format, packed with zlib.

Effects: none. QEMU writes PNG itself only since 7.1, and only where it was built so.
"""

import re
import struct
import zlib

from paddock.core.errors import Broken

_HEAD = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")
_RGB8 = (8, 2, 0, 0, 0)


def png(ppm: bytes) -> bytes:
    """A binary PPM as a PNG. Broken if it is none, or ends early."""
    head = _HEAD.match(ppm)
    if head is None:
        raise Broken("a screen: QEMU has written no picture")
    width, height = int(head[1]), int(head[2])
    pixels = memoryview(ppm)[head.end() :]
    if len(pixels) < width * height * 3 or not width * height:
        raise Broken("a screen: QEMU has written half a picture")
    packed = zlib.compressobj(6)
    rows = b"".join(
        packed.compress(b"\0" + pixels[row * width * 3 : (row + 1) * width * 3].tobytes()) for row in range(height)
    )
    image = rows + packed.flush()
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(*one)
        for one in ((b"IHDR", struct.pack(">II5B", width, height, *_RGB8)), (b"IDAT", image), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
