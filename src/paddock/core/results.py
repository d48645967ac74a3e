"""What the tests of a run said: cases out of JUnit files, counted and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One test case of one machine's result file."""

    suite: str
    name: str
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""
    """What it said when it did not pass, cut to a length a page can show."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """All cases of a run. Its id is the run's."""

    id: str
    cases: tuple[Case, ...] = ()
    problems: tuple[str, ...] = ()
    """What could not be read or was refused, by name: `two/result.xml: not XML: ...`."""
    version: int = 0


def count(cases: Sequence[Case]) -> dict[Outcome, int]:
    """How many cases had each outcome; every outcome is a key."""
    return {outcome: sum(case.outcome is outcome for case in cases) for outcome in Outcome}
