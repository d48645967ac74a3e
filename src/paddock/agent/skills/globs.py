"""Matches relative paths with patterns: `*`, `?`, `[...]`, and `**` for any depth."""

from collections.abc import Iterable
from fnmatch import fnmatchcase


def split(pattern: str) -> tuple[str, ...]:
    """The parts of a pattern; empty ones and `.` mean nothing. A pattern that climbs matches nothing."""
    return tuple(part for part in pattern.split("/") if part not in ("", "."))


def matches(path: Iterable[str], patterns: Iterable[tuple[str, ...]]) -> bool:
    """Whether one of the patterns (as split) fits the whole path; a last `**` takes every file below."""
    parts = tuple(path)
    return any(_fits(parts, pattern) for pattern in patterns)


def _fits(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    # fits[i]: what of the pattern was seen so far fits the first i parts of the path. Linear in both: no blow-up.
    fits = [True] + [False] * len(path)
    for index, part in enumerate(pattern):
        if part == "**":
            is_last = index == len(pattern) - 1
            reached = False
            after = []
            for fit in fits:
                # A `**` at the end stands for at least one name, or a directory's own name would be a file.
                after.append(reached if is_last else reached or fit)
                reached = reached or fit
            fits = after
        else:
            fits = [False] + [fits[at] and fnmatchcase(path[at], part) for at in range(len(path))]
    return fits[len(path)]
