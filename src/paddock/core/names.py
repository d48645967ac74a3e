"""What a file in the archive may be called."""

from paddock.core.errors import Refused

PART_LIMIT = 255
"""Bytes of UTF-8 that one part of a name may have: what file systems take."""
NAME_LIMIT = 2048
"""Bytes of a whole name; well below what the kernel takes for a path."""


def archive_name(text: str) -> str:
    """Return `text` if it is a relative path with `/` that can name a file in the archive.

    `Refused`, naming the path, for absolute ones, `.` and `..`, empty parts, control characters, half of a surrogate
    pair, and parts or names that are too long.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise Refused(f"{text!a}: not a text that UTF-8 can write") from exc
    if text.startswith("/"):
        raise Refused(f"{text!r}: an absolute path cannot name a file in the archive")
    if size > NAME_LIMIT:
        raise Refused(f"{text[:80]!r}...: {size} bytes, a name has at most {NAME_LIMIT}")
    for part in text.split("/"):
        _check_part(text, part)
    return text


def _check_part(text: str, part: str) -> None:
    if part in ("", ".", ".."):
        raise Refused(f"{text!r}: a part of a name cannot be {part!r}")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in part):
        raise Refused(f"{text!r}: a name has no control characters")
    # Bytes, not characters: that is what the file system counts.
    if len(part.encode()) > PART_LIMIT:
        raise Refused(f"{text[:80]!r}: a part of a name has at most {PART_LIMIT} bytes")
