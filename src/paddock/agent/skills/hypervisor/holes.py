"""Files whose middle is given back to their disk while others append, and is read around.

Effects: idempotent. Offsets stay what they are: whoever writes, and whoever follows, hears nothing of it.
"""

import errno
import os

from paddock.core.errors import Broken

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def punch(handle: int, begin: int, end: int) -> None:
    """What is between two offsets takes no room any more. Broken where the file system cannot."""
    import ctypes  # only where a file has become too long

    libc = ctypes.CDLL(None, use_errno=True)
    # fallocate64 takes 64 bits on every processor, and C libraries without it have no other.
    allocate = getattr(libc, "fallocate64", None) or libc.fallocate
    told = (handle, _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_int64(begin), ctypes.c_int64(end - begin))
    if allocate(*told):
        raise Broken(f"its disk takes back no part of a file: {os.strerror(ctypes.get_errno())}")


def read(handle: int, offset: int, most: int) -> tuple[int, bytes]:
    """The next bytes that are there, none at the end, and where they begin."""
    while True:
        begin = _seek(handle, offset, os.SEEK_DATA)
        end = _seek(handle, begin, os.SEEK_HOLE)
        data = os.pread(handle, min(most, end - begin), begin)
        # What was given back between the two looks was read as zeros.
        if (is_there(handle, begin) or not data) and _seek(handle, begin, os.SEEK_HOLE) >= begin + len(data):
            return begin, data


def is_there(handle: int, offset: int) -> bool:
    """Whether the byte at an offset was not given back."""
    return _seek(handle, offset, os.SEEK_DATA) == offset


def _seek(handle: int, offset: int, whence: int) -> int:
    try:
        return os.lseek(handle, offset, whence)
    except OSError as exc:
        if exc.errno != errno.ENXIO:  # nothing is there: the end of the file
            raise
        return offset
