"""What changed since it last worked: the first line that differs, each test before."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from paddock.core.results import Case, Outcome, Results
from paddock.core.run import Run
from paddock.ports import Archive
from paddock.web.ansi import plain
from paddock.web.logs import Stream

_READ = 1024 * 1024
"""Bytes of a log that are compared; beyond that nobody looks for the first difference."""
# Times, counts, addresses, ids and names with numbers in them differ in every run and mean nothing.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|\b[0-9a-f]{7,40}\b|\d+(?:[.:]\d+)*")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first line that the last success did not have in that place."""

    stream: str
    number: int
    here: str
    there: str
    success: str
    """Id of the run that is compared with."""


async def first_difference(archive: Archive, failed: Stream, success: Run) -> Difference | None:
    """Compare a log with the one of the same name of a run that succeeded; None where they say the same."""
    other = f"{success.archive}/logs/{failed.name}.log"
    if not await archive.length(other) or not await archive.length(failed.archive):
        return None
    here = _lines(await archive.read(failed.archive, 0, _READ))
    there = _lines(await archive.read(other, 0, _READ))
    for index, line in enumerate(here):
        expected = there[index] if index < len(there) else ""
        if _VARYING.sub("#", line) != _VARYING.sub("#", expected):
            return Difference(
                stream=failed.name, number=index + 1, here=line[:300], there=expected[:300], success=success.id
            )
    return None


def _lines(data: bytes) -> list[str]:
    return [plain(line) for line in data.decode("utf-8", "replace").split("\n")]


def sparklines(found: Results | None, earlier: Sequence[Results | None]) -> dict[Case, list[str]]:
    """Of each case how it went in earlier runs, oldest first, itself last; an empty word where it was not there."""
    if found is None:
        return {}
    past: list[dict[tuple[str, str], Outcome]] = [
        {(case.suite, case.name): case.outcome for case in results.cases} if results else {}
        for results in reversed(earlier)
    ]
    return {
        case: [outcome.value if (outcome := run.get((case.suite, case.name))) else "" for run in past]
        + [case.outcome.value]
        for case in found.cases
    }
