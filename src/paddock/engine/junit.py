"""JUnit result files, as jobs write them, read without trusting them.

The format has no standard; read are the elements that Ant's task, pytest, Surefire and stestr's subunit2junitxml
agree on.
Effects: none
"""

from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from paddock.core.errors import Refused
from paddock.core.results import Case, Outcome

LARGEST = 32 * 1024 * 1024
"""Bytes of a result file that is read; a larger one stays an artifact."""
MOST_CASES = 100_000
LONGEST_MESSAGE = 4000
LONGEST_NAME = 500


def read(data: bytes, *, machine: str) -> list[Case]:
    """The cases of one file. `Refused`, saying why, for what is no JUnit file. `machine` goes before the suite's
    name."""
    if len(data) > LARGEST:
        raise Refused(f"{len(data)} bytes, at most {LARGEST} are read")
    try:
        root = fromstring(data)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as exc:
        raise Refused(f"not XML that can be trusted: {exc}") from exc
    if root.tag not in ("testsuites", "testsuite"):
        raise Refused(f"its root is <{root.tag[:40]}>, not <testsuites> or <testsuite>")
    cases = [_case(found, machine) for found in root.iter("testcase")]
    if len(cases) > MOST_CASES:
        raise Refused(f"{len(cases)} cases, at most {MOST_CASES} are read")
    return cases


_OUTCOMES = {"failure": Outcome.FAILED, "error": Outcome.ERROR, "skipped": Outcome.SKIPPED}


def _case(found: Element, machine: str) -> Case:
    said = next((child for child in found if child.tag in _OUTCOMES), None)
    return Case(
        suite=f"{machine}: {found.get('classname', '')}"[:LONGEST_NAME].rstrip(": "),
        name=found.get("name", "")[:LONGEST_NAME],
        outcome=Outcome.PASSED if said is None else _OUTCOMES[said.tag],
        seconds=_seconds(found.get("time", "")),
        message="" if said is None else _message(said),
    )


def _message(said: Element) -> str:
    parts = [said.get("message") or "", (said.text or "").strip()]
    return "\n".join(part for part in parts if part)[:LONGEST_MESSAGE]


def _seconds(text: str) -> float:
    try:
        seconds = float(text.replace(",", ""))
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 1e9 else 0.0
